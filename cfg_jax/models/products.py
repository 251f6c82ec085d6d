"""Products of tokens with kernels, in forms that XLA compiles to fast programs for a TPU.

Each has the values and gradients of its plain form.
"""

import functools

import jax
import jax.numpy as jnp

Array = jax.Array

KEPT = "product"
"""Name of the results that the backward pass of a block does not compute again."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def rounded(kernel: Array, dtype: jnp.dtype) -> Array:
    """The float32 kernel in `dtype`; its gradient is only converted.

    XLA moves a plain conversion of a slice out of a scan, where it converts all stacked kernels and
    stores them. It does not move a rounding, which then is a part of the product.
    """
    if kernel.dtype == dtype:
        return kernel
    bits = jnp.finfo(dtype)
    return jax.lax.reduce_precision(kernel, int(bits.nexp), int(bits.nmant)).astype(dtype)


rounded.defvjp(
    lambda kernel, dtype: (rounded(kernel, dtype), None),
    lambda dtype, _, cotangent: (cotangent.astype(jnp.float32),),
)
