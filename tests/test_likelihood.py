"""The variational bound against quadrature, SciPy, limits, and data of known likelihood."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import cfg_jax
from cfg_jax.core import likelihood
from cfg_jax.core.types import Prediction
from tests.closed_form import PAIRS, alpha_sigma, forward, like, reverse

LOGSNR_T, LOGSNR_S = PAIRS.T
SHAPE = (8, 2, 2, 3)
DATA_AXES = (1, 2, 3)
transition_kl = jax.jit(likelihood.transition_kl)
decoder_nll = jax.jit(likelihood.decoder_nll, static_argnames="num_levels")


def normal(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def kl(mean_q, variance_q, mean_p, variance_p):
    """E_q[log q - log p] by Gauss-Hermite quadrature, which is exact for a quadratic."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    total = 0.0
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        z = mean_q + node * np.sqrt(variance_q)
        log_ratio = norm.logpdf(z, mean_q, np.sqrt(variance_q)) - norm.logpdf(
            z, mean_p, np.sqrt(variance_p)
        )
        total = total + weight * log_ratio
    return total


def step_kl(z_t, x, x_hat, v):
    """KL of a step per element in float64; PAIRS are the log-SNRs of the rows."""
    a, b, small = (like(value, z_t) for value in reverse(LOGSNR_T, LOGSNR_S))
    large = like(forward(LOGSNR_T, LOGSNR_S)[1], z_t)
    z_t, x, x_hat = (np.float64(value) for value in (z_t, x, x_hat))
    return kl(a * z_t + b * x, small, a * z_t + b * x_hat, small ** (1 - v) * large**v)


@pytest.mark.parametrize("error", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("v_shape", [(), (8,), SHAPE])
def test_a_step_costs_the_divergence_of_its_two_gaussians(v_shape, error):
    """Exponents inside and outside [0, 1]: one scalar, one per example, one per element."""
    z_t, x = normal(0, SHAPE), normal(1, SHAPE)
    x_hat = x + np.float32(error) * normal(2, SHAPE)
    v = np.float32(np.random.default_rng(3).uniform(-0.6, 1.6, v_shape))
    found = transition_kl(z_t, x, x_hat, LOGSNR_T, LOGSNR_S, logvar_interp=v)
    v = v if v.ndim == 4 else like(np.broadcast_to(v, 8), x)
    expected = step_kl(z_t, x, x_hat, np.float64(v)).sum(axis=DATA_AXES)
    assert found.shape == (8,) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_steps_of_equal_variance_cost_the_squared_distance_of_their_means():
    """Includes means of 1e4 that differ by 1e-3 of x, at either end of the log-SNRs."""
    x = normal(4, SHAPE)
    x_hat = x + np.float32(1e-3) * normal(5, SHAPE)
    _, b, variance = (like(value, x) for value in reverse(LOGSNR_T, LOGSNR_S))
    expected = (b * (np.float64(x) - x_hat)) ** 2 / (2 * variance)
    found = transition_kl(1e4 * normal(6, SHAPE), x, x_hat, LOGSNR_T, LOGSNR_S)
    np.testing.assert_allclose(found, expected.sum(axis=DATA_AXES), rtol=1e-5)
    perfect = transition_kl(1e4 * normal(6, SHAPE), x, x, LOGSNR_T, LOGSNR_S)
    np.testing.assert_array_equal(perfect, 0)


def test_a_step_of_no_length_costs_nothing():
    x, x_hat, v = normal(7, SHAPE), normal(8, SHAPE), normal(9, SHAPE)
    found = transition_kl(x, x, x_hat, LOGSNR_S, LOGSNR_S, logvar_interp=v)
    np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("v", [0, 0.7])
def test_many_steps_cost_half_the_integral_of_the_error_of_eps(v):
    """Error^2 = 1 / (1 + logsnr^2) integrates to 2 arctan(20) over [-20, 20], for any v.

    Each row is one step; the difference is first order in its length.
    """
    errors = []
    for length in (0.04, 0.01):
        logsnr = np.linspace(-20, 20, round(40 / length) + 1)
        alpha, sigma = alpha_sigma(logsnr[:-1])
        x, eps = 0.3, 1.2
        eps_hat = eps + 1 / np.sqrt(1 + logsnr[:-1] ** 2)
        z = alpha * x + sigma * eps
        x_hat = (z - sigma * eps_hat) / alpha
        rows = [np.float32(row)[:, None] for row in (z, np.full_like(z, x), x_hat)]
        steps = np.float32(logsnr[:-1]), np.float32(logsnr[1:])
        nats = transition_kl(*rows, *steps, logvar_interp=np.float32(v))
        errors.append(np.sum(np.float64(nats)) / np.arctan(20) - 1)
    assert abs(errors[1]) < 0.02
    assert 2.5 < errors[0] / errors[1] < 5


@pytest.mark.parametrize("logsnr_min", [-20, -6, 0, 3])
def test_the_prior_costs_the_divergence_from_standard_normal(logsnr_min):
    x = normal(10, SHAPE)
    alpha, sigma = alpha_sigma(logsnr_min)
    expected = kl(alpha * np.float64(x), sigma**2, 0.0, 1.0).sum(axis=DATA_AXES)
    found = jax.jit(likelihood.prior_kl)(x, np.float32(logsnr_min))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    each = likelihood.prior_kl(x, np.full(8, logsnr_min, np.float32))
    np.testing.assert_allclose(each, expected, rtol=1e-5)


def test_the_decoders_variance_is_that_of_discrete_ddpm():
    """beta_1 for v = 1; beta_tilde_2 replaces beta_tilde_1 = 0 for v = 0."""
    beta = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - beta)
    last, before = np.float32(np.log(alpha_bar / (1 - alpha_bar)))[:2]
    tilde = (1 - alpha_bar[0]) / (1 - alpha_bar[1]) * beta[1]
    v = np.float32([0, 1, 0.3, -0.5])
    logvar = likelihood.decoder_logvar(before, last, v)
    np.testing.assert_allclose(np.exp(logvar), tilde ** (1 - v) * beta[0] ** v, rtol=2e-5)


