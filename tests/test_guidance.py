"""Guided scores against their densities, and the inputs of each branch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

import cfg_jax
from cfg_jax.core.diffusion import from_x
from cfg_jax.core.guidance import cfg, weight_per_step
from cfg_jax.core.types import Prediction
from tests.closed_form import Mixture, alpha_sigma, like

MEANS = np.float32([[1.0, 0.0], [-0.5, 1.0], [0.2, -1.2]])
VARIANCE = np.float32([0.1, 0.3, 0.2])
WEIGHTS = np.float32([0.5, 0.3, 0.2])
MIXTURE = cfg_jax.GaussianMixture(MEANS, VARIANCE, WEIGHTS)
NULL = 3

# No two examples share log-SNR, label and weight; all special weights occur.
LOGSNR = np.float32([-6, -2, -0.5, 0, 0.5, 1, 2, 4])
LABELS = np.int32([0, 1, 2, 1, 0, 2, 0, 1])
W = np.float32([-3, -1, -0.5, 0, 0.3, 1, 4, 30])
Z = np.random.default_rng(1).standard_normal((8, 2)).astype(np.float32)


@jax.jit
def guided(z, logsnr, labels, w):
    return cfg_jax.classifier_free_guidance(MIXTURE.predict, labels, w, null_label=NULL)(z, logsnr)


@jax.jit
def plain(z, logsnr, labels):
    return MIXTURE.predict(z, logsnr, labels)


def log_densities(z, logsnr):
    """log p(z | c) [K] and log p(z) of one point, from one-dimensional normal densities."""
    angle = jnp.arctan(jnp.exp(-logsnr / 2))
    spread = jnp.sqrt(jnp.cos(angle) ** 2 * VARIANCE + jnp.sin(angle) ** 2)
    each = sum(norm.logpdf(z[axis], jnp.cos(angle) * MEANS[:, axis], spread) for axis in range(2))
    return each, logsumexp(each, b=WEIGHTS)


def guided_log_density(z, logsnr, label, w):
    each, marginal = log_densities(z, logsnr)
    return (1 + w) * each[label] - w * marginal


guided_score = jax.jit(jax.vmap(jax.grad(guided_log_density)))


def assert_close_for_weight(actual, expected, w):
    """Asserts with a tolerance that grows with w, which multiplies a difference of two answers."""
    error = np.abs(np.float64(actual) - expected).max(axis=1)
    assert np.all(error < 3e-6 * (1 + np.abs(w)) * (1 + np.abs(expected).max(axis=1))), error


@pytest.mark.parametrize("w", [W, 0.0, -1.0, 2.5, -4.0, 100.0])
def test_the_guided_score_is_that_of_the_density_with_weights_one_plus_w_and_minus_w(w):
    w = np.broadcast_to(np.float32(w), 8)
    _, sigma = alpha_sigma(LOGSNR)
    expected = -sigma[:, None] * np.float64(guided_score(Z, LOGSNR, LABELS, w))
    assert_close_for_weight(guided(Z, LOGSNR, LABELS, w), expected, w)


def test_one_weight_and_one_log_snr_may_serve_the_whole_batch():
    each = guided(Z, np.full(8, 0.5, np.float32), LABELS, np.full(8, 2, np.float32))
    np.testing.assert_array_equal(guided(Z, np.float32(0.5), LABELS, np.float32(2)), each)


def test_weight_zero_is_the_conditional_model_bit_for_bit():
    conditional = plain(Z, LOGSNR, LABELS)
    np.testing.assert_array_equal(guided(Z, LOGSNR, LABELS, np.zeros(8, np.float32)), conditional)
    np.testing.assert_array_equal(guided(Z, LOGSNR, LABELS, np.float32(0)), conditional)


def test_weight_minus_one_is_the_unconditional_model_bit_for_bit():
    unconditional = plain(Z, LOGSNR, np.full_like(LABELS, NULL))
    np.testing.assert_array_equal(
        guided(Z, LOGSNR, LABELS, np.full(8, -1, np.float32)), unconditional
    )
    np.testing.assert_array_equal(guided(Z, LOGSNR, LABELS, np.float32(-1)), unconditional)


class Recorder:
    """Predict that records its arguments; eps_hat = z + logsnr + 10 label per row."""

    def __init__(self):
        self.calls = []

    def __call__(self, z, logsnr, labels):
        self.calls.append(tuple(map(np.asarray, (z, logsnr, labels))))
        return z + like(logsnr, z) + 10.0 * like(labels, z)


@pytest.mark.parametrize("w", [1.5, -1.5, W, jnp.float32(0), jnp.float32(-1)])
def test_both_branches_are_one_forward_of_twice_the_batch(w):
    predict = Recorder()
    denoiser = cfg_jax.classifier_free_guidance(predict, LABELS, w, null_label=NULL)
    eps_hat = denoiser(Z, LOGSNR)
    assert eps_hat.shape == Z.shape
    ((z, logsnr, labels),) = predict.calls
    np.testing.assert_array_equal(z, np.tile(Z, (2, 1)))
    np.testing.assert_array_equal(logsnr, np.tile(LOGSNR, 2))
    # Every example once with its label and once with the null label.
    np.testing.assert_array_equal(np.sort(labels.reshape(2, 8), axis=0), [LABELS, [NULL] * 8])
    w = np.broadcast_to(w, 8)[:, None]
    expected = Z + LOGSNR[:, None] + 10 * ((1 + w) * LABELS[:, None] - w * NULL)
    np.testing.assert_allclose(eps_hat, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("w", "only"), [(0, LABELS), (0.0, LABELS), (-1, [NULL] * 8)])
def test_a_branch_that_counts_for_nothing_is_not_evaluated(w, only):
    predict = Recorder()
    cfg_jax.classifier_free_guidance(predict, LABELS, w, null_label=NULL)(Z, np.float32(2))
    ((z, logsnr, labels),) = predict.calls
    np.testing.assert_array_equal(z, Z)
    np.testing.assert_array_equal(logsnr, [2] * 8)
    np.testing.assert_array_equal(labels, only)


def test_every_channel_is_guided():
    conditional = np.random.default_rng(2).standard_normal((2, 3, 3, 4)).astype(np.float32)
    unconditional = np.random.default_rng(3).standard_normal((2, 3, 3, 4)).astype(np.float32)

    def predict(z, logsnr, labels):
        answers = np.concatenate([conditional, unconditional])
        assert z.shape == answers.shape and labels.tolist() == [0, 1, NULL, NULL]
        return jnp.asarray(answers)

    w = np.float32([2, -0.5])
    denoiser = cfg_jax.classifier_free_guidance(predict, [0, 1], w, null_label=NULL)
    eps_hat = denoiser(np.zeros((2, 3, 3, 4), np.float32), np.zeros(2, np.float32))
    np.testing.assert_allclose(eps_hat[0], 3 * conditional[0] - 2 * unconditional[0], atol=1e-5)
    np.testing.assert_allclose(eps_hat[1], (conditional + unconditional)[1] / 2, atol=1e-5)


GRID = cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 6)
STEPS, SAMPLES = np.arange(6), np.arange(3)


@pytest.mark.parametrize(
    ("w", "batch_size", "expected"),
    [
        (1.5, 3, 0 * STEPS[:, None] + 1.5),
        (SAMPLES, 3, SAMPLES[None]),
        (STEPS, 3, STEPS[:, None]),
        (STEPS[:, None], 3, STEPS[:, None]),
        (10 * STEPS[:, None] + SAMPLES, 3, 10 * STEPS[:, None] + SAMPLES),
        # With equal numbers of samples and steps, a vector is per sample, a column per step.
        (STEPS, 6, STEPS[None]),
        (STEPS[:, None], 6, STEPS[:, None]),
        (STEPS, 1, STEPS[:, None]),
        ([7], 1, 0 * STEPS[:, None] + 7),
    ],
)
def test_a_weight_has_a_row_for_each_step_and_a_column_for_each_sample(w, batch_size, expected):
    table = weight_per_step(w, 6, batch_size)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, np.broadcast_to(expected, (6, batch_size)))


@pytest.mark.parametrize("shape", [(7,), (1,), (8, 1), (6,), (6, 8)])
def test_a_weight_of_another_shape_than_the_batch_is_refused(shape):
    with pytest.raises(ValueError, match="w has shape"):
        cfg_jax.classifier_free_guidance(MIXTURE.predict, LABELS, np.ones(shape), null_label=NULL)


@pytest.mark.parametrize("shape", [(7,), (8, 6), (1, 8), (6, 8, 1)])
def test_a_weight_of_another_shape_than_steps_and_batch_is_refused(shape):
    with pytest.raises(ValueError, match="w has shape"):
        weight_per_step(np.ones(shape), num_steps=6, batch_size=8)


def test_rows_for_another_number_of_steps_are_refused():
    with pytest.raises(ValueError, match="need 6 rows, one per step"):
        cfg_jax.sample(
            jax.random.key(0), lambda w: MIXTURE.predict, (8, 2), GRID, per_step=np.ones((5, 8))
        )


@pytest.mark.parametrize("w", [-3.0, -1.0, 0.0, 2.5])
def test_the_combination_is_the_line_through_both_branches(w):
    conditional, unconditional = np.random.default_rng(0).standard_normal((2, 4, 3, 5))
    found = cfg(jnp.float32(conditional), jnp.float32(unconditional), np.full(4, w, np.float32))
    expected = conditional + w * (conditional - unconditional)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("w", [2.0, 0, -1])
@pytest.mark.parametrize("count", [7, 1])
@pytest.mark.parametrize("logsnr", [np.float32(0), LOGSNR])
def test_a_batch_without_one_label_each_is_refused(w, count, logsnr):
    denoiser = cfg_jax.classifier_free_guidance(MIXTURE.predict, LABELS[:count], w, null_label=NULL)
    with pytest.raises(ValueError, match=rf"labels of shape \({count},\) for a batch of 8"):
        denoiser(Z, logsnr)


@pytest.mark.parametrize("labels", [2, [[0, 1]]])
@pytest.mark.parametrize("w", [2.0, 0])
def test_labels_that_are_no_vector_are_refused(labels, w):
    with pytest.raises(ValueError, match="one per example"):
        cfg_jax.classifier_free_guidance(MIXTURE.predict, labels, w, null_label=NULL)


@pytest.mark.parametrize("w", [2.0, np.float32([3, -1]), 0])
def test_eps_is_guided_and_the_variance_stays_the_conditional_branchs(w):
    z, labels = np.zeros((2, 2, 2, 3), np.float32), np.int32([1, 0])
    own = np.arange(z.size, dtype=np.float32).reshape(z.shape) / 32

    def predict(z, logsnr, labels):
        exponent = jnp.concatenate([own, own])[: len(z)] + like(labels, z)
        return Prediction(z + like(labels, z) ** 2, exponent)

    output = cfg_jax.classifier_free_guidance(predict, labels, w, null_label=NULL)(z, 0.0)
    expected = (1 + np.float32(w)) * labels**2 - w * NULL**2
    np.testing.assert_array_equal(output.eps_hat, z + like(expected, z))
    np.testing.assert_array_equal(output.logvar_interp, own + like(labels, z))


# The paper's range of log-SNRs, with z a diffused example of its class.
WIDE = np.float32([-20, -11, -5, -1, 0.5, 4, 11, 20])
ALPHA, SIGMA = (value[:, None] for value in alpha_sigma(WIDE))
X = MEANS[LABELS] + np.sqrt(VARIANCE[LABELS])[:, None] * Z
Z_WIDE = np.float32(ALPHA * X + SIGMA * Z[:, ::-1])
OTHERS = np.int32([1, 1, 0, 2, 2, 0, 1, 1])
W_OTHERS = np.float32([1, 2, -3, 0, 0.5, 1, 3, 4])
EXACT = Mixture(MEANS, VARIANCE, WEIGHTS)


@jax.jit
def doubly_guided(z, logsnr, labels, w, others, w_others):
    """Classifier-free guidance to `labels`, then the exact classifier's to `others`."""
    return cfg_jax.classifier_guidance(
        cfg_jax.classifier_free_guidance(MIXTURE.predict, labels, w, null_label=NULL),
        lambda z, logsnr: MIXTURE.log_prob_label(z, logsnr, others),
        w_others,
    )(z, logsnr)


