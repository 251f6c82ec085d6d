"""Products of tokens with kernels, in forms that XLA compiles to fast programs for a TPU.

Each equals its plain form up to rounding.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from cfg_jax.models import ops

Array = jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def rounded(kernel: Array, dtype: jnp.dtype) -> Array:
    """The float32 kernel in `dtype`; its gradient is the cotangent converted to float32.

    XLA moves a plain conversion of a slice out of a scan, where it converts all stacked kernels and
    stores them. It leaves `reduce_precision` in the scan, and fuses it into the product.
    """
    if kernel.dtype == dtype:
        return kernel
    bits = jnp.finfo(dtype)
    return jax.lax.reduce_precision(kernel, int(bits.nexp), int(bits.nmant)).astype(dtype)


rounded.defvjp(
    lambda kernel, dtype: (rounded(kernel, dtype), None),
    lambda dtype, _, cotangent: (cotangent.astype(jnp.float32),),
)


@jax.custom_vjp
def swiglu(x: Array, kernel: Array, bias: Array) -> Array:
    """silu(u) g with (u, g) = x kernel + bias: x [B, L, D], kernel [D, 2M] to [B, L, M].

    Products are in x's dtype; the kernel, the bias [2M] and sums with it are float32. A TPU never
    stores the gradients of u and g: each product of the backward pass forms the ones that it needs.
    When differentiated, it computes u and g by two products: that pass then reads whole arrays, and
    no slices of one.
    """
    u, g = _one_product(x, kernel, bias)
    return ops.silu(u) * g


def _swiglu_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    u, g = jax.lax.platform_dependent(x, kernel, bias, tpu=_two_products, default=_one_product)
    u, g = checkpoint_name(u, ops.KEPT), checkpoint_name(g, ops.KEPT)
    return ops.silu(u) * g, (x, kernel, u, g)


def _one_product(x: Array, kernel: Array, bias: Array) -> tuple[Array, Array]:
    u, g = jnp.split(ops.add_bias(x @ rounded(kernel, x.dtype), bias), 2, axis=-1)
    return u, g


def _two_products(x: Array, kernel: Array, bias: Array) -> tuple[Array, Array]:
    halves = zip(jnp.split(kernel, 2, axis=1), jnp.split(bias, 2), strict=True)
    u, g = (ops.add_bias(x @ rounded(half, x.dtype), offset) for half, offset in halves)
    return u, g


def _slopes(u: Array, g: Array, cotangent: Array) -> tuple[Array, Array]:
    """The gradients of u and g."""
    dtype = u.dtype
    u, g, cotangent = (each.astype(jnp.float32) for each in (u, g, cotangent))
    gate = 0.5 + 0.5 * jnp.tanh(0.5 * u)
    slope = gate * (1 + u * (1 - gate))
    return (cotangent * g * slope).astype(dtype), (cotangent * u * gate).astype(dtype)


def _swiglu_backward(kept: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, Array]:
    return jax.lax.platform_dependent(*kept, cotangent, tpu=_fused, default=_stored)


def _stored(x: Array, kernel: Array, u: Array, g: Array, cotangent: Array) -> tuple[Array, ...]:
    change = jnp.concatenate(_slopes(u, g, cotangent), axis=-1)
    rows = change.reshape(-1, change.shape[-1])
    bias = jnp.sum(ops.sum_pixels(change), axis=0)
    gradient = ops.product("nd,nm->dm", x.reshape(-1, x.shape[-1]), rows)
    return change @ rounded(kernel, x.dtype).T, gradient.astype(kernel.dtype), bias


def _fused(x: Array, kernel: Array, u: Array, g: Array, cotangent: Array) -> tuple[Array, ...]:
    # Three copies: XLA cannot share, and so store, the gradients of u and g between the products.
    first, second, third = jax.lax.optimization_barrier([(u, g, cotangent)] * 3)
    ones = jnp.ones((*x.shape[:2], 8), x.dtype)

    def both(formula: str, left: Array, given: tuple[Array, ...]) -> Array:
        parts = [ops.product(formula, left, slope) for slope in _slopes(*given)]
        return jnp.concatenate(parts, axis=1)

    halves = (rounded(half, x.dtype) for half in jnp.split(kernel, 2, axis=1))
    pairs = zip(_slopes(*first), halves, strict=True)
    of_u, of_g = (ops.product("blm,dm->bld", slope, half) for slope, half in pairs)
    gradient = both("bld,blm->dm", x, second).astype(kernel.dtype)
    return (of_u + of_g).astype(x.dtype), gradient, both("blk,blm->km", ones, third)[0]


swiglu.defvjp(_swiglu_forward, _swiglu_backward)
