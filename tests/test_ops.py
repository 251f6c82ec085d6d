"""Operations of the networks against their plain forms: values, and gradients by autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.models import attention, ops

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    RNG.bit_generator.state = START


def array(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


H = array(2, 4, 6, 5)


def assert_same(found, plain, *arguments, rtol=1e-5):
    """Equal values, and equal gradients of a weighted sum of them."""
    value, expected = found(*arguments), plain(*arguments)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(value / scale, expected / scale, rtol=0, atol=rtol)
    weights = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)

    def total(function):
        return lambda *given: jnp.sum(function(*given) * weights)

    every = tuple(range(len(arguments)))
    for ours, theirs in zip(
        jax.grad(total(found), every)(*arguments),
        jax.grad(total(plain), every)(*arguments),
        strict=True,
    ):
        largest = np.abs(theirs).max()
        np.testing.assert_allclose(ours / largest, theirs / largest, rtol=0, atol=rtol)


def plain_double(h):
    return jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)


def plain_convolution(h, kernel):
    padded = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = h.shape[1:3]
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )


@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (2, 7, 5), (3, 5)])
def test_a_sum_over_pixels_is_the_sum_over_all_but_the_outer_dimensions(shape):
    axes = tuple(range(1, len(shape) - 1))
    assert_same(ops.sum_pixels, lambda h: h.sum(axis=axes), array(*shape))
    assert_same(ops._sum_by_rows, lambda h: h.sum(axis=axes), array(*shape))


def test_silu_is_h_times_its_sigmoid():
    assert_same(ops.silu, lambda h: h / (1 + jnp.exp(-h)), 4 * H)
    assert ops.silu(jnp.array([-200.0, 200.0])).tolist() == [0.0, 200.0]
    brain = jnp.linspace(-8, 4, 49).astype(jnp.bfloat16)
    exact = np.asarray(brain, np.float64) / (1 + np.exp(-np.asarray(brain, np.float64)))
    np.testing.assert_allclose(np.asarray(ops.silu(brain), np.float64), exact, rtol=2**-8)


def test_a_fence_changes_nothing():
    assert_same(ops.fenced, lambda h: h, H)


@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (2, 7, 5)])
def test_affine_multiplies_and_adds_per_example_and_channel(shape):
    def plain(h, factor, offset):
        return jnp.einsum("b...c,bc->b...c", h, factor) + jnp.moveaxis(
            offset[(...,) + (None,) * (h.ndim - 2)], 1, -1
        )

    assert_same(ops.affine, plain, array(*shape), array(2, 5), array(2, 5))


def test_a_sum_over_tokens_is_a_product_with_ones():
    h = array(2, 7, 5)
    for form in (ops._sum_tokens, ops._sum_tokens_by_product):
        np.testing.assert_allclose(form(h), h.sum(axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (2, 7, 5), (3, 5)])
def test_a_bias_is_added_to_every_channel(shape):
    h, bias = array(*shape), array(5)
    plain = lambda h, bias: h + bias.reshape((1,) * (h.ndim - 1) + (5,))  # noqa: E731
    assert_same(ops.add_bias, plain, h, bias)
    np.testing.assert_allclose(
        ops._sum_by_product(h), h.reshape(-1, 5).sum(0), rtol=1e-5, atol=1e-5
    )


def test_the_gradient_of_a_bias_is_not_summed_in_bfloat16():
    # A bfloat16 sum of 4,096 ones stops at 256.
    ones = jnp.ones((1, 64, 64, 3), jnp.bfloat16)
    gradient = jax.grad(lambda bias: ops.add_bias(ones, bias).astype(jnp.float32).sum())
    np.testing.assert_array_equal(gradient(jnp.zeros(3)), [4096.0] * 3)
    np.testing.assert_array_equal(ops._sum_by_product(ones), [4096.0] * 3)


def test_halving_takes_means_and_doubling_repeats():
    assert_same(ops.halve, lambda h: h.reshape(2, 2, 2, 3, 2, 5).mean(axis=(2, 4)), H)
    assert_same(ops.double, plain_double, H)
    assert_same(ops._sum_of_dilated, plain_double, H)


def test_the_moments_are_means_of_values_and_squares():
    for shape in [(2, 4, 6, 5), (2, 7, 5)]:
        h, axes = array(*shape), tuple(range(1, len(shape) - 1))
        for found, expected in zip(ops.moments(h), (h, h**2), strict=True):
            np.testing.assert_allclose(found, expected.mean(axis=axes), rtol=1e-5, atol=1e-6)


def test_a_convolution_sums_over_the_nearest_pixels():
    kernel = array(3, 3, 5, 4)
    assert_same(ops.convolve, plain_convolution, H, kernel)
    strided = lambda h, kernel: plain_convolution(h, kernel)[:, ::2, ::2]  # noqa: E731
    assert_same(lambda h, kernel: ops.convolve(h, kernel, 2), strided, H, kernel)
    assert_same(ops.convolve, lambda h, kernel: h @ kernel[0, 0], H, array(1, 1, 5, 4))


@pytest.mark.parametrize(
    "form", [ops.convolve_doubled, ops._convolve_dilated, ops._convolve_phases]
)
def test_a_convolution_of_the_doubled_image_needs_no_doubled_image(form):
    plain = lambda h, kernel: plain_convolution(plain_double(h), kernel)  # noqa: E731
    assert_same(form, plain, H, array(3, 3, 5, 4))


@pytest.mark.parametrize("many_tokens", [8, 7], ids=["together", "one at a time"])
def test_attention_is_the_softmax_of_scaled_scores(monkeypatch, many_tokens):
    monkeypatch.setattr(attention, "MANY_TOKENS", many_tokens)

    def plain(h, kernel, bias):
        q, k, v = jnp.moveaxis(jnp.einsum("blc,cshd->blshd", h, kernel) + bias[None, None], 2, 0)
        scores = jnp.einsum("blhd,bmhd->bhlm", q, k) / np.sqrt(q.shape[-1])
        return jnp.einsum("bhlm,bmhd->bhdl", jax.nn.softmax(scores), v)

    # The last token is far from the others, so that some weights are nearly 0.
    h = array(3, 7, 8).at[:, -1].mul(5.0)
    # Large scores: either form rounds by as much.
    assert_same(attention.attend, plain, h, array(8, 3, 2, 4), array(3, 2, 4), rtol=3e-5)


def test_attention_of_large_scores_is_finite():
    h = jnp.full((1, 4, 2), 1e4)
    value, gradient = jax.value_and_grad(
        lambda h: attention.attend(h, array(2, 3, 1, 2), jnp.zeros((3, 1, 2))).sum()
    )(h)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("many_tokens", [8, 7], ids=["together", "one at a time"])
def test_scores_of_attention_are_not_kept_for_the_backward_pass(monkeypatch, many_tokens):
    monkeypatch.setattr(attention, "MANY_TOKENS", many_tokens)
    arguments = array(2, 7, 8), array(8, 3, 2, 4), array(3, 2, 4)
    _, backward = jax.vjp(attention.attend, *arguments)
    kept = [leaf.shape for leaf in jax.tree.leaves(backward)]
    assert not any(shape[-2:] == (7, 7) for shape in kept), kept


@pytest.mark.parametrize("tokens", [attention.MANY_TOKENS, 7], ids=["few", "many"])
def test_a_tpus_attention_in_turns_is_that_of_all_examples(monkeypatch, tokens):
    # 5 examples in turns of 2: the last turn is not full.
    monkeypatch.setattr(attention, "MANY_TOKENS", tokens)
    monkeypatch.setattr(attention, "FORWARD_EXAMPLES", 2)
    monkeypatch.setattr(attention, "BACKWARD_EXAMPLES", 2)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *given, tpu, default: tpu(*given))

    def plain(q, k, v):
        weights = jax.nn.softmax(jnp.einsum("bhdk,bhdq->bhkq", k, q) / 2, axis=2)
        return jnp.einsum("bhdk,bhkq->bhdq", v, weights)

    assert_same(attention.attend_heads, plain, *(array(5, 3, 4, 7) for _ in range(3)))
