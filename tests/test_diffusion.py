"""Marginals, posterior, and conversions between eps, x and v."""

import jax
import numpy as np
import pytest

import cfg_jax
from cfg_jax.core import diffusion
from cfg_jax.core.types import Prediction, eps_of, with_eps
from tests.closed_form import PAIRS, alpha_sigma, forward, like, reverse

LOGSNR_T, LOGSNR_S = PAIRS.T
T, S, R = np.float32(
    [
        (-20, -9, 1),
        (-20, 0, 20),
        (-6, -2, 0),
        (-2, 0, 0.5),
        (-1, 1, 8),
        (0, 4, 20),
        (1, 1.5, 2),
        (9, 12, 20),
    ]
).T
SHAPES = [(8, 3), (8, 2, 2, 3)]
posterior = jax.jit(cfg_jax.posterior)


def normal(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_alpha_and_sigma_are_cosine_and_sine_of_one_angle_out_to_both_ends():
    logsnr = np.linspace(-20, 20, 4001).astype(np.float32)
    alpha, sigma = map(np.asarray, jax.jit(cfg_jax.alpha_sigma)(logsnr))
    assert alpha.dtype == sigma.dtype == np.float32
    cosine, sine = alpha_sigma(logsnr)
    np.testing.assert_allclose(alpha, cosine, rtol=2e-6)
    np.testing.assert_allclose(sigma, sine, rtol=2e-6)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=0, atol=3e-7)
    # From the notes to the paper: an error of eps is 22,026 times larger in x at -20.
    assert abs(1 / alpha[0] - 22_026) < 1 and abs(1 / sigma[-1] - 22_026) < 1