def test_the_decoders_variance_takes_exponents_of_any_shape():
    _, _, small = reverse(LOGSNR_T, LOGSNR_S)
    _, sigma = alpha_sigma(LOGSNR_S)
    for v in (np.float32(0.3), np.full(8, 0.3, np.float32), np.full(SHAPE, 0.3, np.float32)):
        found = likelihood.decoder_logvar(LOGSNR_T, LOGSNR_S, v)
        expected = 0.7 * np.log(small) + 0.3 * np.log(sigma**2)
        expected = like(expected, v) if v.ndim == 4 else expected
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-4)


def levels(num_levels):
    return np.float32(2 * np.arange(num_levels) / (num_levels - 1) - 1)


@pytest.mark.parametrize("num_levels", [2, 5, 256])
def test_the_probabilities_of_all_levels_sum_to_one(num_levels):
    """x_hat inside and outside the range, standard deviations from 5e-5 to 3."""
    x_hat = np.float32([-1.3, -1, -0.999, -0.2, 0, 0.337, 1, 2.5])
    logvar = np.float32([-20, -14, -10, -6, -2, 0, 2])
    grid = np.meshgrid(levels(num_levels), x_hat, logvar, indexing="ij")
    x, x_hat, logvar = (np.float32(value).reshape(-1, 1) for value in grid)
    nats = decoder_nll(x, x_hat, logvar, num_levels=num_levels)
    total = np.exp(-np.float64(nats)).reshape(num_levels, -1).sum(axis=0)
    np.testing.assert_allclose(total, 1, atol=1e-4)


def bins():
    """Float32 triples (x, x_hat, deviation) for the middle, both tails and both open bins."""
    x = levels(256)[[0, 1, 3, 60, 127, 128, 200, 254, 255]]
    x_hat = np.float32([-30, -1.5, -1, -0.996, -0.3, 0, 0.0039, 0.6, 1, 1.7, 300])
    deviation = np.float32(np.exp([-11, -10, -8, -6, -5, -4, -3, -2, -1, 0]))
    return [value.reshape(-1, 1) for value in np.meshgrid(x, x_hat, deviation)]


