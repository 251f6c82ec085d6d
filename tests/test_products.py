"""products: values and gradients of the plain forms, also in the forms that a TPU computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.models import products

KEYS = jax.random.split(jax.random.key(0), 6)
X = jax.random.normal(KEYS[0], (2, 5, 8))
KERNEL = jax.random.normal(KEYS[1], (8, 12))
BIAS = jax.random.normal(KEYS[2], (12,))
HALVES = jax.random.normal(KEYS[3], (2, 2, 5, 6))
COTANGENTS = jax.random.normal(KEYS[4], (3, 2, 5, 4))


def assert_close(found, expected):
    for each, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("own_products", [False, True])
def test_parts_of_a_product_have_the_values_and_gradients_of_slices_of_the_whole(own_products):
    def plain(x, kernel, bias):
        h = x @ kernel + bias[None, None]
        return h[..., :4], h[..., 4:8], h[..., 8:]

    def apart(*given):
        return products.apart(*given, 3, own_products)

    given = X, KERNEL, BIAS
    expected, backward = jax.vjp(plain, *given)
    assert_close(apart(*given), expected)
    assert_close(products._each(*given, 3), expected)
    found, ours = jax.vjp(apart, *given)
    assert_close(found, expected)
    assert_close(ours(tuple(COTANGENTS)), backward(tuple(COTANGENTS)))


def test_each_product_of_a_tpus_backward_pass_gets_a_copy_of_its_own():
    copies = products._copies(tuple(COTANGENTS))
    assert len(copies) == 3
    for copy in copies:
        assert_close(copy, COTANGENTS)


def test_swiglu_has_the_values_and_gradients_of_its_formula():
    expected, backward = jax.vjp(lambda u, g: jax.nn.silu(u) * g, *HALVES)
    found, ours = jax.vjp(products.swiglu, *HALVES)
    assert_close([found], [expected])
    cotangent = jax.random.normal(KEYS[5], expected.shape)
    assert_close(ours(cotangent), backward(cotangent))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_rounded_kernel_is_the_converted_one(dtype):
    found = products.rounded(KERNEL, jnp.dtype(dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, KERNEL.astype(dtype))
