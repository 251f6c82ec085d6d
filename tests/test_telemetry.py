"""Telemetry of guidance on exact mixtures: gap, implicit classifier, Feynman-Kac weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.core.telemetry import measure, summarise

LABELS = np.array([0, 1, 2, 1], np.int32)
SHAPE = (4, 2, 2, 1)


@pytest.fixture(scope="module")
def oracle():
    means = 0.5 * np.random.default_rng(1).standard_normal((3, 2, 2, 1))
    return cfg_jax.GaussianMixture(means, [0.1, 0.2, 0.3], [0.2, 0.3, 0.5])


def watched(oracle, plan, labels, w, **options):
    null = oracle.null_label
    weights = cfg_jax.weights(plan, w, **options)
    every = cfg_jax.branches(oracle.predict, labels, null_label=null)
    guided = cfg_jax.guide(every, weights, watch=True)

    def record(call):
        return measure(call) | {"z": call.z}

    @jax.jit
    def draw(key):
        shape = (len(labels), *oracle.means.shape[1:])
        return cfg_jax.sample(key, guided, shape, plan, clip_x=False, record=record)

    x, measured = draw(jax.random.key(0))
    states = measured.pop("z")
    return x, states, summarise(plan, weights.w, measured)


def test_the_gap_is_the_score_of_the_exact_classifier(oracle):
    plan = cfg_jax.plan(np.linspace(-4, 4, 9), "unipc_2")
    _, states, found = watched(oracle, plan, LABELS, 1.5)
    for call in (0, 4, 8):
        logsnr = jnp.full(4, plan.logsnr[call])
        score = jax.grad(lambda z: oracle.log_prob_label(z, logsnr, LABELS).sum())(states[call])  # noqa: B023
        sigma = cfg_jax.alpha_sigma(plan.logsnr[call])[1]
        expected = sigma * np.sqrt(np.sum(np.square(score), axis=(1, 2, 3)))
        np.testing.assert_allclose(found.gap[call], expected, rtol=1e-3, atol=1e-5)


def test_the_log_probability_of_the_label_can_be_read_out_of_an_ancestral_run(oracle):
    # The error falls as T^-1/2: .28 at T = 128, .15 at T = 512, of a change of .7 or more.
    errors = {}
    labels = np.arange(96, dtype=np.int32) % 3
    for count in (48, 384):
        plan = cfg_jax.plan(np.linspace(-8, 4, count), "ancestral")
        _, states, found = watched(oracle, plan, labels, 1e-6)
        exact = [
            oracle.log_prob_label(states[call], jnp.full(96, plan.logsnr[call]), labels)
            for call in (0, -1)
        ]
        change = np.asarray(exact[1] - exact[0])
        errors[count] = np.sqrt(np.mean((found.log_prob[-1] - change) ** 2))
        assert np.corrcoef(found.log_prob[-1], change)[0, 1] > 0.8
    assert errors[384] < 0.6 * errors[48]


def test_feynman_kac_weights_correct_the_density_that_guidance_draws():
    # p(x | c) = N(0, 1), p(x) = N(0, 2): guidance asks for the variance 2 / (2 + w).
    w, count = 1.0, 20_000
    narrow, wide = (
        cfg_jax.GaussianMixture(np.zeros((1, 1)), variance, [1.0]) for variance in (1.0, 2.0)
    )

    def predict(z, logsnr, labels):
        zero = jnp.zeros_like(labels)
        conditional = narrow.predict(z, logsnr, zero)
        return jnp.where((labels == 0)[:, None], conditional, wide.predict(z, logsnr, zero))

    def variances(points):
        """Variance of the samples, and of the weighted samples."""
        plan = cfg_jax.plan(np.linspace(-8, 8, points), "ancestral")
        weights = cfg_jax.weights(plan, w)
        every = cfg_jax.branches(predict, np.zeros(count, np.int32), null_label=1)
        guided = cfg_jax.guide(every, weights, watch=True)
        x, measured = jax.jit(
            lambda key: cfg_jax.sample(key, guided, (count, 1), plan, clip_x=False, record=measure)
        )(jax.random.key(0))
        x = np.asarray(x, np.float64)[:, 0]
        log_weight = summarise(plan, weights.w, measured).log_weight[-1]
        share = np.exp(log_weight - log_weight.max())
        return np.array([np.mean(x**2), np.sum(share / share.sum() * x**2)])

    plain, weighted = 2 * variances(161) - variances(81)  # the error is of order 1
    assert plain == pytest.approx((2 - 2 ** (-2 * w)) / (2 * w + 1), rel=0.04)
    assert weighted == pytest.approx(2 / (2 + w), rel=0.04)


def test_saturation_and_deviation_are_those_of_the_estimate_before_clipping(oracle):
    plan = cfg_jax.plan(np.linspace(-4, 4, 6), "ddim")
    weights = cfg_jax.weights(plan, 6.0)
    every = cfg_jax.branches(oracle.predict, LABELS, null_label=3)
    guided = cfg_jax.guide(every, weights, watch=True)
    _, (measured, raw, first, z) = cfg_jax.sample(
        jax.random.key(0),
        guided,
        SHAPE,
        plan,
        record=lambda call: (measure(call), call.x_raw, call.state.first, call.z),
    )
    found = summarise(plan, weights.w, measured)
    raw, first, z = (np.asarray(a, np.float64) for a in (raw, first, z))
    np.testing.assert_allclose(found.saturation, (np.abs(raw) > 1).mean(axis=(2, 3, 4)), atol=1e-6)
    assert found.saturation.max() > 0
    for call, logsnr in enumerate(plan.logsnr):
        alpha, sigma = 1 / np.sqrt(1 + np.exp(-logsnr)), 1 / np.sqrt(1 + np.exp(logsnr))
        x_first = (z[call] - sigma * first[call]) / alpha
        expected = raw[call].std(axis=(1, 2, 3)) / x_first.std(axis=(1, 2, 3))
        np.testing.assert_allclose(found.std_ratio[call], expected, rtol=1e-4)


def test_watching_changes_no_sample_and_an_unguided_call_has_no_gap(oracle):
    plan = cfg_jax.plan(np.linspace(-6, 6, 9), "dpmpp_2m")
    x, _, found = watched(oracle, plan, LABELS, 2.0, interval=(-3.0, 3.0))
    weights = cfg_jax.weights(plan, 2.0, interval=(-3.0, 3.0))
    every = cfg_jax.branches(oracle.predict, LABELS, null_label=3)
    plain = cfg_jax.guide(every, weights)
    expected = cfg_jax.sample(jax.random.key(0), plain, SHAPE, plan, clip_x=False)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.gap.any(axis=1), weights.guided)
    np.testing.assert_allclose(found.cosine[~weights.guided], 1, atol=1e-5)
