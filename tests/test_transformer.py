"""Transformers on patches: against float64 NumPy, and one layout or program against another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.models import Transformer, positions, tokens
from tests import transformer_numpy as plain
from tests.tiny import randomised

SIDE, CHANNELS, LABELS = 8, 3, 4
SMALL = {
    "out_channels": CHANNELS,
    "num_classes": LABELS,
    "patch": 4,
    "depth": 4,
    "width": 24,
    "heads": 3,
    "bottleneck": 5,
    "in_context_tokens": 2,
    "in_context_start": 1,
    "noise_input": "time",
}
DIT = {
    "mlp": "gelu",
    "norm": "layer",
    "bottleneck": 0,
    "rotary": False,
    "in_context_tokens": 0,
    "noise_input": "timestep",
}
rng = np.random.default_rng(0)
Z = jnp.asarray(rng.standard_normal((3, SIDE, SIDE, CHANNELS)), jnp.float32)
T = jnp.array([0.1, 0.5, 0.9])
Y = jnp.array([0, 2, LABELS])


def small(**changes):
    return Transformer(**SMALL | changes)


@functools.cache
def drawn(net):
    """Parameters without zeros but for the padding."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), Z, T, Y)["params"]
    params = randomised(shapes)
    params["position"] = jnp.asarray(positions.position_table(2, 2, net.width))
    hidden = tokens.mlp_width(net.width, net.mlp)
    used = np.arange(tokens.padded(hidden)) < hidden
    for name in {"blocks", "blocks_in_context"} & set(params):
        into, out = params[name]["mlp_in"], params[name]["mlp_out"]
        for leaf in into:
            both = np.tile(used, into[leaf].shape[-1] // used.size)
            into[leaf] = jnp.where(jnp.broadcast_to(both, into[leaf].shape), into[leaf], 0)
        out["kernel"] = jnp.where(jnp.asarray(used)[None, :, None], out["kernel"], 0)
    return params


@functools.partial(jax.jit, static_argnums=0)
def apply(net, params, z, t, y, keys=None):
    return net.apply({"params": params}, z, t, y, keys)


def test_the_settings_of_a_dit_give_a_dit():
    net = Transformer(
        **SMALL | DIT | {"out_channels": 2 * CHANNELS, "width": 32, "heads": 4, "depth": 2}
    )
    params = drawn(net)
    timestep = jnp.array([0.0, 400.0, 999.0])
    out = apply(net, params, Z, timestep, Y)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for i in range(3):
        expected = plain.dit(exact, np.float64(Z[i]), float(timestep[i]), int(Y[i]), 4, 4, 2)
        np.testing.assert_allclose(out[i], expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_rotated_halves_give_the_scores_of_rotated_neighbours():
    heads, head_width, before, grid = 3, 12, 2, (2, 3)
    length = before + grid[0] * grid[1]
    q, k = rng.standard_normal((2, length, heads * head_width))
    weights = rng.standard_normal((2, head_width))
    turn = plain.angles(grid, head_width, before)
    order = positions.pair_order(heads, head_width)
    layer = tokens.HeadNorm(heads, jnp.dtype("float32"))
    tables = positions.rotations(*grid, head_width, before)
    halves = []
    for h, weight in ((q, weights[0]), (k, weights[1])):
        params = {"scale": weight[positions.pair_order(1, head_width)].astype(np.float32)}
        x, y = layer.apply({"params": params}, jnp.asarray(h[None, :, order], jnp.float32), *tables)
        halves.append([half[0].reshape(length, heads, -1) for half in (x, y)])
    found = sum(np.einsum("qhd,khd->hqk", a, b) for a, b in zip(*halves, strict=True))
    for i in range(heads):
        own = slice(i * head_width, (i + 1) * head_width)
        turned = [
            plain.rotated(weight * plain.root_mean_square(h[:, own]), turn)
            for h, weight in ((q, weights[0]), (k, weights[1]))
        ]
        np.testing.assert_allclose(found[i], turned[0] @ turned[1].T, rtol=0, atol=2e-5)


def test_a_rotated_product_depends_on_the_difference_of_places_alone():
    cosines, sines = positions.rotations(4, 4, 8, 0)
    turn = cosines + 1j * sines
    relative = turn[:, None] * turn[None].conj()
    np.testing.assert_allclose(relative[0, 5], relative[10, 15], atol=1e-6)
    assert np.abs(relative[0, 5] - relative[0, 4]).max() > 0.1


def test_the_scans_are_the_blocks_one_after_the_other():
    net = small()
    params = drawn(net)
    p = jax.tree.map(np.asarray, params)
    table = p["label_embedding"]["embedding"]
    time = tokens.TimeEmbedding(24).apply({"params": p["time_embedding"]}, T)
    label = jnp.asarray(table)[Y]
    h = tokens.to_patches(Z, 4) @ p["bottleneck"] @ p["embed"]["kernel"]
    x = h + (p["embed"]["bias"] + p["position"])[None]
    condition = jax.nn.silu(time + label)
    form = 3, "swiglu", "rms"
    blocks = [
        jax.jit(tokens.Block(*form, (2, 2, before), 0.0, jnp.dtype("float32")).apply)
        for before in (0, 2)
    ]
    for i in range(4):
        if i == 1:
            x = jnp.concatenate([p["in_context"][None] + label[:, None], x], axis=1)
        own = plain.sliced(p["blocks_in_context"], i - 1) if i else plain.sliced(p["blocks"], 0)
        x, _ = blocks[i > 0]({"params": own}, x, i, False, condition, None)
    modulation = condition @ p["modulation_out"]["kernel"] + p["modulation_out"]["bias"][None]
    shift, scale = jnp.split(modulation[:, None], 2, axis=2)
    normed = plain.norm(p["norm_out"], np.asarray(x[:, 2:], np.float64)) * (1 + scale) + shift
    out = tokens.from_patches(normed @ p["out"]["kernel"] + p["out"]["bias"][None, None], 2, 2, 4)
    np.testing.assert_allclose(apply(net, params, Z, T, Y), out, rtol=0, atol=2e-4)


def test_a_program_does_not_grow_with_the_depth():
    def length(depth):
        net = small(depth=depth)
        params = jax.eval_shape(net.init, jax.random.key(0), Z, T, Y)
        return str(jax.make_jaxpr(net.apply)(params, Z, T, Y)).count("\n")

    assert length(24) == length(6)


def test_padding_changes_neither_the_output_nor_another_gradient(monkeypatch):
    net = small(in_context_tokens=0)
    params = drawn(net)

    def total(params):
        return jnp.sum(jnp.sin(net.apply({"params": params}, Z, T, Y)))

    value, grads = jax.jit(jax.value_and_grad(total))(params)

    def without_padding(tree):
        tree = jax.tree.map(np.asarray, tree)
        into, out = tree["blocks"]["mlp_in"], tree["blocks"]["mlp_out"]
        for leaf in into:
            parts = np.split(into[leaf], 2, axis=-1)
            into[leaf] = np.concatenate([part[..., :64] for part in parts], axis=-1)
        out["kernel"] = out["kernel"][:, :64]
        return tree

    assert params["blocks"]["mlp_out"]["kernel"].shape == (4, 128, 24)  # 64 features and as many 0
    into, out = grads["blocks"]["mlp_in"], grads["blocks"]["mlp_out"]
    assert not np.any(into["kernel"].reshape(-1, 24, 2, 128)[..., 64:])
    assert not np.any(into["bias"].reshape(-1, 2, 128)[..., 64:])
    assert not np.any(out["kernel"][:, 64:]) and np.all(out["kernel"][:, :64])
    monkeypatch.setattr(tokens, "MULTIPLE", 1)
    own, own_grads = jax.jit(jax.value_and_grad(lambda p: total(p)))(without_padding(params))
    np.testing.assert_allclose(own, value, rtol=1e-5)
    for ours, theirs in zip(
        jax.tree.leaves(without_padding(grads)), jax.tree.leaves(own_grads), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * max(1, np.abs(theirs).max()))


def test_the_table_of_positions_has_no_gradient_and_remat_changes_none():
    def grads(net):
        def total(params):
            return jnp.sum(jnp.sin(net.apply({"params": params}, Z, T, Y, keys)))

        keys = jax.random.split(jax.random.key(1), 3)
        return jax.jit(jax.grad(total))(drawn(small(in_context_tokens=0)))

    plain_grads, again = (
        grads(small(dropout=0.5, in_context_tokens=0, remat=remat)) for remat in (False, True)
    )
    assert not plain_grads["position"].any() and plain_grads["embed"]["bias"].all()
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(plain_grads), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))


