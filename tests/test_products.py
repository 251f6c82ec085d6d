"""products: values and gradients of the plain forms, also in the forms that a TPU computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.models import products

KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.normal(KEYS[0], (2, 5, 8))
KERNEL = jax.random.normal(KEYS[1], (8, 12))
BIAS = jax.random.normal(KEYS[2], (12,))
COTANGENT = jax.random.normal(KEYS[3], (2, 5, 6))


def plain(x, kernel, bias):
    u, g = jnp.split(x @ kernel + bias[None, None], 2, axis=-1)
    return jax.nn.silu(u) * g


def test_swiglu_has_the_values_of_its_formula():
    np.testing.assert_allclose(
        products.swiglu(X, KERNEL, BIAS), plain(X, KERNEL, BIAS), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("backward", [products._swiglu_backward, products._fused])
def test_swiglu_has_the_gradients_of_its_formula(backward):
    _, expected = jax.vjp(plain, X, KERNEL, BIAS)
    out, kept = products._swiglu_forward(X, KERNEL, BIAS)
    if backward is products._fused:
        halves = products._two_products(X, KERNEL, BIAS)
        np.testing.assert_allclose(halves, kept[2:], rtol=1e-5, atol=1e-5)
        found = backward(*kept, COTANGENT)
    else:
        found = backward(kept, COTANGENT)
    for each, wanted in zip(found, expected(COTANGENT), strict=True):
        np.testing.assert_allclose(each, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_rounded_kernel_is_the_converted_one(dtype):
    found = products.rounded(KERNEL, jnp.dtype(dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, KERNEL.astype(dtype))