@pytest.mark.parametrize("shape", SHAPES)
def test_diffusing_weights_each_example_by_its_own_log_snr(shape):
    x, eps = normal(0, shape), normal(1, shape)
    logsnr = np.float32([-20, -3, -0.5, 0, 1, 4, 12, 20])
    alpha, sigma = (like(value, x) for value in alpha_sigma(logsnr))
    z = jax.jit(cfg_jax.diffuse)(x, eps, logsnr)
    np.testing.assert_allclose(z, alpha * x + sigma * eps, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_posterior_is_bayes_rule(shape):
    z_t, x = normal(2, shape), normal(3, shape)
    a, b, variance = (like(value, x) for value in reverse(LOGSNR_T, LOGSNR_S))
    mean, logvar = posterior(z_t, x, LOGSNR_T, LOGSNR_S)
    assert mean.dtype == logvar.dtype == np.float32
    np.testing.assert_allclose(mean, a * z_t + b * x, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(
        np.broadcast_to(logvar, shape), np.broadcast_to(np.log(variance), shape), atol=1e-5
    )


@pytest.mark.parametrize("v", [0, 0.3, 1, (0, 1, 0.3, 0.5, 0.2, 0.9, 0, 1)])
def test_the_reverse_variance_lies_between_that_of_the_posterior_and_of_the_forward_step(v):
    z, v = normal(4, (8, 3)), np.broadcast_to(np.float32(v), 8)
    _, _, small = reverse(LOGSNR_T, LOGSNR_S)
    _, large = forward(LOGSNR_T, LOGSNR_S)
    _, logvar = posterior(z, z, LOGSNR_T, LOGSNR_S, logvar_interp=v)
    np.testing.assert_allclose(np.exp(logvar[:, 0]), small ** (1 - v) * large**v, rtol=2e-5)


def test_the_posterior_is_that_of_discrete_ddpm():
    """Ho et al. 2020, equations 6 and 7, with alpha_bar in place of the log-SNR."""
    beta = np.linspace(0.005, 0.6, 20)
    alpha_bar = np.cumprod(1 - beta)
    logsnr = np.float32(np.log(alpha_bar / (1 - alpha_bar)))
    t = np.array([1, 2, 3, 5, 10, 15, 18, 19])
    now, before = alpha_bar[t], alpha_bar[t - 1]
    z_t, x = normal(5, (8, 3)), normal(6, (8, 3))
    mean, logvar = posterior(z_t, x, logsnr[t], logsnr[t - 1])
    weight_x = np.sqrt(before) * beta[t] / (1 - now)
    weight_z = np.sqrt(1 - beta[t]) * (1 - before) / (1 - now)
    expected = weight_x[:, None] * x + weight_z[:, None] * z_t
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=2e-6)
    beta_tilde = (1 - before) / (1 - now) * beta[t]
    np.testing.assert_allclose(np.exp(logvar[:, 0]), beta_tilde, rtol=1e-5)
    _, logvar = posterior(z_t, x, logsnr[t], logsnr[t - 1], logvar_interp=np.float32(1))
    np.testing.assert_allclose(np.exp(logvar[:, 0]), beta[t], rtol=1e-5)


def coefficients(logsnr_t, logsnr_s):
    """Coefficients of the package's mean = a z_t + b x, and its variance, from unit arguments."""
    one, zero = np.ones((8, 3), np.float32), np.zeros((8, 3), np.float32)
    a, logvar = posterior(one, zero, logsnr_t, logsnr_s)
    b, _ = posterior(zero, one, logsnr_t, logsnr_s)
    return tuple(np.float64(value)[:, 0] for value in (a, b, np.exp(logvar)))


def test_posterior_times_marginal_is_the_joint_of_two_noise_levels():
    a, b, variance = coefficients(LOGSNR_T, LOGSNR_S)
    alpha_t, sigma_t = alpha_sigma(LOGSNR_T)
    alpha_s, sigma_s = alpha_sigma(LOGSNR_S)
    np.testing.assert_allclose(a * alpha_t + b, alpha_s, rtol=1e-5)
    np.testing.assert_allclose(a**2 * sigma_t**2 + variance, sigma_s**2, rtol=1e-5)
    # Covariance of z_t and z_s: q(z_t | z_s) scales z_s by alpha_t / alpha_s.
    np.testing.assert_allclose(a * sigma_t**2, alpha_t / alpha_s * sigma_s**2, rtol=1e-5)


def test_two_steps_towards_data_are_one_longer_step():
    a_st, b_st, variance_st = coefficients(T, S)
    a_rs, b_rs, variance_rs = coefficients(S, R)
    a_rt, b_rt, variance_rt = coefficients(T, R)
    np.testing.assert_allclose(a_rs * a_st, a_rt, rtol=2e-5)
    np.testing.assert_allclose(a_rs * b_st + b_rs, b_rt, rtol=2e-5)
    np.testing.assert_allclose(a_rs**2 * variance_st + variance_rs, variance_rt, rtol=2e-5)


def test_noising_twice_is_noising_once():
    """q(z_t | z_s) q(z_s | z_r) = q(z_t | z_r), and q(z_s | x) is the step from clean data."""
    z = np.zeros((8, 3), np.float32)

    def step_variance(low, high):
        _, logvar = posterior(z, z, low, high, logvar_interp=np.float32(1))
        return np.exp(np.float64(logvar))[:, 0]

    ratio = alpha_sigma(T)[0] / alpha_sigma(S)[0]
    twice = ratio**2 * step_variance(S, R) + step_variance(T, S)
    np.testing.assert_allclose(twice, step_variance(T, R), rtol=2e-5)
    noised = ratio**2 * alpha_sigma(S)[1] ** 2 + step_variance(T, S)
    np.testing.assert_allclose(noised, alpha_sigma(T)[1] ** 2, rtol=2e-5)


def test_a_step_of_no_length_stays_where_it_is():
    z_t, x = normal(7, (8, 3)), normal(8, (8, 3))
    mean, logvar = posterior(z_t, x, LOGSNR_S, LOGSNR_S)
    np.testing.assert_array_equal(mean, z_t)
    np.testing.assert_array_equal(np.exp(logvar), 0)


LOGSNRS = [np.float32([-7, -2, -0.5, 0, 1, 3, 5, 7]), np.float32(-1.5)]


@jax.jit
def conversions(z, x, eps, v, logsnr):
    return (
        cfg_jax.predict_x(z, eps, logsnr),
        cfg_jax.predict_eps(z, x, logsnr),
        cfg_jax.predict_v(x, eps, logsnr),
        diffusion.predict_eps_from_v(z, v, logsnr),
    )


@pytest.mark.parametrize("logsnr", LOGSNRS, ids=["per example", "scalar"])
@pytest.mark.parametrize("shape", SHAPES)
def test_eps_x_and_v_are_three_views_of_one_prediction(shape, logsnr):
    x, eps = normal(9, shape), normal(10, shape)
    alpha, sigma = (like(np.broadcast_to(value, shape[:1]), x) for value in alpha_sigma(logsnr))
    z = np.float32(alpha * x + sigma * eps)
    v = np.float32(alpha * eps - sigma * x)
    for actual, expected in zip(conversions(z, x, eps, v, logsnr), (x, eps, v, eps), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("logsnr", [-20.0, 20.0])
def test_v_gives_eps_and_x_without_loss_at_either_end(logsnr):
    x, eps = normal(11, (8, 3)), normal(12, (8, 3))
    alpha, sigma = alpha_sigma(logsnr)
    z = np.float32(alpha * x + sigma * eps)
    _, _, v, _ = conversions(z, x, eps, z, np.float32(logsnr))
    np.testing.assert_allclose(alpha * z - sigma * np.float64(v), x, atol=1e-6)
    _, _, _, eps_hat = conversions(z, x, eps, v, np.float32(logsnr))
    np.testing.assert_allclose(eps_hat, eps, atol=1e-6)


two_heads = jax.jit(diffusion.predict_eps_from_x_and_eps)


def test_two_heads_are_averaged_in_x_by_the_noise_and_the_signal_share():
    x_head, eps_head, z = (normal(seed, (8, 2, 2, 3)) for seed in (13, 14, 15))
    logsnr = LOGSNRS[0]
    alpha, sigma = (like(value, z) for value in alpha_sigma(logsnr))
    x_hat = sigma**2 * x_head + alpha**2 * (z - sigma * eps_head) / alpha
    heads = np.concatenate([x_head, eps_head], axis=-1)
    eps_hat = two_heads(z, heads, logsnr)
    np.testing.assert_allclose(eps_hat, (z - alpha * x_hat) / sigma, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.parametrize("prediction", ["eps", "x", "v", "x_and_eps"])
def test_a_network_may_answer_in_any_parametrization(prediction, learned_variance):
    """Optional variance channels follow the others; -1 is the lower bound, 1 the upper."""
    x, eps, logsnr = normal(16, (8, 2, 2, 3)), normal(17, (8, 2, 2, 3)), LOGSNRS[0]
    labels, exponent = np.arange(8), np.random.default_rng(18).random(x.shape, np.float32)
    alpha, sigma = (like(value, x) for value in alpha_sigma(logsnr))
    z = np.float32(alpha * x + sigma * eps)
    truth = {
        "eps": eps,
        "x": x,
        "v": np.float32(alpha * eps - sigma * x),
        "x_and_eps": np.concatenate([x, eps], axis=-1),
    }[prediction]
    if learned_variance:
        truth = np.concatenate([truth, exponent - (1 - exponent)], axis=-1)
    calls = []

    def network(*arguments):
        calls.append(arguments)
        return truth

    predict = cfg_jax.as_predict(network, prediction, learned_variance=learned_variance)
    output = predict(z, logsnr, labels)
    assert isinstance(output, Prediction) == (learned_variance or prediction == "x")
    if prediction == "x":
        np.testing.assert_array_equal(output.x_hat, x)
    np.testing.assert_allclose(eps_of(output), eps, rtol=1e-4, atol=2e-5)
    if learned_variance:
        np.testing.assert_allclose(output.logvar_interp, exponent, atol=1e-6)
    assert len(calls) == 1
    for given, expected in zip(calls[0], (z, logsnr, labels), strict=True):
        np.testing.assert_array_equal(given, expected)


def test_a_network_that_learns_the_variance_reaches_both_of_its_bounds():
    _, _, small = reverse(LOGSNR_T, LOGSNR_S)
    _, large = forward(LOGSNR_T, LOGSNR_S)
    z = np.zeros((8, 3), np.float32)
    ends = np.broadcast_to(np.float32([0, 0, 0, -1, 0, 1]), (8, 6))
    predict = cfg_jax.as_predict(lambda *_: ends, "eps", learned_variance=True)
    interp = predict(z, LOGSNR_T, np.arange(8)).logvar_interp
    _, logvar = posterior(z, z, LOGSNR_T, LOGSNR_S, logvar_interp=interp)
    expected = np.stack([small, np.sqrt(small * large), large], axis=1)
    np.testing.assert_allclose(np.exp(logvar), expected, rtol=2e-5)


def test_another_eps_leaves_the_variance_it_came_with():
    eps, other, v = normal(19, (2, 3)), normal(20, (2, 3)), normal(21, (2, 3))
    assert eps_of(eps) is eps and eps_of(Prediction(eps, v)) is eps
    assert with_eps(eps, other) is other
    changed = with_eps(Prediction(eps, v), other)
    assert changed.eps_hat is other and changed.logvar_interp is v


def test_an_unknown_parametrization_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'score'.*eps, x, v, x_and_eps"):
        cfg_jax.as_predict(lambda z, logsnr, labels: z, "score")


@pytest.mark.parametrize("shape", [(7,), (1,), (3,), (2, 8)])
@pytest.mark.parametrize(
    "function",
    [
        lambda z, logsnr: cfg_jax.diffuse(z, z, logsnr),
        lambda z, logsnr: cfg_jax.predict_x(z, z, logsnr),
        lambda z, logsnr: cfg_jax.predict_eps(z, z, logsnr),
        lambda z, logsnr: cfg_jax.predict_v(z, z, logsnr),
        lambda z, logsnr: cfg_jax.posterior(z, z, logsnr, 1.0),
        lambda z, logsnr: cfg_jax.posterior(z, z, 1.0, logsnr),
        lambda z, logsnr: cfg_jax.posterior(z, z, 0.0, 1.0, logvar_interp=logsnr),
    ],
)
def test_a_log_snr_that_fits_no_example_is_refused(function, shape):
    """[3] and [2, 8] would broadcast against the channels or rows of an image."""
    with pytest.raises(ValueError, match="one number per example"):
        function(np.zeros((8, 2, 2, 3), np.float32), np.zeros(shape, np.float32))


def test_the_checks_of_log_snrs_take_constants_and_traced_values_inside_jit():
    x, eps = np.ones((2, 3), np.float32), np.full((2, 3), 0.5, np.float32)

    def both(t, s):
        z = cfg_jax.diffuse(x, eps, t)
        return z, cfg_jax.posterior(z, x, t, s)[0]

    expected = both(0.5, 2.0)
    for found in (jax.jit(lambda: both(0.5, 2.0))(), jax.jit(both)(0.5, np.full(2, 2.0))):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