def exact_bin(x, x_hat, deviation):
    """Standardized edges of the bin, mirrored into the lower tail, and log of its mass by SciPy."""
    x, x_hat, deviation = (np.float64(value) for value in (x, x_hat, deviation))
    mirror = np.where(x > x_hat, -1, 1)
    lower = np.where(x < -0.999, -np.inf, (x - 1 / 255 - x_hat) / deviation)
    upper = np.where(x > 0.999, np.inf, (x + 1 / 255 - x_hat) / deviation)
    low, high = np.where(mirror > 0, [lower, upper], [-upper, -lower])
    log_low, log_high = norm.logcdf(low), norm.logcdf(high)
    return lower, upper, log_high + np.log1p(-np.exp(log_low - log_high))


def test_the_decoder_is_accurate_in_both_tails_and_in_open_bins():
    x, x_hat, deviation = bins()
    _, _, expected = exact_bin(x, x_hat, deviation)
    assert expected.min() < -1e12 and expected.max() > -1e-9
    nats = decoder_nll(x, x_hat, np.float32(2 * np.log(np.float64(deviation))))
    np.testing.assert_allclose(nats, -expected[:, 0], rtol=2e-5, atol=2e-5)


def test_the_decoders_gradients_are_finite_and_right_however_unlikely_the_data():
    """d log P / d x_hat = (phi(lower) - phi(upper)) / (deviation P), and likewise for logvar."""
    x, x_hat, deviation = bins()
    lower, upper, log_mass = exact_bin(x, x_hat, deviation)
    at_lower, at_upper = (np.exp(norm.logpdf(edge) - log_mass) for edge in (lower, upper))
    by_x_hat = (at_lower - at_upper) / deviation
    finite = [np.where(np.isfinite(edge), edge, 0) for edge in (lower, upper)]
    by_logvar = (finite[0] * at_lower - finite[1] * at_upper) / 2
    logvar = np.float32(2 * np.log(np.float64(deviation)))
    gradient = jax.jit(jax.grad(lambda *given: -decoder_nll(x, *given).sum(), (0, 1)))
    # Further out, the difference of two log-probabilities cancels in float64 too.
    known = log_mass > -1e8
    assert 0.8 < known.mean() < 1
    for found, expected in zip(gradient(x_hat, logvar), (by_x_hat, by_logvar), strict=True):
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[known], expected[known], rtol=2e-3, atol=2e-3)


def test_continuous_data_have_the_gaussian_density():
    x, x_hat, logvar = normal(11, SHAPE), normal(12, SHAPE), normal(13, (8,))
    found = decoder_nll(x, x_hat, logvar, num_levels=None)
    deviation = like(np.exp(np.float64(logvar) / 2), x)
    expected = -norm.logpdf(np.float64(x), x_hat, deviation).sum(axis=DATA_AXES)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_uniform_8_bit_data_cost_8_bits():
    nats = np.full(5, 12 * np.log(256))
    np.testing.assert_allclose(likelihood.bits_per_dim(nats, (5, 2, 2, 3)), 8)


# Gaussian data in DIM dimensions, of known likelihood.
ROWS, DIM, MEAN, VARIANCE = 4000, 8, 0.4, 0.3
GAUSSIAN = cfg_jax.GaussianMixture(np.full((1, DIM), MEAN), VARIANCE, np.ones(1))
LABELS = np.zeros(ROWS, np.int32)
X = np.asarray(GAUSSIAN.draw(jax.random.key(1), LABELS))
# One end is pure noise; the other leaves enough noise to exercise the decoder.
SCHEDULE = cfg_jax.cosine_schedule(logsnr_min=-20, logsnr_max=7)


def uncertainty(logsnr):
    """Variance of x given z, in which precisions add."""
    return 1 / (1 / VARIANCE + np.exp(logsnr))


def best_exponents(logsnrs):
    """v of every call that makes the Gaussian p equal to p(z_s | z_t), and to p(x | z_T).

    Law of total variance: variance of q(z_s | z_t, x) plus variance of its mean.
    """
    logsnrs = np.float64(logsnrs)
    _, b, small = reverse(logsnrs[:-1], logsnrs[1:])
    _, large = forward(logsnrs[:-1], logsnrs[1:])
    true = small + b**2 * uncertainty(logsnrs[:-1])
    steps = np.log(true / small) / np.log(large / small)
    largest = alpha_sigma(logsnrs[-1])[1] ** 2
    last = np.log(uncertainty(logsnrs[-1]) / small[-1]) / np.log(largest / small[-1])
    return np.float32(np.append(steps, last))