def test_dropout_of_an_example_depends_on_its_key_alone():
    net = small(dropout=0.5)
    params, keys = drawn(net), jax.random.split(jax.random.key(3), 3)
    together = apply(net, params, Z, T, Y, keys)
    order = jnp.array([2, 0, 1])
    mixed = apply(net, params, Z[order], T[order], Y[order], keys[order])
    np.testing.assert_allclose(mixed, together[order], rtol=0, atol=1e-4)
    without = apply(net, params, Z, T, Y)
    other = apply(net, params, Z, T, Y, keys[order])
    assert np.abs(together - without).max() > 0.1 and np.abs(together - other).max() > 0.1
    np.testing.assert_array_equal(apply(small(), params, Z, T, Y, keys), without)


def test_only_the_middle_half_of_the_blocks_drops_and_each_differently():
    form = (3, "swiglu", "rms", (2, 2, 0), 0.5, jnp.dtype("float32"))
    block = tokens.Block(*form)
    own = plain.sliced(jax.tree.map(np.asarray, drawn(small())["blocks"]), 0)
    x = jnp.asarray(rng.standard_normal((3, 4, 24)), jnp.float32)
    condition = jnp.ones((3, 24))
    keys = jax.random.split(jax.random.key(0), 3)

    @jax.jit
    def out(number, dropping, keys):
        return block.apply({"params": own}, x, number, dropping, condition, keys)[0]

    without = out(1, False, None)
    np.testing.assert_allclose(out(1, False, keys), without, rtol=1e-6)
    first, second = out(1, True, keys), out(2, True, keys)
    assert np.abs(first - without).max() > 0.1 and np.abs(first - second).max() > 0.1
    dropping = []

    def record(self, x, number, drops, *rest):
        dropping.append((number, drops))
        return x, None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens.Block, "__call__", record)
        net = small(depth=11, in_context_start=3, dropout=0.5)
        jaxpr = jax.make_jaxpr(net.init)(jax.random.key(0), Z, T, Y)
    drops = [np.asarray(c) for c in jaxpr.consts if np.asarray(c).dtype == bool]
    assert np.concatenate(drops).tolist() == [i in (2, 3, 4, 5) for i in range(11)]


