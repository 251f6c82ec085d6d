"""Operations whose plain form compiles to a slow or inexact program, in a form that does not.

Each equals its plain form up to rounding. Where CPUs and TPUs want different forms, the
function chooses by the platform that it is lowered for. docs/speed.md has the gain of each.

On a CPU, XLA fuses a sum over pixels with what makes its terms, and then walks memory column by
column; `_fence` keeps the two apart. On a TPU such fusions are free, and there are no fences.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

KEPT = "kept"
"""`checkpoint_name` of the results that a recomputed block keeps for its backward pass."""


def silu(h: Array) -> Array:
    """h sigmoid(h), as h (1 + tanh(h / 2)) / 2 in float32: CPUs have a fast tanh."""
    wide = h.astype(jnp.float32)  # 1 + tanh cancels in bfloat16
    return (0.5 * wide * (1 + jnp.tanh(0.5 * wide))).astype(h.dtype)


def sum_pixels(h: Array) -> Array:
    """The sum over pixels in float32: [B, ..., C] to [B, C]."""
    wide = h.astype(jnp.float32)
    return jax.lax.platform_dependent(wide, cpu=_sum_by_rows, default=_sum_at_once)


def _sum_at_once(h: Array) -> Array:
    return jnp.sum(h, axis=tuple(range(1, h.ndim - 1)))


def _sum_by_rows(h: Array) -> Array:
    """First over rows, as vectors of length W C, then over the pixels of one row."""
    if h.ndim < 4:
        return _sum_at_once(h)
    batch, height, *_, channels = h.shape
    row = jax.lax.optimization_barrier(h.reshape(batch, height, -1).sum(axis=1))
    return row.reshape(batch, -1, channels).sum(axis=1)


def moments(h: Array) -> tuple[Array, Array]:
    """The means of h and h^2 over pixels in float32: [B, ..., C] to [B, C] each."""
    wide, count = h.astype(jnp.float32), math.prod(h.shape[1:-1])
    return sum_pixels(wide) / count, sum_pixels(wide**2) / count


def _fence(array: Array) -> Array:
    """The same array, which a CPU computes before anything that uses it."""
    barrier = jax.lax.optimization_barrier
    return jax.lax.platform_dependent(array, cpu=barrier, default=lambda array: array)


@jax.custom_vjp
def fenced(h: Array) -> Array:
    """h; its cotangent is not fused into the sums of the layer that made h."""
    return h


fenced.defvjp(lambda h: (h, None), lambda _, cotangent: (_fence(cotangent),))


@jax.custom_vjp
def affine(h: Array, factor: Array, offset: Array) -> Array:
    """h * factor + offset in float32, with h's dtype; h is [B, ..., C], the others [B, C]."""
    # Without fences both are computed again for every pixel.
    factor, offset = (_spread(_fence(each), h) for each in (factor, offset))
    return (h.astype(jnp.float32) * factor + offset).astype(h.dtype)


def _affine_forward(h: Array, factor: Array, offset: Array) -> tuple[Array, tuple[Array, Array]]:
    return affine(h, factor, offset), (h, factor)


def _affine_backward(kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array, Array]:
    h, factor = kept
    wide = _fence(cotangent).astype(jnp.float32)
    change = (wide * _spread(factor, h)).astype(h.dtype)
    total = sum_pixels if h.ndim > 3 else _sum_tokens
    return change, total(wide * h.astype(jnp.float32)), total(wide)


affine.defvjp(_affine_forward, _affine_backward)


def _sum_tokens(h: Array) -> Array:
    """`sum_pixels` of h [B, L, C]; a TPU rounds the terms to bfloat16, for a fast product."""
    return jax.lax.platform_dependent(h, tpu=_sum_tokens_by_product, default=sum_pixels)


def _sum_tokens_by_product(h: Array) -> Array:
    return product("blc,blk->bkc", h, jnp.ones((*h.shape[:2], 8), h.dtype))[:, 0]


def _spread(vector: Array, h: Array) -> Array:
    """[B, C] as [B, 1, ..., 1, C], with the dimensions of h."""
    return vector.reshape(len(h), *(1,) * (h.ndim - 2), -1)


@jax.custom_vjp
def add_bias(h: Array, bias: Array) -> Array:
    """h + bias in float32, with h's dtype; h is [..., C], bias [C] float32.

    The gradient of the bias is a float32 sum over all examples and pixels: a bfloat16 sum stops
    growing at about 256 times its terms.
    """
    return (h.astype(jnp.float32) + bias.reshape((1,) * (h.ndim - 1) + (-1,))).astype(h.dtype)


def _add_bias_backward(kept: None, cotangent: Array) -> tuple[Array, Array]:
    cotangent = _fence(cotangent)
    return cotangent, sum_rows(cotangent)


add_bias.defvjp(lambda h, bias: (add_bias(h, bias), None), _add_bias_backward)