@jax.jit
def gaussian_gap(key, x, logsnrs, exponents):
    """Bound minus -log p(x) per row, in nats per dimension."""

    def predict(z, logsnr, labels):
        v = jnp.interp(logsnr, logsnrs, exponents)
        eps_hat = GAUSSIAN.predict(z, logsnr, labels)
        return Prediction(eps_hat, jnp.broadcast_to(v[:, None], z.shape))

    parts = likelihood.variational_bound(
        key, predict, x, LABELS, logsnrs, num_levels=None, clip_x=False
    )
    squares = jnp.sum((x - MEAN) ** 2, axis=1) / VARIANCE
    exact = (squares + DIM * jnp.log(2 * jnp.pi * VARIANCE)) / 2
    return (sum(parts.values()) - exact) / DIM


def gap(num_steps, exponents):
    """Mean gap and its standard error; exponents(logsnrs) returns v of every call."""
    logsnrs = np.asarray(cfg_jax.logsnr_grid(SCHEDULE, num_steps))
    each = np.float64(gaussian_gap(jax.random.key(2), X, logsnrs, exponents(logsnrs)))
    return each.mean(), each.std() / np.sqrt(ROWS)


def expected_gap(num_steps):
    """Gap for v = 0: steps and decoder are Gaussians of correct mean, but too narrow."""
    logsnrs = np.float64(cfg_jax.logsnr_grid(SCHEDULE, num_steps))
    _, b, small = reverse(logsnrs[:-1], logsnrs[1:])
    true = np.append(small + b**2 * uncertainty(logsnrs[:-1]), uncertainty(logsnrs[-1]))
    return kl(0.0, true, 0.0, np.append(small, small[-1])).sum()


@pytest.mark.parametrize("num_steps", [6, 50])
def test_the_bound_exceeds_the_log_likelihood_by_what_its_steps_are_too_narrow(num_steps):
    found, error = gap(num_steps, np.zeros_like)
    assert abs(found - expected_gap(num_steps)) < 4.5 * error
    assert found > 1


def test_the_bound_of_many_steps_is_the_log_likelihood():
    found, error = gap(300, np.ones_like)
    assert abs(found) < 4.5 * error < 0.03


def test_the_bound_is_the_log_likelihood_in_few_steps_of_the_best_variance():
    found, error = gap(6, best_exponents)
    assert abs(found) < 4.5 * error < 0.03
    assert found + 0.05 < gap(6, np.ones_like)[0] < gap(6, np.zeros_like)[0]


GRID = np.float32([-20, -4, -1, 0.5, 3, 6])
PARTS = ["prior", "diffusion", "decoder"]


@partial(jax.jit, static_argnames=("learned", "clip_x"))
def fixed_bound(x, x_hat, v, logsnrs=GRID, swing=0.0, *, learned=False, clip_x=True):
    """Bound of a Predict with constant x_hat; exponent v, or v + swing sin(logsnr) if learned."""

    def predict(z, logsnr, labels):
        eps_hat = cfg_jax.predict_eps(z, x_hat, logsnr)
        exponent = v + swing * jnp.sin(logsnr)[:, None]
        return Prediction(eps_hat, exponent) if learned else eps_hat

    constant = 0.7 if learned else v
    return likelihood.variational_bound(
        jax.random.key(3),
        predict,
        x,
        jnp.zeros(len(x), jnp.int32),
        logsnrs,
        logvar_interp=constant,
        clip_x=clip_x,
    )


