"""Transformers of Peebles & Xie 2022 and Li & He 2025 in float64 NumPy, on our parameter trees.

Written from the papers, one example and one head at a time; rotations are complex products.
"""

import numpy as np


def silu(h):
    return h / (1 + np.exp(-h))


def gelu(h):
    return 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def linear(p, h):
    return h @ p["kernel"] + p["bias"]


def root_mean_square(h):
    return h / np.sqrt(np.mean(h**2, -1, keepdims=True) + 1e-6)


def norm(p, h):
    """RMS with weights, or LayerNorm without parameters."""
    if p is None:
        return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    return p["scale"] * root_mean_square(h)


def angles(grid, head_width, before):
    """[before + N, d/2]: rows on the first half of the pairs, columns on the second."""
    number = head_width // 4
    found = [np.zeros(head_width // 2)] * before
    for row in range(grid[0]):
        for column in range(grid[1]):
            places = [row] * number + [column] * number
            powers = [10000 ** (-2 * j / (head_width / 2)) for j in range(number)] * 2
            found.append(np.multiply(places, powers))
    return np.array(found)


def rotated(h, turn):
    """Neighbouring features of h [L, d] as complex numbers, times exp(i angle)."""
    product = (h[:, ::2] + 1j * h[:, 1::2]) * np.exp(1j * turn)
    return np.stack([product.real, product.imag], axis=2).reshape(h.shape)


def attention(qkv, heads):
    """Features of qkv [L, 3 D]: q, k and v, in each the heads side by side."""
    by_head = (np.split(h, heads, axis=1) for h in np.split(qkv, 3, axis=1))
    out = [softmax(q @ k.T / np.sqrt(q.shape[1])) @ v for q, k, v in zip(*by_head, strict=True)]
    return np.concatenate(out, axis=1)


def dit_block(p, x, c, heads):
    shift1, scale1, gate1, shift2, scale2, gate2 = np.split(linear(p["modulation"], silu(c)), 6)
    h = linear(p["qkv"], norm(None, x) * (1 + scale1) + shift1)
    x = x + gate1 * linear(p["proj"], attention(h, heads))
    h = gelu(linear(p["mlp_in"], norm(None, x) * (1 + scale2) + shift2))
    return x + gate2 * linear(p["mlp_out"], h)


def embedded_time(p, t):
    """The network's MLP on 128 cosines, then 128 sines, of t."""
    turn = t * 10000.0 ** (-np.arange(128) / 128)
    h = linear(p["Dense_0"], np.concatenate([np.cos(turn), np.sin(turn)]))
    return linear(p["Dense_1"], silu(h))


def position(row, column, width):
    powers = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    parts = [f(place * powers) for place in (column, row) for f in (np.sin, np.cos)]
    return np.concatenate(parts)


def dit(p, z, t, label, side, heads, depth):
    """Output of a DiT for one image z [H, W, C] at the timestep t, by patches of side x side."""
    rows, columns = z.shape[0] // side, z.shape[1] // side
    places = [(row, column) for row in range(rows) for column in range(columns)]
    squares = [
        z[row * side : (row + 1) * side, column * side : (column + 1) * side].ravel()
        for row, column in places
    ]
    width = p["embed"]["bias"].size
    x = linear(p["embed"], np.array(squares))
    x = x + np.array([position(*place, width) for place in places])
    c = embedded_time(p["time_embedding"], t) + p["label_embedding"]["embedding"][label]
    for i in range(depth):
        x = dit_block(sliced(p["blocks"], i), x, c, heads)
    shift, scale = np.split(linear(p["modulation_out"], silu(c)), 2)
    out = linear(p["out"], norm(None, x) * (1 + scale) + shift)
    image = np.zeros((*z.shape[:2], out.shape[1] // side**2))
    for (row, column), token in zip(places, out, strict=True):
        part = token.reshape(side, side, -1)
        image[row * side : (row + 1) * side, column * side : (column + 1) * side] = part
    return image


def sliced(tree, i):
    """Block i of parameters with a leading axis of blocks."""
    return {
        name: sliced(leaf, i) if isinstance(leaf, dict) else leaf[i] for name, leaf in tree.items()
    }
