"""Layers of the FID Inception network.

    y = relu(scale * (kernel * x) + shift)      every convolution, its batch norm folded in

`STEM` and `BLOCKS` describe the network as data: a block concatenates the channels of its branches,
a branch is a sequence of steps. `walk` traverses them with feature maps or with channel counts.
Names and order match the state dict of pytorch-fid and torch-fidelity.

Sources: Szegedy et al. 2015 (arXiv 1512.00567), figures 5 to 7; TensorFlow's release of 2015-12-05.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

NUM_CLASSES = 1008


class Conv(NamedTuple):
    """A convolution, its batch norm and a ReLU; stride 2 has no padding."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


# 3 x 3 pools: mean without the padding, maximum, maximum with stride 2.
MEAN, MAX, HALVE = "mean", "max", "halve"
Branch = tuple[Any, ...]  # steps: a Conv, a pool, or a tuple of Convs side by side


def _halving(name: str, channels: int) -> Conv:
    return Conv(name, channels, (3, 3), 2, "VALID")


def _chain(name: str, *convs: tuple[int, int, int]) -> Branch:
    """Successive convolutions (channels, height, width), named <name>_1, <name>_2, ..."""
    return tuple(Conv(f"{name}_{i}", c, (h, w)) for i, (c, h, w) in enumerate(convs, start=1))


def _block_35(pool_channels: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 64),),
        _chain("branch5x5", (48, 1, 1), (64, 5, 5)),
        _chain("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        (MEAN, Conv("branch_pool", pool_channels)),
    )


def _block_17(inner: int) -> tuple[Branch, ...]:
    row, column = (inner, 1, 7), (inner, 7, 1)
    return (
        (Conv("branch1x1", 192),),
        _chain("branch7x7", (inner, 1, 1), row, (192, 7, 1)),
        _chain("branch7x7dbl", (inner, 1, 1), column, row, column, (192, 1, 7)),
        (MEAN, Conv("branch_pool", 192)),
    )


def _block_8(pool: str) -> tuple[Branch, ...]:
    def beside(name: str) -> Branch:
        return Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1))

    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), beside("branch3x3_2")),
        (*_chain("branch3x3dbl", (448, 1, 1), (384, 3, 3)), beside("branch3x3dbl_3")),
        (pool, Conv("branch_pool", 192)),
    )


STEM: Branch = (
    _halving("Conv2d_1a_3x3", 32),
    Conv("Conv2d_2a_3x3", 32, (3, 3), padding="VALID"),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    HALVE,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), padding="VALID"),
    HALVE,
)
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _block_35(32),
    "Mixed_5c": _block_35(64),
    "Mixed_5d": _block_35(64),
    "Mixed_6a": (
        (_halving("branch3x3", 384),),
        (*_chain("branch3x3dbl", (64, 1, 1), (96, 3, 3)), _halving("branch3x3dbl_3", 96)),
        (HALVE,),
    ),
    "Mixed_6b": _block_17(128),
    "Mixed_6c": _block_17(160),
    "Mixed_6d": _block_17(160),
    "Mixed_6e": _block_17(192),
    "Mixed_7a": (
        (Conv("branch3x3_1", 192), _halving("branch3x3_2", 320)),
        (
            *_chain("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1)),
            _halving("branch7x7x3_4", 192),
        ),
        (HALVE,),
    ),
    "Mixed_7b": _block_8(MEAN),
    "Mixed_7c": _block_8(MAX),
}


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of each array of the state dict; kernels are [out, in, h, w]."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(in_channels: int, name: str, conv: Conv) -> int:
        shapes[f"{name}.conv.weight"] = (conv.channels, in_channels, *conv.kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = (conv.channels,)
        return conv.channels

    channels = walk(3, note, lambda channels, kind: channels, sum)
    shapes["fc.weight"] = (NUM_CLASSES, channels)
    shapes["fc.bias"] = (NUM_CLASSES,)
    return shapes


def walk(x: Any, convolve: Callable, pool: Callable, join: Callable) -> Any:
    """Passes x through the stem and every block; the three functions define the type of x.

    convolve: (x, name in the state dict, Conv) -> x; pool: (x, MEAN, MAX or HALVE) -> x;
    join: list of x -> x, which concatenates channels.
    """

    def branch(x: Any, prefix: str, steps: Branch) -> Any:
        for step in steps:
            if isinstance(step, Conv):
                x = convolve(x, prefix + step.name, step)
            elif isinstance(step, str):
                x = pool(x, step)
            else:
                x = join([convolve(x, prefix + conv.name, conv) for conv in step])
        return x

    x = branch(x, "", STEM)
    for block, branches in BLOCKS.items():
        x = join([branch(x, f"{block}.", steps) for steps in branches])
    return x


def convolve(x: jax.Array, weights: Mapping[str, jax.Array], conv: Conv) -> jax.Array:
    """relu(scale * (kernel * x) + shift), x [N, H, W, C] -> [N, H, W, channels].

    `weights` holds `kernel` [h, w, C, channels], `scale` and `shift` [channels].
    """
    y = lax.conv_general_dilated(
        x,
        weights["kernel"],
        (conv.stride, conv.stride),
        conv.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        # The default on TPUs and recent GPUs rounds to 8 or 10 bits, which changes FID.
        precision=lax.Precision.HIGHEST,
    )
    return jax.nn.relu(y * weights["scale"][None, None, None] + weights["shift"][None, None, None])


def pool(x: jax.Array, kind: str) -> jax.Array:
    """3 x 3 mean or maximum pool of x [N, H, W, C], excluding the padding."""
    window = (1, 3, 3, 1)
    if kind == MEAN:
        total = lax.reduce_window(x, 0.0, lax.add, window, (1, 1, 1, 1), "SAME")
        rows, columns = (np.convolve(np.ones(size), np.ones(3), "same") for size in x.shape[1:3])
        return total / np.outer(rows, columns).astype(np.float32)[None, :, :, None]
    strides, padding = ((1, 2, 2, 1), "VALID") if kind == HALVE else ((1, 1, 1, 1), "SAME")
    return lax.reduce_window(x, -np.inf, lax.max, window, strides, padding)