@pytest.mark.parametrize(("clip_x", "answer"), [(True, 1.0), (False, 1.5)])
def test_a_fixed_answer_costs_its_squared_distance_at_every_level(clip_x, answer):
    """Sum of (snr_s - snr_t) / 2 (x - x_hat)^2 telescopes; the 8-bit decoder is SciPy's."""
    x = levels(256)[np.random.default_rng(14).integers(1, 255, (4, 3))]
    parts = fixed_bound(x, np.full_like(x, 1.5), np.zeros_like(x), clip_x=clip_x)
    assert {name: part.shape for name, part in parts.items()} == dict.fromkeys(PARTS, (4,))
    squares = (np.float64(x) - answer) ** 2
    expected = (np.exp(6) - np.exp(-20)) / 2 * squares.sum(axis=1)
    np.testing.assert_allclose(parts["diffusion"], expected, rtol=1e-4)
    _, _, variance = reverse(3.0, 6.0)
    _, _, log_mass = exact_bin(x, answer, np.sqrt(variance))
    np.testing.assert_allclose(parts["decoder"], -log_mass.sum(axis=1), rtol=1e-4)
    prior = likelihood.prior_kl(x, np.float32(-20))
    np.testing.assert_allclose(parts["prior"], prior, rtol=1e-6)


def test_the_exponent_of_a_prediction_comes_before_the_constant_one():
    x, x_hat = np.zeros((4, 3), np.float32), np.full((4, 3), 0.1, np.float32)
    v = np.random.default_rng(15).uniform(0, 1, (4, 3)).astype(np.float32)
    by_network = fixed_bound(x, x_hat, v, learned=True)
    by_constant = fixed_bound(x, x_hat, v)
    for part in PARTS:
        np.testing.assert_allclose(by_network[part], by_constant[part], rtol=1e-6)
    other = fixed_bound(x, x_hat, np.zeros_like(v))
    assert np.all(abs(by_network["diffusion"] / other["diffusion"] - 1) > 0.01)
    assert np.all(abs(by_network["decoder"] / other["decoder"] - 1) > 1e-4)


def test_the_network_is_called_once_at_each_log_snr_with_fresh_noise_and_the_labels():
    calls, x = [], normal(16, (4, 300))

    def predict(z, logsnr, labels):
        jax.debug.callback(lambda *given: calls.append(given), z, logsnr, labels)
        return z

    run = jax.jit(
        lambda key: likelihood.variational_bound(
            key, predict, x, jnp.arange(4), GRID, num_levels=None
        )
    )
    jax.block_until_ready(run(jax.random.key(3)))
    jax.effects_barrier()
    assert len(calls) == len(GRID)
    calls.sort(key=lambda given: given[1][0])
    noise = []
    for (z, logsnr, labels), expected in zip(calls, GRID, strict=True):
        np.testing.assert_array_equal(logsnr, np.full(4, expected))
        np.testing.assert_array_equal(labels, np.arange(4))
        alpha, sigma = alpha_sigma(expected)
        noise.append((z - alpha * x) / sigma)
    noise = np.concatenate(noise)
    assert np.abs(np.corrcoef(noise) - np.eye(24)).max() < 5.5 / np.sqrt(300)
    assert abs(np.mean(noise**2) - 1) < 4.5 * np.sqrt(2 / noise.size)


def test_the_bound_of_an_example_does_not_depend_on_its_neighbours():
    x = levels(256)[np.random.default_rng(17).integers(0, 256, (6, 3))]
    keys = cfg_jax.keys.per_example(jax.random.key(4), 6)

    @jax.jit
    def run(key, x):
        labels = jnp.zeros(len(x), jnp.int32)
        return likelihood.variational_bound(
            key, lambda z, logsnr, labels: 0.5 * z, x, labels, GRID, logvar_interp=0.3
        )

    def check(rows, found):
        for part in PARTS:
            np.testing.assert_allclose(found[part], whole[part][rows], rtol=1e-5)

    whole, order = run(keys, x), np.array([4, 2, 0, 5, 1, 3])
    assert len(np.unique(whole["diffusion"])) == 6
    check(order, run(keys[order], x[order]))
    others = run(keys, np.where(np.arange(6)[:, None] == 3, x, -x))
    check(3, {part: value[3] for part, value in others.items()})
    check(np.arange(2), run(jax.random.key(4), x[:2]))


