"""Samplers on data with closed forms for every step and for the limit of many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.core.types import Prediction
from tests.closed_form import Mixture, alpha_sigma, forward, like, reverse

SCHEDULE = cfg_jax.cosine_schedule()


def grid(num_steps, length):
    """The paper's grid, padded with its first log-SNR: grids of one length compile once.

    A step of length 0 changes nothing (tested in test_diffusion).
    """
    logsnrs = np.asarray(cfg_jax.logsnr_grid(SCHEDULE, num_steps))
    return np.concatenate([np.full(length - num_steps, logsnrs[0]), logsnrs])


def exact_denoiser(mean, variance):
    """Denoiser for data N(mean[i], variance[i]) in example i."""

    def denoiser(z, logsnr):
        alpha, sigma = cfg_jax.alpha_sigma(logsnr)
        total = alpha**2 * variance + sigma**2
        return (z - like(alpha * mean, z)) * like(sigma / total, z)

    return denoiser


# Two data distributions, each with three variances of the reverse process.
MEAN = np.float32([0.5, -0.8] * 3)
VARIANCE = np.float32([0.3, 1.5] * 3)
V = np.float32(np.repeat([0, 0.3, 1], 2))
POINTS = 40_000


@jax.jit
def draw_ancestral(key, logsnrs):
    return cfg_jax.sample(
        key,
        exact_denoiser(MEAN, VARIANCE),
        (6, POINTS),
        logsnrs,
        clip_x=False,
        logvar_interp=V,
    )


def moments_after(logsnrs, mean, variance, v):
    """Mean and variance of Algorithm 2's result in float64; every step is affine plus noise."""

    def x_hat(logsnr):
        """x_hat = gain z + offset, the posterior mean of Gaussian data under noise."""
        alpha, sigma = alpha_sigma(logsnr)
        precision = 1 / variance + (alpha / sigma) ** 2
        return alpha / sigma**2 / precision, mean / variance / precision

    m, s2 = 0.0, 1.0
    for logsnr_t, logsnr_s in zip(logsnrs[:-1], logsnrs[1:], strict=True):
        a, b, small = reverse(logsnr_t, logsnr_s)
        _, large = forward(logsnr_t, logsnr_s)
        gain, offset = x_hat(logsnr_t)
        m = (a + b * gain) * m + b * offset
        s2 = (a + b * gain) ** 2 * s2 + small ** (1 - v) * large**v
    gain, offset = x_hat(logsnrs[-1])
    return gain * m + offset, gain**2 * s2


@pytest.mark.parametrize("num_steps", [3, 8, 32])
def test_ancestral_samples_have_the_moments_of_the_exact_recursion(num_steps):
    x = np.float64(draw_ancestral(jax.random.key(num_steps), grid(num_steps, 32)))
    for row, mean, variance, v in zip(x, MEAN, VARIANCE, V, strict=True):
        m, s2 = moments_after(np.float64(grid(num_steps, num_steps)), mean, variance, v)
        assert abs(row.mean() - m) < 4.5 * np.sqrt(s2 / POINTS)
        assert abs(row.var() / s2 - 1) < 4.5 * np.sqrt(2 / POINTS)


def test_the_error_of_ancestral_sampling_falls_like_one_over_the_number_of_steps():
    """For large reverse variances the leading term dominates from 8 steps on."""
    steps = np.array([8, 16, 32])
    x = [np.float64(draw_ancestral(jax.random.key(0), grid(num, 32))) for num in steps]
    error = [np.log(draws[4].var() - VARIANCE[4]) for draws in x]
    slope, _ = np.polyfit(np.log(steps), error, 1)
    assert -1.4 < slope < -0.8


DDIM_MEAN, DDIM_VARIANCE = np.float32([0.5, -0.2, 0.0]), np.float32([0.01, 0.3, 1.5])


@jax.jit
def draw_ddim(key, logsnrs):
    denoiser = exact_denoiser(DDIM_MEAN, DDIM_VARIANCE)
    return cfg_jax.sample(key, denoiser, (3, 500), logsnrs, step=cfg_jax.ddim_step, clip_x=False)


