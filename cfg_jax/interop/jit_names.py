"""Which entry of a JiT state dict is which parameter of `Transformer`?

Every entry has one place in a parameter; a parameter of all blocks [blocks, ...] takes one entry
from each of them. With D width, P patch, M the MLP's hidden features and P M their padding:

    theirs [out, in] = ours [in, out]              Linear; a convolution of 1 x 1 likewise
    theirs [out, C, P, P] = ours [P * P * C, out]  the convolution on patches
    theirs [1, N, D] = ours [N, D]                 positions of patches and in-context tokens

The features of q and k are put in the order of `pair_order`, and zeros are put behind the M hidden
features. Both change only the order and the number of terms of sums.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cfg_jax.models import Transformer
from cfg_jax.models.positions import pair_order
from cfg_jax.models.tokens import mlp_width, padded

Shape = tuple[int, ...]


class Entry(NamedTuple):
    """Shape of an entry, and its place in the parameters.

    path: name of the parameter, such as "blocks/proj/kernel".
    block: place in the parameter's first axis; None for a parameter outside of the blocks.
    convert: the entry to its form here.
    """

    shape: Shape
    path: str
    block: int | None
    convert: Callable[[np.ndarray], np.ndarray]


class _Form(NamedTuple):
    """Shape and value of an entry, from those of the parameter and of the entry."""

    shape: Callable[[Shape], Shape]
    convert: Callable[[np.ndarray], np.ndarray]


_OUTER = {
    "pos_embed": ("position", "table"),
    "in_context_posemb": ("in_context", "table"),
    "t_embedder.mlp.0": ("time_embedding/Dense_0", "linear"),
    "t_embedder.mlp.2": ("time_embedding/Dense_1", "linear"),
    "y_embedder.embedding_table.weight": ("label_embedding/embedding", "same"),
    "x_embedder.proj1.weight": ("bottleneck", "patches"),
    "x_embedder.proj2": ("embed", "pixels"),
}
_BLOCK = {
    "norm1.weight": ("norm_attention/scale", "same"),
    "attn.q_norm.weight": ("norm_q/scale", "head"),
    "attn.k_norm.weight": ("norm_k/scale", "head"),
    "attn.qkv": ("qkv", "qkv"),
    "attn.proj": ("proj", "linear"),
    "norm2.weight": ("norm_mlp/scale", "same"),
    "mlp.w12": ("mlp_in", "hidden_out"),
    "mlp.w3.weight": ("mlp_out/kernel", "hidden_in"),
    "mlp.w3.bias": ("mlp_out/bias", "same"),
    "adaLN_modulation.1": ("modulation", "linear"),
}
_FINAL = {
    "final_layer.norm_final.weight": ("norm_out/scale", "same"),
    "final_layer.linear": ("out", "linear"),
    "final_layer.adaLN_modulation.1": ("modulation_out", "linear"),
}
# An entry without .weight or .bias stands for both.


def entries(network: Transformer, params: Any) -> dict[str, Entry]:
    """{key: entry} of the state dict of a network, in the original's order.

    `params` is its parameter tree, of arrays or shapes.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten_dict(params, sep="/").items()}
    forms = _forms(network)
    found = {}
    for key, path, block, form in _leaves(network):
        if path in shapes:
            shape = shapes[path] if block is None else shapes[path][1:]
            found[key] = Entry(forms[form].shape(shape), path, block, forms[form].convert)
    return found


def parameters(network: Transformer, params: Any, state_dict: Any) -> Any:
    """The parameter tree, float32, of a state dict with the keys of `entries`."""
    ours = {
        path: np.empty(leaf.shape, np.float32)
        for path, leaf in flatten_dict(params, sep="/").items()
    }
    for key, entry in entries(network, params).items():
        place = ... if entry.block is None else entry.block
        ours[entry.path][place] = entry.convert(np.asarray(state_dict[key]))
    return unflatten_dict(ours, sep="/")


def _leaves(network: Transformer) -> Iterator[tuple[str, str, int | None, str]]:
    """(key, path, block, form) of every entry."""
    for key, path, form in _both(_OUTER):
        yield key, path, None, form
    start = network.in_context_start if network.in_context_tokens else network.depth
    for i in range(network.depth):
        scan, block = ("blocks", i) if i < start else ("blocks_in_context", i - start)
        for key, path, form in _both(_BLOCK):
            yield f"blocks.{i}.{key}", f"{scan}/{path}", block, form
    for key, path, form in _both(_FINAL):
        yield key, path, None, form


def _both(table: dict[str, tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """(key, path, form), with weight and bias of a layer that has both."""
    for key, (path, form) in table.items():
        if key.endswith((".weight", ".bias", "embed", "posemb")):
            yield key, path, form
        else:
            yield f"{key}.weight", f"{path}/kernel", form
            yield f"{key}.bias", f"{path}/bias", "same" if form in ("linear", "pixels") else form


def _forms(network: Transformer) -> dict[str, _Form]:
    """The forms of entries for the sizes of a network."""
    side, heads, head_width = network.patch, network.heads, network.width // network.heads
    hidden = mlp_width(network.width, network.mlp)
    margin = padded(hidden) - hidden
    groups = 1 + (network.mlp == "swiglu")
    pairs = pair_order(1, head_width)
    q = pair_order(heads, head_width)
    order = np.concatenate([q, q + network.width, np.arange(2 * network.width, 3 * network.width)])

    def to_hidden(value: np.ndarray) -> np.ndarray:
        split = value.reshape(groups, hidden, -1)
        wide = np.pad(split, ((0, 0), (0, margin), (0, 0)))
        return wide.reshape(groups * (hidden + margin), *value.shape[1:]).T

    return {
        "same": _Form(lambda ours: ours, lambda value: value),
        "linear": _Form(lambda ours: ours[::-1], np.transpose),
        "table": _Form(lambda ours: (1, *ours), lambda value: value[0]),
        "pixels": _Form(lambda ours: (*ours[::-1], 1, 1), lambda value: value[:, :, 0, 0].T),
        "patches": _Form(
            lambda ours: (ours[1], ours[0] // side**2, side, side),
            lambda value: value.transpose(2, 3, 1, 0).reshape(-1, len(value)),
        ),
        "head": _Form(lambda ours: ours, lambda value: value[pairs]),
        "qkv": _Form(lambda ours: ours[::-1], lambda value: value[order].T),
        "hidden_out": _Form(lambda ours: (groups * hidden, *ours[:-1]), to_hidden),
        "hidden_in": _Form(
            lambda ours: (ours[1], hidden),
            lambda value: np.pad(value, ((0, 0), (0, margin))).T,
        ),
    }
