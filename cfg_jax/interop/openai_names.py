"""Which entry of a guided-diffusion state dict is which parameter of cfg_jax.models?

One walk over the architecture pairs every entry (theirs) with a parameter (ours):

    theirs [out, in, ...] = ours [..., in, out]   kernels, and the positions of the pooling
    theirs = ours                                 everything else

Their blocks are numbered in the order of the forward pass, `input_blocks.N`, `output_blocks.N`;
ours are named by level. The walk visits all possible layers; absent ones drop out.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

# {form of layer: {our leaf: their leaf}}
_LEAVES = {
    "conv": {"kernel": "weight", "bias": "bias"},
    "conv1d": {"kernel": "weight", "bias": "bias"},
    "linear": {"kernel": "weight", "bias": "bias"},
    "norm": {"scale": "weight", "bias": "bias"},
    "embedding": {"embedding": "weight"},
    "pool": {"position": "positional_embedding"},
}
_TRANSPOSED = ("kernel", "position")

_Layer = tuple[str, str, str]  # our path, their prefix, form


class Entry(NamedTuple):
    """Shape of an entry; path, such as "down_0_1/conv_in/kernel", and shape of the parameter."""

    path: str
    shape: tuple[int, ...]
    our_shape: tuple[int, ...]

    def to_ours(self, value: np.ndarray) -> np.ndarray:
        """The parameter as a copy, float32 `our_shape`."""
        if self.path.endswith(_TRANSPOSED):
            value = np.moveaxis(value, (0, 1), (-1, -2))
        return np.array(value.reshape(self.our_shape), np.float32, order="C")


def entries(params: Any, num_levels: int, num_blocks: int) -> dict[str, Entry]:
    """{key: entry} of the state dict of a cfg_jax network, in guided-diffusion's order.

    `params` is the parameter tree, of arrays or shapes, of a network with `num_levels` resolutions
    and `num_blocks` residual blocks at each of them.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}
    found = {}
    for ours, theirs, form in _layers(set(params), num_levels, num_blocks):
        for leaf, name in _LEAVES[form].items():
            path = f"{ours}/{leaf}"
            if path in shapes:
                shape = _their_shape(shapes[path], leaf, form)
                found[f"{theirs}.{name}"] = Entry(path, shape, shapes[path])
    return found


def _their_shape(shape: tuple[int, ...], leaf: str, form: str) -> tuple[int, ...]:
    if leaf not in _TRANSPOSED:
        return shape
    *window, inputs, outputs = shape
    return (outputs, inputs, *window, *([1] if form == "conv1d" else []))


def _layers(modules: set[str], num_levels: int, num_blocks: int) -> Iterator[_Layer]:
    """All possible layers; `modules` are the names of the present ones."""
    yield "logsnr_embedding/Dense_0", "time_embed.0", "linear"
    yield "logsnr_embedding/Dense_1", "time_embed.2", "linear"
    yield "label_embedding", "label_emb", "embedding"
    yield "conv_in", "input_blocks.0.0", "conv"
    number = itertools.count(1)
    for level in range(num_levels):
        for i in range(num_blocks):
            block = f"input_blocks.{next(number)}"
            yield from _block(f"down_{level}_{i}", f"{block}.0")
            yield from _attention(f"down_{level}_{i}_attention", f"{block}.1")
        yield from _resampling(f"down_{level}", f"input_blocks.{next(number)}.0", "op")
    yield from _block("middle_0", "middle_block.0")
    yield from _attention("middle_attention", "middle_block.1")
    yield from _block("middle_1", "middle_block.2")
    number = itertools.count(0)
    for level in reversed(range(num_levels)):
        for i in range(num_blocks + 1):
            block = f"output_blocks.{next(number)}"
            yield from _block(f"up_{level}_{i}", f"{block}.0")
            yield from _attention(f"up_{level}_{i}_attention", f"{block}.1")
        place = 2 if f"up_{level}_{num_blocks}_attention" in modules else 1
        yield from _resampling(f"up_{level}", f"{block}.{place}", "conv")
    yield "norm_out", "out.0", "norm"
    yield "conv_out", "out.2", "conv"
    yield "pool", "out.2", "pool"
    yield "pool/qkv", "out.2.qkv_proj", "conv1d"
    yield "pool/proj", "out.2.c_proj", "conv1d"


def _block(ours: str, theirs: str) -> Iterator[_Layer]:
    yield f"{ours}/norm_in", f"{theirs}.in_layers.0", "norm"
    yield f"{ours}/conv_in", f"{theirs}.in_layers.2", "conv"
    yield f"{ours}/emb", f"{theirs}.emb_layers.1", "linear"
    yield f"{ours}/norm_out", f"{theirs}.out_layers.0", "norm"
    yield f"{ours}/conv_out", f"{theirs}.out_layers.3", "conv"
    yield f"{ours}/conv_skip", f"{theirs}.skip_connection", "conv"


def _attention(ours: str, theirs: str) -> Iterator[_Layer]:
    yield f"{ours}/norm", f"{theirs}.norm", "norm"
    yield f"{ours}/qkv", f"{theirs}.qkv", "conv1d"
    yield f"{ours}/proj", f"{theirs}.proj_out", "conv1d"


def _resampling(ours: str, theirs: str, conv: str) -> Iterator[_Layer]:
    """A residual block and a single convolution; a network has one of the two."""
    yield from _block(ours, theirs)
    yield f"{ours}/conv", f"{theirs}.{conv}", "conv"