def test_ddim_approaches_the_probability_flow_at_first_order():
    """The flow preserves (z - alpha mean) / std(z): x = mean + sqrt(variance) z_1."""
    key, steps = jax.random.key(1), np.array([16, 32, 64, 128])
    # Without added noise, a sampler returns the noise that it started from.
    z_1 = np.float64(draw_ddim(key, np.full(128, 40, np.float32)))
    assert abs(z_1.std() - 1) < 0.1
    errors = []
    for num_steps in steps:
        x = np.float64(draw_ddim(key, grid(num_steps, 128)))
        lines = [np.polyfit(*pair, 1) for pair in zip(z_1, x, strict=True)]
        # No noise is added: the result is linear in z_1.
        straight = [np.polyval(*pair) for pair in zip(lines, z_1, strict=True)]
        np.testing.assert_allclose(x, straight, atol=2e-4)
        slope, offset = np.transpose(lines)
        np.testing.assert_allclose(offset, DDIM_MEAN, atol=2e-4)
        errors.append(np.abs(slope - np.sqrt(DDIM_VARIANCE)))
    assert np.all(errors[-1] < 0.02)
    orders, _ = np.polyfit(np.log(steps), np.log(errors), 1)
    np.testing.assert_allclose(orders, -1, atol=0.1)


def test_a_ddim_step_turns_x_hat_and_the_noise_it_implies_to_the_next_angle():
    rng = np.random.default_rng(0)
    z_t, x_hat = rng.standard_normal((2, 4, 2, 2, 3)).astype(np.float32)
    logsnr_t, logsnr_s = np.float32([(-4, -3), (-1, 2), (0, 0.5), (2, 20)]).T
    alpha_t, sigma_t = (like(value, z_t) for value in alpha_sigma(logsnr_t))
    alpha_s, sigma_s = (like(value, z_t) for value in alpha_sigma(logsnr_s))
    ratio = sigma_s / sigma_t
    expected = ratio * z_t + (alpha_s - ratio * alpha_t) * x_hat
    step = jax.jit(cfg_jax.ddim_step)
    found = step(jax.random.key(0), z_t, x_hat, logsnr_t, logsnr_s)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    again = step(jax.random.key(1), z_t, x_hat, logsnr_t, logsnr_s)
    np.testing.assert_array_equal(found, again)


def test_each_step_is_one_forward_of_both_branches_with_its_own_weight():
    """Counts calls of the compiled program; eps_hat = (1 + w) - w 0 reveals the weight."""
    logsnrs = cfg_jax.logsnr_grid(SCHEDULE, 5)
    w = 10 * np.arange(5, dtype=np.float32)[:, None] + np.arange(2, dtype=np.float32)
    forwards, answers = [], []

    def predict(z, logsnr, labels):
        jax.debug.callback(lambda *given: forwards.append(given), z, logsnr, labels)
        return like(jnp.where(labels == 3, 0.0, 1.0), z) * jnp.ones_like(z)

    @jax.jit
    def run(key, labels, w):
        def denoiser(row):
            guided = cfg_jax.classifier_free_guidance(predict, labels, row, null_label=3)

            def denoise(z, logsnr):
                eps_hat = guided(z, logsnr)
                jax.debug.callback(lambda *given: answers.append(given), logsnr, eps_hat)
                return eps_hat

            return denoise

        return cfg_jax.sample(key, denoiser, (2, 3), logsnrs, per_step=w)

    jax.block_until_ready(run(jax.random.key(0), np.array([1, 2]), w))
    jax.effects_barrier()
    assert len(forwards) == len(answers) == 5
    forwards.sort(key=lambda given: given[1][0])
    for (z, logsnr, labels), expected in zip(forwards, logsnrs, strict=True):
        assert z.shape == (4, 3)
        np.testing.assert_array_equal(z[:2], z[2:])
        np.testing.assert_array_equal(logsnr, np.full(4, expected))
        np.testing.assert_array_equal(np.sort(labels), [1, 2, 3, 3])
    answers.sort(key=lambda given: given[0][0])
    found = np.stack([eps_hat for _, eps_hat in answers])
    np.testing.assert_array_equal(found, np.broadcast_to(1 + w[..., None], (5, 2, 3)))


@pytest.mark.parametrize(
    ("step", "clip_x", "expected"),
    [
        (cfg_jax.ancestral_step, True, 0.5),
        (cfg_jax.ddim_step, True, 0.5),
        (cfg_jax.ddim_step, False, 0.75),
    ],
)
def test_the_guided_x_hat_is_clipped_before_the_step_and_the_last_one_is_returned(
    step, clip_x, expected
):
    """First x_hat 0.9 and 0.3 guide to 1.5, clipped to 1; the last call returns half its input.

    Clipping each branch would pass 1.5 on; returning z would give 1 or 1.5.
    """

    def predict(z, logsnr, labels):
        first = like(jnp.where(labels == 3, 0.3, 0.9), z)
        x_hat = jnp.where(like(logsnr, z) < 0, first, z / 2)
        return cfg_jax.predict_eps(z, x_hat, logsnr)

    @jax.jit
    def run(key, w):
        denoiser = cfg_jax.classifier_free_guidance(
            predict, jnp.zeros(2, jnp.int32), w, null_label=3
        )
        return cfg_jax.sample(key, denoiser, (2, 3), np.float32([-2, 20]), step=step, clip_x=clip_x)

    found = run(jax.random.key(0), np.float32([1, 1]))
    np.testing.assert_allclose(found, np.full((2, 3), expected), atol=1e-3)