@pytest.mark.parametrize("w", [np.float32([-3, -1, -0.5, 0, 0.3, 1, 4, 9]), -2.0, 0.0, 0.3, 4.0])
def test_one_more_weight_of_a_classifier_on_no_label_is_classifier_free_guidance(w):
    unconditional, w = np.float32(-1), np.float32(w)
    found = doubly_guided(Z_WIDE, WIDE, LABELS, unconditional, LABELS, w + 1)
    expected = guided(Z_WIDE, WIDE, LABELS, w)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("w", "w_others"), [(W_OTHERS[::-1], W_OTHERS), (0.5, W_OTHERS), (0, 2.5)])
def test_the_two_guidances_combine_to_the_score_of_both_densities(w, w_others):
    """p(z | c)^(1 + w) p(z)^-w p(c' | z)^w', in float64 by differences of its logarithm."""
    w, w_others = np.float32(w), np.float32(w_others)

    def log_density(z, logsnr):
        marginal = EXACT.log_prob(z, logsnr)
        own, others = (EXACT.log_prob(z, logsnr, labels) for labels in (LABELS, OTHERS))
        return (1 + w) * own - w * marginal + w_others * (others - marginal)

    found = doubly_guided(Z_WIDE, WIDE, LABELS, w, OTHERS, w_others)
    expected = -SIGMA * EXACT.score(log_density, Z_WIDE, WIDE)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_implicit_classifiers_gradient_is_the_exact_classifiers():
    """Compared as eps, -sigma grad_z log p(c | z), whose rounding is similar at both ends."""

    def log_posterior(z, logsnr):
        return EXACT.log_prob(z, logsnr, LABELS) - EXACT.log_prob(z, logsnr)

    expected = -SIGMA * EXACT.score(log_posterior, Z_WIDE, WIDE)
    conditional = np.float64(plain(Z_WIDE, WIDE, LABELS))
    implicit = conditional - plain(Z_WIDE, WIDE, np.full_like(LABELS, NULL))
    np.testing.assert_allclose(implicit, expected, rtol=1e-5, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda z: MIXTURE.log_prob_label(z, WIDE, LABELS).sum()))(Z_WIDE)
    np.testing.assert_allclose(-SIGMA * gradient, expected, rtol=1e-5, atol=1e-6)


