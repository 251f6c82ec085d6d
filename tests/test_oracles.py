"""The exact Gaussian mixture against SciPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from tests.closed_form import Mixture, alpha_sigma, like

MEANS = np.array([[1.0, 0.0, 0.4, -0.8], [-0.5, 1.0, 0.0, 0.3], [0.2, -1.2, -0.6, 0.5]])
VARIANCE = [0.1, 0.3, 0.2]
WEIGHTS = [5.0, 3.0, 2.0]
MIXTURE = cfg_jax.GaussianMixture(MEANS, VARIANCE, WEIGHTS)
EXACT = Mixture(MEANS, VARIANCE, WEIGHTS)
NULL = 3

LOGSNR = np.float32([-20, -4, -1, 0, 0.5, 1.5, 3, 6])
LABELS = np.array([0, 1, 2, 1, 0, 2, 1, 0])
Z = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)

log_prob = jax.jit(MIXTURE.log_prob)
predict = jax.jit(MIXTURE.predict)
log_prob_label = jax.jit(MIXTURE.log_prob_label)
log_prob_given_each = jax.jit(MIXTURE.log_prob_given_each)
guided_log_density = jax.jit(MIXTURE.guided_log_density)


def with_null(labels):
    """Replaces every other label by the null label; one batch has both kinds."""
    return np.where(np.arange(len(labels)) % 2, NULL, labels)


def exact_log_prob(z, logsnr):
    """log p(z | label), or log p(z) for the null labels of `with_null`."""
    given = EXACT.log_prob(z, logsnr, LABELS)
    return np.where(with_null(LABELS) == NULL, EXACT.log_prob(z, logsnr), given)


def test_the_null_label_is_the_number_of_classes():
    assert MIXTURE.num_classes == MIXTURE.null_label == NULL


def test_log_densities_are_those_of_diffused_normals():
    each = log_prob_given_each(Z, LOGSNR)
    assert each.shape == (8, 3)
    np.testing.assert_allclose(each, EXACT.log_prob_given_each(Z, LOGSNR), rtol=2e-5, atol=1e-5)


def test_log_prob_is_of_the_label_or_of_the_mixture():
    expected = EXACT.log_prob(Z, LOGSNR)
    np.testing.assert_allclose(log_prob(Z, LOGSNR), expected, rtol=2e-5, atol=1e-5)
    none = np.full(8, NULL)
    np.testing.assert_allclose(log_prob(Z, LOGSNR, none), expected, rtol=2e-5, atol=1e-5)
    expected = EXACT.log_prob(Z, LOGSNR, LABELS)
    np.testing.assert_allclose(log_prob(Z, LOGSNR, LABELS), expected, rtol=2e-5, atol=1e-5)
    expected = exact_log_prob(Z, LOGSNR)
    mixed = log_prob(Z, LOGSNR, with_null(LABELS))
    np.testing.assert_allclose(mixed, expected, rtol=2e-5, atol=1e-5)


def test_one_log_snr_may_serve_the_whole_batch():
    logsnr = np.float32(0.7)
    each = predict(Z, np.full(8, logsnr), LABELS)
    np.testing.assert_allclose(predict(Z, logsnr, LABELS), each, rtol=1e-6, atol=1e-6)


def test_label_probabilities_are_bayes_rule_and_sum_to_one():
    found = np.stack([log_prob_label(Z, LOGSNR, np.full(8, c)) for c in range(3)], axis=1)
    joint = EXACT.log_weights + EXACT.log_prob_given_each(Z, LOGSNR)
    expected = np.exp(joint) / np.exp(joint).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.exp(np.float64(found)).sum(axis=1), 1, atol=1e-6)
    chosen = log_prob_label(Z, LOGSNR, LABELS)
    np.testing.assert_array_equal(chosen, found[np.arange(8), LABELS])
    # Pure noise is uninformative, which leaves the class frequencies.
    np.testing.assert_allclose(np.exp(found[0]), [0.5, 0.3, 0.2], rtol=1e-3)


def test_the_prediction_is_minus_sigma_times_the_score_with_and_without_a_label():
    _, sigma = alpha_sigma(LOGSNR)
    expected = -like(sigma, Z) * EXACT.score(exact_log_prob, Z, LOGSNR)
    eps_hat = predict(Z, LOGSNR, with_null(LABELS))
    assert eps_hat.dtype == jnp.float32
    np.testing.assert_allclose(eps_hat, expected, rtol=1e-4, atol=2e-5)


def test_automatic_differentiation_of_log_prob_gives_the_prediction():
    def total(z, labels):
        return MIXTURE.log_prob(z, LOGSNR, labels).sum()

    labels = with_null(LABELS)
    _, sigma = alpha_sigma(LOGSNR)
    score = jax.jit(jax.grad(total))(Z, labels)
    np.testing.assert_allclose(
        predict(Z, LOGSNR, labels), -like(sigma, Z) * score, rtol=1e-4, atol=2e-5
    )


def test_the_prediction_without_a_label_is_the_labelled_ones_weighted_by_their_probability():
    """The plain average, sometimes used as unconditional score, would fail."""
    each = [np.float64(predict(Z, LOGSNR, np.full(8, c))) for c in range(3)]
    share = [np.exp(np.float64(log_prob_label(Z, LOGSNR, np.full(8, c)))) for c in range(3)]
    expected = sum(like(p, Z) * eps_hat for p, eps_hat in zip(share, each, strict=True))
    found = predict(Z, LOGSNR, np.full(8, NULL))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found - np.mean(each, axis=0)).max() > 0.1


def test_at_the_ends_the_answer_is_the_noise_or_the_distance_to_the_mean():
    end = np.full(8, -20, np.float32)
    np.testing.assert_allclose(predict(Z, end, LABELS), Z, atol=2e-4)
    # sigma = exp(-10) there, and alpha = 1.
    expected = (Z - MEANS[LABELS]) * np.exp(-10) / np.take(VARIANCE, LABELS)[:, None]
    np.testing.assert_allclose(predict(Z, -end, LABELS), expected, rtol=1e-4, atol=1e-10)


def test_images_are_vectors_in_another_shape():
    images = cfg_jax.GaussianMixture(MEANS.reshape(3, 2, 1, 2), VARIANCE, WEIGHTS)
    z, labels = Z.reshape(8, 2, 1, 2), with_null(LABELS)
    eps_hat = jax.jit(images.predict)(z, LOGSNR, labels)
    assert eps_hat.shape == z.shape
    flat = np.reshape(eps_hat, (8, 4))
    np.testing.assert_allclose(flat, predict(Z, LOGSNR, labels), rtol=1e-6, atol=1e-6)
    density = jax.jit(images.log_prob_given_each)(z, LOGSNR)
    expected = EXACT.log_prob_given_each(Z, LOGSNR)
    np.testing.assert_allclose(density, expected, rtol=2e-5, atol=1e-5)


def test_one_variance_may_serve_all_classes():
    one = cfg_jax.GaussianMixture(MEANS, 0.2, WEIGHTS)
    expected = Mixture(MEANS, 0.2, WEIGHTS).log_prob_given_each(Z, LOGSNR)
    found = jax.jit(one.log_prob_given_each)(Z, LOGSNR)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("w", [0.0, 2.5, -1.0, (-3, -1, -0.5, 0, 0.3, 1, 4, 30)])
def test_the_guided_log_density_weighs_two_log_densities(w):
    w = np.broadcast_to(np.float32(w), 8)
    conditional, marginal = EXACT.log_prob(Z, LOGSNR, LABELS), EXACT.log_prob(Z, LOGSNR)
    found = guided_log_density(Z, LOGSNR, LABELS, w)
    expected = conditional + w * (conditional - marginal)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_drawn_data_have_the_moments_of_their_class_and_their_own_noise():
    size = 30_000
    labels = np.arange(size) % 3
    draw = jax.jit(cfg_jax.GaussianMixture(MEANS.reshape(3, 2, 1, 2), VARIANCE, WEIGHTS).draw)
    x = np.asarray(draw(jax.random.key(0), labels))
    assert x.shape == (size, 2, 1, 2) and x.dtype == np.float32
    for c in range(3):
        points = x[labels == c].reshape(-1, 4).astype(np.float64)
        error = np.sqrt(VARIANCE[c] / len(points))
        np.testing.assert_allclose(points.mean(axis=0), MEANS[c], atol=5 * error)
        expected = VARIANCE[c] * np.eye(4)
        atol = 5 * VARIANCE[c] * np.sqrt(2 / len(points))
        np.testing.assert_allclose(np.cov(points.T), expected, atol=atol)
    # Row i depends on its label and index only; labels of no class give nan.
    unknown = np.where(labels == 1, np.arange(size) % 2 * 4 - 1, labels)
    others = np.asarray(draw(jax.random.key(0), unknown))
    np.testing.assert_array_equal(others[labels != 1], x[labels != 1])
    assert np.all(np.isnan(others[labels == 1])) and set(unknown) == {0, 2, NULL, -1}
    assert len(np.unique(x[:, 0, 0, 0])) > 0.99 * size


def test_a_label_that_does_not_exist_is_answered_with_nan():
    """A null label out of range, silently clamped to a class, would guide unnoticed."""
    labels = np.array([0, 4, 1, -1, 2, 100, 3, 2])
    found = np.isnan(predict(Z, LOGSNR, labels))
    np.testing.assert_array_equal(found.all(axis=1), (labels < 0) | (labels > NULL))
    np.testing.assert_array_equal(found.any(axis=1), found.all(axis=1))


@pytest.mark.parametrize(
    ("means", "variance", "weights", "message"),
    [
        (np.zeros(3), 1.0, np.ones(3), r"means of shape \(3,\)"),
        (1.0, 1.0, np.ones(1), r"means of shape \(\)"),
        (np.zeros((3, 2)), 1.0, np.ones(2), r"weights of shape \(2,\)"),
        (np.zeros((3, 2)), 1.0, np.ones((3, 1)), r"weights of shape \(3, 1\)"),
        (np.zeros((3, 2)), np.ones(2), np.ones(3), r"variance of shape \(2,\)"),
        (np.zeros((3, 2)), 0.0, np.ones(3), "above 0"),
        (np.zeros((3, 2)), np.nan, np.ones(3), "above 0"),
        (np.zeros((3, 2)), [0.1, 0.2, -0.1], np.ones(3), "above 0"),
        (np.zeros((3, 2)), 1.0, [1, 0, 1], "above 0"),
        (np.zeros((3, 2)), 1.0, [1, np.nan, 1], "above 0"),
    ],
)
def test_a_mixture_that_is_none_is_refused(means, variance, weights, message):
    with pytest.raises(ValueError, match=message):
        cfg_jax.GaussianMixture(means, variance, weights)