def test_clipping_works_on_both_sides():
    def run(target):
        return cfg_jax.sample(
            jax.random.key(0),
            lambda z, logsnr: cfg_jax.predict_eps(z, target, logsnr),
            (4,),
            np.float32([0.0]),
            step=cfg_jax.ddim_step,
        )

    found = jax.jit(run)(np.float32([-7, -0.5, 0.25, 7]))
    np.testing.assert_allclose(found, [-1, -0.5, 0.25, 1], atol=1e-5)


# A variance exponent per coordinate of two examples.
EXPONENTS = np.float32([[0, 0.3, 1, 0.7], [1, 0.5, 0, 0.1]])


@jax.jit(static_argnames=("step", "learned"))
def draw_with_exponents(v, constant, step=cfg_jax.ancestral_step, learned=False):
    """Draws in five steps; if `learned` the denoiser returns v; `constant` is the keyword."""

    def denoiser(z, logsnr):
        eps_hat = exact_denoiser(MEAN[:2], VARIANCE[:2])(z, logsnr)
        return Prediction(eps_hat, v) if learned else eps_hat

    return cfg_jax.sample(
        jax.random.key(6),
        denoiser,
        v.shape,
        cfg_jax.logsnr_grid(SCHEDULE, 5),
        step=step,
        clip_x=False,
        logvar_interp=constant,
    )


def test_a_learned_variance_takes_the_place_of_the_constant_one_at_every_step():
    """Compares per coordinate, since nothing mixes them; the keyword has no effect."""
    learned = draw_with_exponents(EXPONENTS, np.float32(0.9), learned=True)
    for row, column in np.ndindex(EXPONENTS.shape):
        constant = draw_with_exponents(EXPONENTS, EXPONENTS[row, column])
        np.testing.assert_allclose(learned[row, column], constant[row, column], rtol=2e-6)
        if EXPONENTS[row, column] != 1:
            largest = draw_with_exponents(EXPONENTS, np.float32(1))
            assert abs(learned[row, column] - largest[row, column]) > 1e-4


def test_ddim_has_no_use_for_a_learned_variance():
    results = [
        draw_with_exponents(v, np.float32(0), step=cfg_jax.ddim_step, learned=learned)
        for v, learned in [(EXPONENTS, True), (1 - EXPONENTS, True), (EXPONENTS, False)]
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], results[2], rtol=2e-6)


MEANS = np.array([[0.9, 0.0], [-0.45, 0.8], [-0.5, -0.7]])
CLASS_VARIANCE, WEIGHTS = np.array([0.05, 0.03, 0.08]), np.array([0.5, 0.3, 0.2])
MIXTURE = cfg_jax.GaussianMixture(MEANS.reshape(3, 2, 1, 1), CLASS_VARIANCE, WEIGHTS)
traces = []


@jax.jit
def draw_guided(key, labels, w, logvar_interp):
    traces.append(labels.shape)
    denoiser = cfg_jax.classifier_free_guidance(MIXTURE.predict, labels, w, null_label=3)
    return cfg_jax.sample(
        key,
        denoiser,
        (labels.shape[0], 2, 1, 1),
        cfg_jax.logsnr_grid(SCHEDULE, 4),
        logvar_interp=logvar_interp,
    )


LABELS = np.array([0, 1, 2, 1, 0, 2, 2, 1])


def test_sample_i_is_the_same_in_any_batch():
    key, w, v = jax.random.key(5), np.linspace(-2, 5, 8, dtype=np.float32), np.float32(0.3)
    eight = np.asarray(draw_guided(key, LABELS, w, v))
    assert eight.shape == (8, 2, 1, 1) and eight.dtype == np.float32
    assert len(np.unique(eight[:, 0])) == 8
    np.testing.assert_array_equal(draw_guided(key, LABELS[:1], w[:1], v), eight[:1])
    some, keys = np.array([6, 3, 0, 5]), cfg_jax.keys.per_example(key, 8)
    chosen = draw_guided(keys[some], LABELS[some], w[some], v)
    np.testing.assert_array_equal(chosen, eight[some])


