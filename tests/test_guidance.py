"""Guided scores against the densities they belong to, and what each branch is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

import cfg_jax
from tests.closed_form import alpha_sigma, like

MEANS = np.float32([[1.0, 0.0], [-0.5, 1.0], [0.2, -1.2]])
VARIANCE = np.float32([0.1, 0.3, 0.2])
WEIGHTS = np.float32([0.5, 0.3, 0.2])
MIXTURE = cfg_jax.GaussianMixture(MEANS, VARIANCE, WEIGHTS)
NULL = 3

# No two examples share a log-SNR, a label and a weight; the weights include every special one.
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
    """Rounding grows with w, which multiplies the difference of two answers."""
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
    """A Predict that keeps its arguments; eps_hat = z + logsnr + 10 label, row by row."""

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
    # Every example once with its label and once without any.
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
        # As many samples as steps: a vector is per sample, a column per step.
        (STEPS, 6, STEPS[None]),
        (STEPS[:, None], 6, STEPS[:, None]),
        (STEPS, 1, STEPS[:, None]),
        ([7], 1, 0 * STEPS[:, None] + 7),
    ],
)
def test_a_weight_per_step_acts_at_its_own_step(w, batch_size, expected):
    """The conditional branch says 1 and the other 0, so that w = eps_hat - 1."""

    def predict(z, logsnr, labels):
        return like(jnp.where(labels == NULL, 0.0, 1.0), z) * jnp.ones_like(z)

    labels, z = np.arange(batch_size) % 3, np.zeros((batch_size, 2, 2, 1), np.float32)
    denoiser = cfg_jax.classifier_free_guidance(
        predict, labels, np.float32(w), null_label=NULL, logsnrs=GRID
    )
    found = jax.jit(lambda: jax.lax.map(lambda logsnr: denoiser(z, logsnr), GRID))() - 1
    expected = np.broadcast_to(expected, (6, batch_size))[..., None, None, None]
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


@pytest.mark.parametrize(
    ("shape", "logsnrs"),
    [
        ((7,), None),
        ((1,), None),
        ((8, 1), None),
        ((6,), None),
        ((6, 8), None),
        ((7,), GRID),
        ((8, 6), GRID),
        ((1, 8), GRID),
        ((6, 8, 1), GRID),
    ],
)
def test_a_weight_of_another_shape_is_refused(shape, logsnrs):
    with pytest.raises(ValueError, match="w of shape"):
        cfg_jax.classifier_free_guidance(
            MIXTURE.predict, LABELS, np.ones(shape), null_label=NULL, logsnrs=logsnrs
        )


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


@jax.jit
def classifier_guided(z, logsnr, labels, base_labels, w):
    """The mixture's exact classifier steers its model with `base_labels`."""
    return cfg_jax.classifier_guidance(
        lambda z, logsnr: MIXTURE.predict(z, logsnr, base_labels),
        lambda z, logsnr: MIXTURE.log_prob_label(z, logsnr, labels),
        w,
    )(z, logsnr)


def test_classifier_guidance_of_the_conditional_model_is_classifier_free_guidance():
    found = classifier_guided(Z, LOGSNR, LABELS, LABELS, W)
    assert_close_for_weight(found, guided(Z, LOGSNR, LABELS, W), W)


def test_classifier_guidance_of_the_unconditional_model_takes_one_more():
    found = classifier_guided(Z, LOGSNR, LABELS, np.full_like(LABELS, NULL), W + 1)
    assert_close_for_weight(found, guided(Z, LOGSNR, LABELS, W), W)


def test_the_implicit_classifiers_gradient_is_the_difference_of_the_two_answers():
    def log_implicit(z, logsnr, label):
        each, marginal = log_densities(z, logsnr)
        return each[label] - marginal

    gradient = jax.jit(jax.vmap(jax.grad(log_implicit)))(Z, LOGSNR, LABELS)
    _, sigma = alpha_sigma(LOGSNR)
    conditional = np.float64(plain(Z, LOGSNR, LABELS))
    difference = conditional - plain(Z, LOGSNR, np.full_like(LABELS, NULL))
    np.testing.assert_allclose(difference / -sigma[:, None], gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("w", [1.5, np.float32([0, -2])])
def test_classifier_guidance_climbs_the_log_probability_by_w_sigma(w):
    """log_prob = -|z - target|^2 / 2 pulls straight to the target, in every channel."""
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
    """Not the first n of each batch, as happened in a well-known program."""
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
