"""Arrays divided into one part per device, elementwise work on the parts, and the way back.

    [..., C] -> rows [R, C] -> [D, ceil(R / D), C], the last rows padded with zeros; [R] likewise

The last axis stays whole, so the rows keep the memory layout of a TPU. `split` and `join` take
NumPy arrays as well; the other functions run inside a pmap, on device d of D with part d.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cfg_jax.core.types import Array


def split(array: Any, count: int) -> Any:
    """The parts [count, r, C] of an array [..., C], or [count, r] of [R]."""
    rows = array.reshape(-1, *array.shape[1:][-1:])
    xp = np if isinstance(array, np.ndarray) else jnp
    padding = [(0, -len(rows) % count)] + [(0, 0)] * (rows.ndim - 1)
    return xp.pad(rows, padding).reshape(count, -1, *rows.shape[1:])


def join(parts: Any, like: Any) -> Any:
    """The array of the shape of `like` from all its parts; inverse of `split`."""
    rows = parts.reshape(-1, *parts.shape[2:])
    return rows[: math.prod(like.shape) // math.prod(rows.shape[1:])].reshape(like.shape)


def own(tree: Any, axis_name: str) -> Any:
    """This device's part of every array of a replicated tree."""
    index = jax.lax.axis_index(axis_name)

    def part(array: Array) -> Array:
        parts = split(array, jax.lax.axis_size(axis_name))
        return jax.lax.dynamic_index_in_dim(parts, index, keepdims=False)

    return jax.tree.map(part, tree)


def scattered_mean(tree: Any, axis_name: str) -> Any:
    """This device's part of the mean over devices, by a reduce-scatter."""
    count = jax.lax.axis_size(axis_name)
    return jax.tree.map(
        lambda array: jax.lax.psum_scatter(split(array, count), axis_name) / count, tree
    )


def gathered(tree: Any, like: Any, axis_name: str) -> Any:
    """The arrays of the shapes of `like` from the parts of all devices, by an all-gather."""
    return jax.tree.map(
        lambda part, whole: join(jax.lax.all_gather(part, axis_name), whole), tree, like
    )


def norm(tree: Any, axis_name: str) -> Array:
    """The norm [] of all arrays, from the parts of all devices; padding adds nothing."""
    return jnp.sqrt(jax.lax.psum(optax.tree.norm(tree, squared=True), axis_name))