def test_a_classifier_of_weight_zero_leaves_every_eps_as_it_was():
    for nothing in (np.float32(0), np.zeros(8, np.float32)):
        found = doubly_guided(Z_WIDE, WIDE, LABELS, W, OTHERS, nothing)
        np.testing.assert_array_equal(found, guided(Z_WIDE, WIDE, LABELS, W))


def test_an_examples_classifier_guidance_does_not_depend_on_its_neighbours():
    arguments = Z_WIDE, WIDE, LABELS, W, OTHERS, W_OTHERS
    found = np.asarray(doubly_guided(*arguments))
    order = np.array([3, 0, 7, 5, 1, 6, 2, 4])
    moved = doubly_guided(*(value[order] for value in arguments))
    np.testing.assert_array_equal(moved, found[order])
    alone = doubly_guided(*(value[5:6] for value in arguments))
    np.testing.assert_allclose(alone, found[5:6], rtol=1e-6)
    beside_nan = doubly_guided(np.where(like(LABELS == 1, Z), np.nan, Z_WIDE), *arguments[1:])
    np.testing.assert_array_equal(beside_nan[LABELS != 1], found[LABELS != 1])


def test_only_z_is_differentiated_whatever_else_is_traced():
    """z also enters the denoiser's answer; gradients of the classifier's slope may pass."""

    def log_prob_of(slope, xp):
        return lambda z, logsnr: xp.sum(xp.tanh(slope * z) + z**3, axis=1) * xp.exp(logsnr / 9)

    @jax.jit
    def run(slope, z, logsnr):
        def eps_hat(slope):
            log_prob = log_prob_of(slope, jnp)
            return cfg_jax.classifier_guidance(lambda z, _: jnp.cos(z), log_prob, 2)(z, logsnr)

        return eps_hat(slope), jax.jacfwd(eps_hat)(slope)

    def exact(slope):
        _, sigma = alpha_sigma(LOGSNR)
        return np.cos(Z) - 2 * like(sigma, Z) * EXACT.score(log_prob_of(slope, np), Z, LOGSNR)

    found, by_slope = run(np.float32(0.7), Z, LOGSNR)
    np.testing.assert_allclose(found, exact(0.7), rtol=1e-5, atol=1e-5)
    difference = (exact(0.701) - exact(0.699)) / 0.002
    np.testing.assert_allclose(by_slope, difference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("w", [1.5, np.float32([0, -2])])
def test_classifier_guidance_climbs_the_log_probability_by_w_sigma(w):
    """log_prob = -|z - target|^2 / 2 has its gradient towards the target in every channel."""
    rng = np.random.default_rng(4)
    z, target, base = rng.standard_normal((3, 2, 2, 2, 3)).astype(np.float32)
    logsnr = np.float32([-1, 3])
    seen = []

    def denoiser(z, logsnr):
        seen.append(logsnr)
        return base

    def log_prob(z, logsnr):
        seen.append(logsnr)
        return -jnp.sum((z - target) ** 2, axis=(1, 2, 3)) / 2

    eps_hat = cfg_jax.classifier_guidance(denoiser, log_prob, w)(z, logsnr)
    _, sigma = alpha_sigma(logsnr)
    expected = base - like(sigma * w, z) * (target - z)
    np.testing.assert_allclose(eps_hat, expected, rtol=1e-5, atol=1e-5)
    assert len(seen) == 2
    for given in seen:
        np.testing.assert_array_equal(given, logsnr)


def test_a_weight_of_classifier_guidance_that_fits_no_example_is_refused():
    denoiser = cfg_jax.classifier_guidance(
        lambda z, logsnr: z, lambda z, logsnr: z.sum(axis=1), np.ones(7, np.float32)
    )
    with pytest.raises(ValueError, match="one number per example"):
        denoiser(Z, LOGSNR)


SIZE = 20_000
ALL_LABELS = np.int32(np.arange(SIZE) % 10)


@jax.jit
def drop(key, p_uncond):
    return cfg_jax.drop_labels(key, ALL_LABELS, p_uncond=p_uncond, null_label=10)


@pytest.mark.parametrize("p_uncond", [0.1, 0.2, 0.5])
def test_labels_are_dropped_with_the_probability_asked_for(p_uncond):
    labels = np.asarray(drop(jax.random.key(0), p_uncond))
    assert labels.dtype == np.int32
    dropped = labels == 10
    np.testing.assert_array_equal(labels[~dropped], ALL_LABELS[~dropped])
    assert abs(dropped.sum() - SIZE * p_uncond) < 4.5 * np.sqrt(SIZE * p_uncond * (1 - p_uncond))


def test_dropped_labels_lie_anywhere_in_the_batch_and_elsewhere_for_another_key():
    """A well-known program dropped the first n labels of each batch."""
    dropped = np.asarray(drop(jax.random.key(1), 0.2)) == 10
    deviation = np.sqrt(0.2 * 0.8 / (SIZE / 20))
    for part in (*dropped.reshape(20, -1), *dropped.reshape(-1, 20).T):
        assert abs(part.mean() - 0.2) < 4.5 * deviation
    both = np.mean(dropped[:-1] & dropped[1:])
    assert abs(both - 0.04) < 4.5 * np.sqrt(0.04 * 0.96 / SIZE)
    other = np.asarray(drop(jax.random.key(2), 0.2)) == 10
    assert abs(np.mean(dropped & other) - 0.04) < 4.5 * np.sqrt(0.04 * 0.96 / SIZE)


def test_probability_zero_keeps_and_one_drops_every_label():
    np.testing.assert_array_equal(drop(jax.random.key(3), 0.0), ALL_LABELS)
    np.testing.assert_array_equal(drop(jax.random.key(3), 1.0), np.full(SIZE, 10))


def test_whether_a_label_is_dropped_does_not_depend_on_the_batch_around_it():
    labels = np.asarray(drop(jax.random.key(5), 0.5))
    some = np.arange(63, 3, -4)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(5), i) for i in some])
    alone = jax.jit(
        lambda keys: cfg_jax.drop_labels(keys, ALL_LABELS[some], p_uncond=0.5, null_label=10)
    )(keys)
    np.testing.assert_array_equal(alone, labels[some])
    assert 2 < np.sum(alone == 10) < 13