def sum_rows(h: Array) -> Array:
    """The float32 sum over all but the last dimension: [..., C] to [C]."""
    return jax.lax.platform_dependent(
        h,
        tpu=_sum_by_product,
        default=lambda h: jnp.sum(sum_pixels(h) if h.ndim > 2 else h.astype(jnp.float32), axis=0),
    )


def _sum_by_product(h: Array) -> Array:
    """[..., C] to [C], as a product with ones; XLA turns a single column into a sum again."""
    rows = h.reshape(-1, h.shape[-1])
    return product("nc,nk->kc", rows, jnp.ones((len(rows), 8), h.dtype))[0]


def product(formula: str, *factors: Array) -> Array:
    """einsum with float32 sums and result."""
    return jnp.einsum(formula, *factors, preferred_element_type=jnp.float32)


def halve(h: Array) -> Array:
    """The mean of 2 x 2 pixels: [B, H, W, C] to [B, H/2, W/2, C]."""
    return (_sum_squares(h) / 4).astype(h.dtype)


@jax.custom_vjp
def double(h: Array) -> Array:
    """Nearest-neighbour doubling: [B, H, W, C] to [B, 2H, 2W, C]."""
    return jax.lax.platform_dependent(h, tpu=_sum_of_dilated, default=_repeat)


def _sum_of_dilated(h: Array) -> Array:
    """In one dimension: a, b to 0 a 0 b 0, whose neighbours add up to a a b b."""
    return jax.lax.reduce_window(
        h,
        jnp.zeros((), h.dtype),
        jax.lax.add,
        window_dimensions=(1, 2, 2, 1),
        window_strides=(1, 1, 1, 1),
        padding=[(0, 0), (1, 1), (1, 1), (0, 0)],
        base_dilation=(1, 2, 2, 1),
    )


def _repeat(h: Array) -> Array:
    batch, height, width, channels = h.shape
    doubled = jnp.broadcast_to(h[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return doubled.reshape(batch, 2 * height, 2 * width, channels)


double.defvjp(
    lambda h: (double(h), None),
    lambda _, cotangent: (_sum_squares(cotangent).astype(cotangent.dtype),),
)


def _sum_squares(h: Array) -> Array:
    """The float32 sum of 2 x 2 pixels."""
    square = (1, 2, 2, 1)
    wide = h.astype(jnp.float32)
    return jax.lax.reduce_window(wide, 0.0, jax.lax.add, square, square, "VALID")


def convolve(h: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolution of h [B, H, W, C] with a kernel [k, k, C, F], k odd, k // 2 zeros around h."""
    sides = [(len(kernel) // 2,) * 2] * 2
    return _convolve(h, kernel, stride, padding=sides)


def convolve_doubled(h: Array, kernel: Array) -> Array:
    """convolve(double(h), kernel) for a kernel [3, 3, C, F].

    Neighbours in the doubled image are equal. CPUs and TPUs add their weights first, in float32,
    and make fewer products.
    """
    return jax.lax.platform_dependent(
        h,
        kernel,
        cpu=_convolve_phases,
        tpu=_convolve_dilated,
        default=lambda h, kernel: convolve(double(h), kernel),
    )


def _convolve_phases(h: Array, kernel: Array) -> Array:
    """One convolution of h for each pair of parities of a row and a column.

    With weights (a, b, c), the even row 2r sees rows (r - 1, r) of h with weights (a, b + c), the
    odd row 2r + 1 sees (r, r + 1) with (a + b, c).
    """

    def phase(row: int, column: int) -> Array:
        folded = kernel.astype(jnp.float32)
        for axis, odd in enumerate((row, column)):
            first, middle, last = jnp.split(folded, 3, axis)
            pair = (first + middle, last) if odd else (first, middle + last)
            folded = jnp.concatenate(pair, axis)
        sides = [(1 - row, row), (1 - column, column)]
        return _convolve(h, folded.astype(h.dtype), padding=sides)

    rows = [jnp.stack([phase(row, 0), phase(row, 1)], axis=3) for row in (0, 1)]
    batch, height, width, _ = h.shape
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)


def _convolve_dilated(h: Array, kernel: Array) -> Array:
    """A doubled row is the row with zeros between its pixels, plus the same shifted by one."""
    kernel = kernel.astype(jnp.float32)
    for axis in ((1, 0), (0, 1)):
        before, after = ([(n * first, n * (1 - first)) for n in (*axis, 0, 0)] for first in (1, 0))
        kernel = jnp.pad(kernel, before) + jnp.pad(kernel, after)
    return _convolve(h, kernel.astype(h.dtype), padding=[(2, 2)] * 2, lhs_dilation=(2, 2))


def _convolve(h: Array, kernel: Array, stride: int = 1, **form: Any) -> Array:
    names = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(h, kernel, strides, dimension_numbers=names, **form)