def test_terms_at_uniform_u_add_up_to_the_bound_of_their_steps():
    """Terms in 16 strata of each interval of u, against the bounds on 16 shifted grids."""
    schedule, num_steps = cfg_jax.cosine_schedule(-12, 12), len(GRID)
    shifts = (np.arange(16) + 0.5) / 16
    x, x_hat = levels(256)[[100, 90, 3]], np.float32([-0.21, -0.3, -0.97])
    u = np.float32((np.arange(num_steps)[::-1] + shifts[:, None]) / num_steps)
    four = [np.tile(value, (4, 1)) for value in (x, x_hat, np.full(3, 0.5, np.float32))]
    expected = []
    for grid in np.asarray(schedule(u)):
        parts = fixed_bound(*four, grid, 0.4, learned=True)
        expected.append(parts["diffusion"][0] + parts["decoder"][0])
    u = u.reshape(-1)
    x, x_hat = (np.tile(value, (u.size, 1)) for value in (x, x_hat))
    terms = jax.jit(
        lambda u: likelihood.bound_term(
            x,
            x,
            x_hat,
            u,
            schedule=schedule,
            num_steps=num_steps,
            logvar_interp=0.5 + 0.4 * jnp.sin(schedule(u)),
        )
    )(u)
    found = num_steps * np.mean(np.float64(terms))
    np.testing.assert_allclose(found, np.mean(np.float64(expected)), rtol=1e-3)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_term_and_its_gradients_are_finite_at_every_u(kind):
    """Untrained answers: eps_hat zero or three times too large, exponents outside [0, 1].

    The discrete schedule has fewer levels than the bound has steps; some steps have length 0.
    """
    schedule = cfg_jax.cosine_schedule()
    if kind == "discrete":

        def schedule(u):
            return cfg_jax.cosine_schedule()(jnp.floor(u * 300) / 300)

    edge = np.float32(1e-3)
    u = np.float32([0, 1e-9, np.nextafter(edge, 0), edge, np.nextafter(edge, 1), 0.5, 1 - 6e-8, 1])
    x = np.tile(levels(256)[[0, 77, 255]], (8, 1))
    z = cfg_jax.diffuse(x, normal(18, x.shape), schedule(u))

    @jax.jit
    def value_and_gradients(eps_hat, v):
        def total(eps_hat, v):
            x_hat = cfg_jax.predict_x(z, eps_hat, schedule(u))
            nats = likelihood.bound_term(
                z, x, x_hat, u, schedule=schedule, num_steps=1000, logvar_interp=v
            )
            return nats.sum(), nats

        return jax.value_and_grad(total, (0, 1), has_aux=True)(eps_hat, v)

    # Exponents for which exp overflows in the branch that a row does not select.
    ours = np.where(u < edge, -60 if kind == "continuous" else -1, 60)
    for size, v in [(0, 0.5), (3, -1), (3, 2), (1, ours)]:
        exponents = np.broadcast_to(np.float32(like(v, x) if np.ndim(v) else v), x.shape)
        (_, nats), gradients = value_and_gradients(size * normal(19, x.shape), exponents)
        assert np.isfinite(nats).all() and np.all(nats >= 0)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_a_bound_on_no_grid_is_refused(shape):
    with pytest.raises(ValueError, match="at least 2"):
        refused(logsnrs=np.zeros(shape, np.float32))


@pytest.mark.parametrize("logsnrs", [[3, 2, 1], [1, 2, 2], [1, float("nan")]])
def test_a_grid_that_does_not_ascend_is_refused(logsnrs):
    with pytest.raises(ValueError, match="noise to data"):
        refused(logsnrs=np.float32(logsnrs))


@pytest.mark.parametrize("num_levels", [1, 0, -256])
def test_fewer_than_two_levels_are_refused(num_levels):
    with pytest.raises(ValueError, match=f"num_levels={num_levels}"):
        refused(num_levels=num_levels)
    with pytest.raises(ValueError, match=f"num_levels={num_levels}"):
        likelihood.decoder_nll(jnp.zeros((2, 3)), jnp.zeros((2, 3)), 0.0, num_levels=num_levels)


def refused(logsnrs=GRID, **options):
    def predict(z, logsnr, labels):
        raise AssertionError("the network must not be called")

    x = jnp.zeros((2, 3))
    labels = jnp.zeros(2, jnp.int32)
    return likelihood.variational_bound(jax.random.key(0), predict, x, labels, logsnrs, **options)