def test_patches_are_rows_of_squares_with_the_channel_innermost():
    z = jnp.asarray(rng.standard_normal((2, 4, 6, 3)), jnp.float32)
    h = tokens.to_patches(z, 2)
    assert h.shape == (2, 6, 12)
    np.testing.assert_array_equal(h[1, 5], z[1, 2:, 4:].ravel())
    np.testing.assert_array_equal(h[0, 1], z[0, :2, 2:4].ravel())
    np.testing.assert_array_equal(tokens.from_patches(h, 2, 3, 2), z)


def test_a_fresh_network_gives_zero_and_has_the_published_spread():
    net = small(width=96, heads=3, depth=2, in_context_start=1)
    params = jax.jit(net.init)(jax.random.key(0), Z, T, Y)["params"]
    assert not params["out"]["kernel"].any() and not params["out"]["bias"].any()
    block = params["blocks_in_context"]
    for name in ("modulation", "qkv", "proj", "mlp_in", "mlp_out"):
        assert not block[name]["bias"].any()
    assert not block["modulation"]["kernel"].any()
    for kernel, bound in [
        (block["qkv"]["kernel"], np.sqrt(6 / (96 + 288))),
        (block["proj"]["kernel"], np.sqrt(6 / (96 + 96))),
        (block["mlp_in"]["kernel"], np.sqrt(6 / (96 + 512))),
        (block["mlp_out"]["kernel"], np.sqrt(6 / (96 + 256))),
        (params["bottleneck"], np.sqrt(6 / (48 + 5))),
        (params["embed"]["kernel"], np.sqrt(6 / (5 + 96))),
    ]:
        assert 0.95 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(np.std(kernel), bound / np.sqrt(3), rtol=0.1)
    for spread in (
        params["time_embedding"]["Dense_0"]["kernel"],
        params["label_embedding"]["embedding"],
        params["in_context"],
    ):
        np.testing.assert_allclose(np.std(spread), 0.02, rtol=0.15)


def test_bfloat16_products_stay_near_float32_and_the_output_is_float32():
    exact = apply(small(), drawn(small()), Z, T, Y)
    rough = apply(small(dtype="bfloat16"), drawn(small()), Z, T, Y)
    assert exact.dtype == rough.dtype == jnp.float32
    error = np.abs(rough - exact).max() / np.abs(exact).max()
    assert 1e-4 < error < 0.1


def test_an_unknown_label_gives_nan_and_no_label_input_needs_none():
    labels = jnp.array([LABELS, LABELS + 1, -1])
    unknown = np.isnan(apply(small(), drawn(small()), Z, T, labels)).all(axis=(1, 2, 3))
    assert unknown.tolist() == [False, True, True]
    net = small(num_classes=0)
    params = drawn(net)
    assert "label_embedding" not in params
    np.testing.assert_array_equal(apply(net, params, Z, T, None), apply(net, params, Z, T, labels))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mlp": "relu"}, "mlp='relu': choose one of"),
        ({"norm": "group"}, "norm='group': choose one of"),
        ({"noise_input": "sigma"}, "noise_input='sigma': choose one of"),
        ({"patch": 3}, "H and W multiples of 3; change patch"),
        ({"heads": 5}, "width=24: need a multiple of 4 and, with 5 heads .* of 20"),
        ({"heads": 4}, "width=24: .* of 16"),
        ({"in_context_start": 4}, r"in_context_start=4: need 0\.\.3"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(small(**changes).init, jax.random.key(0), Z, T, Y)


def test_missing_labels_are_refused():
    with pytest.raises(ValueError, match="labels are missing: this network of 5 labels"):
        jax.eval_shape(small().init, jax.random.key(0), Z, T)