@pytest.mark.parametrize("temperature", [0.5, 1.3])
def test_a_tempered_score_is_that_of_the_density_to_a_power(temperature):
    # N(0, I) to the power 1 / temperature is N(0, temperature I) up to a factor.
    _, sigma = alpha_sigma(LOGSNR)
    standard = lambda z, logsnr: like(jnp.float32(sigma), z) * z  # noqa: E731
    score = jax.grad(lambda z: norm.logpdf(z, scale=np.sqrt(temperature)).sum())(Z)
    expected = -sigma[:, None] * np.asarray(score)
    eps_hat = cfg_jax.core.guidance.tempered(standard, temperature)(Z, LOGSNR)
    np.testing.assert_allclose(eps_hat, expected, rtol=1e-5)


def test_temperature_leaves_a_learned_variance_as_it_was():
    output = Prediction(jnp.ones((2, 3)), jnp.full((2, 3), 0.3))
    tempered = cfg_jax.core.guidance.tempered(lambda z, logsnr: output, 0.5)(Z, LOGSNR)
    np.testing.assert_array_equal(tempered.eps_hat, 2 * np.ones((2, 3)))
    np.testing.assert_array_equal(tempered.logvar_interp, output.logvar_interp)


def test_a_shifted_score_moves_the_x_hat_that_a_network_gives():
    x_hat = jnp.linspace(-1, 1, Z.size).reshape(Z.shape)
    network = lambda z, logsnr: from_x(z, x_hat, logsnr)  # noqa: E731
    log_prob = lambda z, logsnr: -jnp.sum(z**2, axis=1)  # noqa: E731
    for shifted in (
        cfg_jax.core.guidance.tempered(network, 1.3),
        cfg_jax.classifier_guidance(network, log_prob, 2.0),
    ):
        found = shifted(Z, LOGSNR)
        expected = cfg_jax.predict_x(Z, found.eps_hat, LOGSNR)
        np.testing.assert_allclose(found.x_hat, expected, rtol=1e-4, atol=1e-4)
        assert np.abs(found.x_hat - x_hat).max() > 0.1


def test_no_temperature_leaves_the_x_hat_of_noise_alone_as_it_was():
    # eps_hat = z there, which does not determine x_hat.
    x_hat = jnp.linspace(-1, 1, Z.size).reshape(Z.shape)
    network = lambda z, logsnr: from_x(z, x_hat, logsnr)  # noqa: E731
    found = jax.jit(lambda t: cfg_jax.core.guidance.tempered(network, t)(Z, jnp.full(8, -80.0)))
    np.testing.assert_array_equal(found(1.0).x_hat, x_hat)
