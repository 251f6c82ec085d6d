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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def apart(
    x: Array, kernel: Array, bias: Array, number: int, own_products: bool = False
) -> tuple[Array, ...]:
    """x kernel + bias in equal parts: x [B, L, D], kernel [D, F] to `number` of [B, L, F / number].

    Products are in x's dtype; the kernel, the bias [F] and sums with it are float32. The backward
    pass multiplies the joined gradients of the parts. A TPU joins them in each product that needs
    them, and stores no joined array.

    With `own_products`, a TPU computes each part by itself when differentiated. The backward pass
    then reads whole arrays, and no slices of one. This pays for SwiGLU, but not for q, k and v.
    """
    return tuple(jnp.split(_whole(x, kernel, bias), number, axis=-1))


def _whole(x: Array, kernel: Array, bias: Array) -> Array:
    return ops.add_bias(x @ rounded(kernel, x.dtype), bias)


def _apart_forward(
    x: Array, kernel: Array, bias: Array, number: int, own_products: bool
) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
    if not own_products:
        whole = checkpoint_name(_whole(x, kernel, bias), ops.KEPT)
        return tuple(jnp.split(whole, number, axis=-1)), (x, kernel)
    each, default = (functools.partial(form, number=number) for form in (_each, apart))
    parts = jax.lax.platform_dependent(x, kernel, bias, tpu=each, default=default)
    return tuple(checkpoint_name(part, ops.KEPT) for part in parts), (x, kernel)


def _each(x: Array, kernel: Array, bias: Array, number: int) -> tuple[Array, ...]:
    kernels, biases = jnp.split(kernel, number, axis=1), jnp.split(bias, number)
    return tuple(_whole(x, *part) for part in zip(kernels, biases, strict=True))


def _apart_backward(
    number: int, own_products: bool, kept: tuple[Array, Array], cotangents: tuple[Array, ...]
) -> tuple[Array, Array, Array]:
    x, kernel = kept
    # Three copies: XLA cannot share, and so store, what each product joins.
    first, second, third = jax.lax.platform_dependent(
        cotangents, tpu=_copies, default=lambda parts: [parts] * 3
    )
    change = ops.product("blf,df->bld", jnp.concatenate(first, axis=-1), rounded(kernel, x.dtype))
    gradient = ops.product("bld,blf->df", x, jnp.concatenate(second, axis=-1))
    bias = jnp.concatenate([ops.sum_rows(part) for part in third])
    return change.astype(x.dtype), gradient.astype(kernel.dtype), bias


def _copies(arrays: tuple[Array, ...]) -> list[tuple[Array, ...]]:
    return jax.lax.optimization_barrier([arrays] * 3)


apart.defvjp(_apart_forward, _apart_backward)


@jax.custom_vjp
def swiglu(u: Array, g: Array) -> Array:
    """silu(u) g; its gradients are computed in float32 and have the dtypes of u and g."""
    return ops.silu(u) * g


def _swiglu_backward(kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    u, g, wide = (each.astype(jnp.float32) for each in (*kept, cotangent))
    gate = 0.5 + 0.5 * jnp.tanh(0.5 * u)
    slope = gate * (1 + u * (1 - gate))
    return (wide * g * slope).astype(kept[0].dtype), (wide * u * gate).astype(kept[1].dtype)


swiglu.defvjp(lambda u, g: (swiglu(u, g), (u, g)), _swiglu_backward)