def test_moving_weight_labels_seed_and_variance_compiles_nothing_anew():
    jax.block_until_ready(
        draw_guided(jax.random.key(5), LABELS, np.ones(8, np.float32), np.float32(0))
    )
    before, results = len(traces), []
    for seed, w, v in [(0, 0, 0), (0, 2, 0), (0, 2, 1), (3, -2, 0.2), (3, 40, 0.2)]:
        for labels in (LABELS, (LABELS + 1) % 3):
            weights = np.full(8, w, np.float32)
            results.append(draw_guided(jax.random.key(seed), labels, weights, np.float32(v)))
    assert len(traces) == before
    assert len({np.asarray(result).tobytes() for result in results}) == len(results)


@pytest.fixture(scope="module")
def clouds():
    """600 samples each at w = 0, -1 and 3 in 64 steps, and their labels."""
    labels = np.arange(1800) % 3
    w = np.repeat(np.float32([0, -1, 3]), 600)

    @jax.jit
    def run(key):
        denoiser = cfg_jax.classifier_free_guidance(MIXTURE.predict, labels, w, null_label=3)
        logsnrs = cfg_jax.logsnr_grid(SCHEDULE, 64)
        return cfg_jax.sample(
            key, denoiser, (1800, 2, 1, 1), logsnrs, clip_x=False, logvar_interp=0.3
        )

    x = np.asarray(run(jax.random.key(2)), np.float64).reshape(3, 600, 2)
    return x, labels[:600]


def log_prob_each(x):
    """log p(c | x) of clean data, [N, K]."""
    exact = Mixture(MEANS, CLASS_VARIANCE, WEIGHTS)
    end = np.full(len(x), 40.0)
    joint = exact.log_weights + exact.log_prob_given_each(x, end)
    return joint - exact.log_prob(x, end)[:, None]


def test_conditional_samples_are_distributed_as_their_class(clouds):
    x, labels = clouds
    for c in range(3):
        points = x[0][labels == c]
        error = np.sqrt(CLASS_VARIANCE[c] / len(points))
        np.testing.assert_allclose(points.mean(axis=0), MEANS[c], atol=4.5 * error)
        # 64 steps reduce the variance by at most a tenth.
        spread = np.mean((points - points.mean(axis=0)) ** 2)
        assert 0.75 < spread / CLASS_VARIANCE[c] < 1.2
    assert np.mean(log_prob_each(x[0]).argmax(axis=1) == labels) > 0.98


def test_unconditional_samples_ignore_their_labels_and_follow_the_class_frequencies(clouds):
    x, labels = clouds
    found = log_prob_each(x[1]).argmax(axis=1)
    deviation = np.sqrt(WEIGHTS * (1 - WEIGHTS) / 600)
    assert np.all(np.abs(np.bincount(found) / 600 - WEIGHTS) < 4.5 * deviation)
    agreement = np.mean(found == labels)
    assert abs(agreement - 1 / 3) < 4.5 * np.sqrt(2 / 9 / 600)


def test_guidance_moves_samples_away_from_the_other_classes(clouds):
    x, labels = clouds
    certainty = [log_prob_each(x[i])[np.arange(600), labels].mean() for i in (0, 2)]
    assert certainty[0] < 3 * certainty[1] < 0
    for c in range(3):
        moved = x[2][labels == c].mean(axis=0) - x[0][labels == c].mean(axis=0)
        others = np.delete(MEANS, c, axis=0).mean(axis=0)
        assert moved @ (MEANS[c] - others) > 0.1


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (4, 1)])
def test_a_grid_that_is_no_vector_is_refused(shape):
    with pytest.raises(ValueError, match="need a grid"):
        cfg_jax.sample(jax.random.key(0), lambda z, logsnr: z, (2, 3), np.zeros(shape, np.float32))


def test_a_descending_grid_is_refused():
    grid = cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 4)[::-1]
    with pytest.raises(ValueError, match="ascending"):
        cfg_jax.sample(jax.random.key(0), lambda z, logsnr: z, (2, 2), grid)


def test_noise_temperature_scales_the_deviation_of_an_ancestral_step():
    key, z_t, x_hat = jax.random.key(3), jnp.full((4, 1000), 0.7), jnp.full((4, 1000), -0.2)
    options = {"logvar_interp": 0.4}
    # Per pixel, mean and deviation of 4,000 normal draws match the posterior.
    mean, logvar = cfg_jax.posterior(z_t, x_hat, -1.0, 1.0, **options)
    for temperature in (0.0, 0.5, 2.0):
        z_s = cfg_jax.ancestral_step(
            key, z_t, x_hat, -1.0, 1.0, noise_temperature=temperature, **options
        )
        deviation = temperature * np.exp(np.asarray(logvar).mean() / 2)
        np.testing.assert_allclose(
            np.mean(z_s), np.asarray(mean).mean(), atol=0.05 * deviation + 1e-6
        )
        np.testing.assert_allclose(np.std(z_s), deviation, rtol=0.05, atol=1e-6)
