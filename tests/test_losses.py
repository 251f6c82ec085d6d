"""The denoising loss in cases of known expectation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax

import cfg_jax
from cfg_jax.core import losses
from cfg_jax.core.types import Prediction
from tests.closed_form import Mixture, alpha_sigma, forward, like, reverse

BATCH, SIZE = 64, 512
LOGSNR = np.repeat(np.float32([-20, -6, -2, -0.5, 0.5, 2, 6, 12]), BATCH // 8)
LABELS = np.int32(np.arange(BATCH) % 3)
NULL = 3
KEYS = jax.random.split(jax.random.key(7), BATCH)
MEAN, VARIANCE = 0.4, 0.3
X = (MEAN + VARIANCE**0.5 * np.random.default_rng(0).standard_normal((BATCH, SIZE))).astype("f")


@jax.jit
def every_loss(key, x, labels, logsnr, mean, variance):
    """Loss of each weighting, one aux, and the inputs of the Predict.

    The Predict is exact for data N(mean, variance): eps_hat = sigma (z - alpha mean) / Var z.
    The schedule returns `logsnr` for any u.
    """
    calls = []

    def predict(z, logsnr, labels):
        calls.append((z, logsnr, labels))
        alpha, sigma = (value[:, None] for value in cfg_jax.alpha_sigma(logsnr))
        return sigma * (z - alpha * mean) / (alpha**2 * variance + sigma**2)

    found = {
        weighting: cfg_jax.diffusion_loss(
            key,
            predict,
            x,
            labels,
            schedule=lambda u: logsnr,
            p_uncond=0.5,
            null_label=NULL,
            weighting=weighting,
        )
        for weighting in losses.WEIGHTINGS
    }
    assert len(calls) == len(found), "the network is called once for each loss"
    z, logsnr_seen, labels_seen = calls[0]
    seen = {"z": z, "logsnr": logsnr_seen, "labels": labels_seen}
    return {name: loss for name, (loss, _) in found.items()}, found["eps"][1], seen


@pytest.fixture(scope="module")
def exact():
    """Losses of a network that knows the data distribution."""
    return jax.device_get(every_loss(KEYS, X, LABELS, LOGSNR, MEAN, VARIANCE))


def test_losses_are_one_number_per_example(exact):
    found, aux, _ = exact
    assert set(found) == {"eps", "x", "v", "truncated_snr"}
    assert set(aux) >= {"logsnr", "dropped", "eps_mse"}
    for value in (*found.values(), *aux.values()):
        assert value.shape == (BATCH,)
    np.testing.assert_array_equal(found["eps"], aux["eps_mse"])


def uncertainty(weighting, logsnr):
    """Var(target | z) of a weighting's target, from Var(x | z), in which precisions add.

    At fixed z the error of eps = (z - alpha x) / sigma is alpha / sigma times the error of x, and
    the error of v = alpha eps - sigma x is 1 / sigma times it.
    """
    alpha, sigma = alpha_sigma(logsnr)
    of_x = 1 / (1 / VARIANCE + (alpha / sigma) ** 2)
    scale = {
        "eps": alpha / sigma,
        "x": 1.0,
        "v": 1 / sigma,
        "truncated_snr": np.maximum(alpha / sigma, 1),
    }
    return of_x * scale[weighting] ** 2


@pytest.mark.parametrize("weighting", ["eps", "x", "v", "truncated_snr"])
def test_the_loss_of_an_exact_network_is_the_remaining_uncertainty(exact, weighting):
    """The error is Gaussian: loss / expectation is chi-squared / SIZE for every example."""
    loss = exact[0][weighting].astype(np.float64)
    ratio = loss / uncertainty(weighting, LOGSNR)
    assert stats.kstest(ratio * SIZE, stats.chi2(SIZE).cdf).pvalue > 1e-3
    for level in ratio.reshape(8, -1):
        assert abs(level.mean() - 1) < 4.5 * np.sqrt(2 / SIZE / len(level))


def test_a_network_that_knows_the_noise_has_no_loss():
    """If all data are one point, variance 0, z determines the noise exactly."""
    point = np.full_like(X, MEAN)
    logsnr = np.minimum(LOGSNR, 6)
    found, aux, _ = every_loss(KEYS, point, LABELS, logsnr, MEAN, 0.0)
    assert np.all(aux["eps_mse"] < 1e-10)
    assert np.all(found["truncated_snr"][8:] < 1e-8)


def test_each_weighting_is_the_squared_error_of_its_quantity():
    """A wrong network: errors of x and v, computed from z and eps_hat in float64."""
    found, _, seen = jax.device_get(every_loss(KEYS, X, LABELS, LOGSNR, -0.7, 2.0))
    alpha, sigma = (value[:, None] for value in alpha_sigma(LOGSNR))
    z = np.float64(seen["z"])
    eps = (z - alpha * X) / sigma
    eps_hat = sigma * (z + 0.7 * alpha) / (2 * alpha**2 + sigma**2)
    x_hat = (z - sigma * eps_hat) / alpha
    error = {
        "eps": eps - eps_hat,
        "x": X - x_hat,
        "v": (alpha * eps - sigma * X) - (alpha * eps_hat - sigma * x_hat),
        "truncated_snr": np.maximum(alpha / sigma, 1) * (X - x_hat),
    }
    for weighting, difference in error.items():
        expected = np.mean(difference**2, axis=1)
        np.testing.assert_allclose(found[weighting], expected, rtol=1e-3, err_msg=weighting)


@pytest.mark.parametrize("logsnr", [-20, 20])
def test_every_weighting_is_finite_at_both_ends(logsnr):
    found, _, _ = every_loss(KEYS, X, LABELS, np.full_like(LOGSNR, logsnr), -0.7, 2.0)
    for loss in found.values():
        assert np.all(np.isfinite(loss)) and np.all(loss > 0)


def test_the_noise_is_standard_normal_and_its_own_in_every_example(exact):
    _, _, seen = exact
    alpha, sigma = (value[:, None] for value in alpha_sigma(LOGSNR))
    eps = ((seen["z"] - alpha * X) / sigma)[LOGSNR < 12]
    assert abs(eps.mean()) < 4.5 / np.sqrt(eps.size)
    assert abs(np.mean(eps**2) - 1) < 4.5 * np.sqrt(2 / eps.size)
    correlation = np.corrcoef(eps) - np.eye(len(eps))
    assert np.abs(correlation).max() < 5.5 / np.sqrt(SIZE)


def test_dropped_examples_are_those_that_the_network_saw_without_a_label(exact):
    _, aux, seen = exact
    np.testing.assert_array_equal(seen["labels"], np.where(aux["dropped"], NULL, LABELS))
    assert 14 < aux["dropped"].sum() < 50
    np.testing.assert_array_equal(aux["logsnr"], LOGSNR)
    np.testing.assert_array_equal(seen["logsnr"], LOGSNR)


def test_the_loss_of_an_example_does_not_depend_on_its_neighbours(exact):
    order = np.random.default_rng(1).permutation(BATCH)
    moved = every_loss(KEYS[order], X[order], LABELS[order], LOGSNR[order], MEAN, VARIANCE)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b), exact, moved)
    others = np.where(np.arange(BATCH)[:, None] == 5, X, -X)
    alone = every_loss(KEYS, others, LABELS, LOGSNR, MEAN, VARIANCE)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[5], b[5]), exact, alone)
    assert not np.any(alone[0]["eps"][6:] == exact[0]["eps"][6:])


MANY = 8192


@pytest.fixture(scope="module")
def scheduled():
    """aux of a large batch under the paper's schedule and one key, and u."""
    schedule, us = cfg_jax.cosine_schedule(), []

    def record(u):
        us.append(u)
        return schedule(u)

    @jax.jit
    def run(key):
        labels = jnp.zeros(MANY, jnp.int32)
        _, aux = cfg_jax.diffusion_loss(
            key,
            lambda z, logsnr, labels: z,
            jnp.zeros((MANY, 1)),
            labels,
            schedule=record,
            p_uncond=0.1,
            null_label=1,
        )
        return aux | {"u": us[0]}

    return jax.device_get(run(jax.random.key(11)))


def test_log_snrs_follow_the_papers_density(scheduled):
    """P(logsnr > l) = (arctan(exp(-l / 2)) - b) / a on [-20, 20]."""
    b = np.arctan(np.exp(-10))
    a = np.arctan(np.exp(10)) - b

    def cdf(logsnr):
        return 1 - (np.arctan(np.exp(-logsnr / 2)) - b) / a

    assert stats.kstest(np.float64(scheduled["logsnr"]), cdf).pvalue > 1e-3
    assert len(np.unique(scheduled["u"])) > 0.99 * MANY


def test_labels_are_dropped_at_their_rate_whatever_the_noise_level(scheduled):
    """A shared key would drop exactly the labels of the cleanest examples."""
    dropped, u = scheduled["dropped"], scheduled["u"]
    assert dropped.dtype == bool
    assert abs(dropped.mean() - 0.1) < 4.5 * np.sqrt(0.1 * 0.9 / MANY)
    assert abs(u[dropped].mean() - 0.5) < 4.5 / np.sqrt(12 * dropped.sum())


def refused(**options):
    options = dict(schedule=cfg_jax.cosine_schedule(), p_uncond=0.1, null_label=NULL) | options
    x = np.zeros((2, 3), np.float32)
    return cfg_jax.diffusion_loss(
        jax.random.key(0), lambda z, logsnr, labels: z, x, np.int32([0, 1]), **options
    )


@pytest.mark.parametrize("p_uncond", [-0.1, 1.1, float("nan")])
def test_a_probability_outside_zero_to_one_is_refused(p_uncond):
    with pytest.raises(ValueError, match="p_uncond"):
        refused(p_uncond=p_uncond)


def test_an_unknown_weighting_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'snr'.*eps, x, v, truncated_snr"):
        refused(weighting="snr")


# The hybrid loss with T = 2: about half of the examples reach the decoder.
ROWS, DIM, VLB_WEIGHT, VLB_STEPS = 48, 3, 0.3, 2
RANGE = cfg_jax.cosine_schedule(-12, 12)
BYTES = np.float32(np.random.default_rng(2).integers(0, 256, (ROWS, DIM)) / 127.5 - 1)
EPS_HAT = np.random.default_rng(3).standard_normal((ROWS, DIM), np.float32)
V = np.random.default_rng(4).uniform(-0.3, 1.3, (ROWS, DIM)).astype(np.float32)


@partial(jax.jit, static_argnames="vlb_weight")
def hybrid(eps_hat, v, *, vlb_weight):
    """Gradients in eps_hat and v of the summed loss, the loss, aux, z and u."""

    def total(eps_hat, v):
        zs, us = [], []

        def predict(z, logsnr, labels):
            zs.append(z)
            return Prediction(eps_hat, v)

        def schedule(u):
            us.append(u)
            return RANGE(u)

        loss, aux = cfg_jax.diffusion_loss(
            jax.random.key(5),
            predict,
            BYTES,
            jnp.zeros(ROWS, jnp.int32),
            schedule=schedule,
            p_uncond=0.1,
            null_label=NULL,
            vlb_weight=vlb_weight,
            vlb_steps=VLB_STEPS,
        )
        assert len(zs) == 1, "the network is called once"
        return loss.sum(), (loss, aux, zs[0], us[0])

    gradients, found = jax.grad(total, (0, 1), has_aux=True)(eps_hat, v)
    return gradients, *found


def x_hat_of(z, logsnr):
    alpha, sigma = (like(value, z) for value in alpha_sigma(logsnr))
    return (z - sigma * EPS_HAT) / alpha


def exact_terms(z, u, v):
    """Bound terms per element in nats, by textbook formulas in float64."""
    x, logsnr = np.float64(BYTES), np.float64(RANGE(u))
    cleaner, noisier = np.float64(RANGE(u - 1 / VLB_STEPS)), np.float64(RANGE(u + 1 / VLB_STEPS))
    x_hat = x_hat_of(z, logsnr)
    _, b, small = (like(value, x) for value in reverse(logsnr, cleaner))
    variance = small ** (1 - v) * like(forward(logsnr, cleaner)[1], x) ** v
    squares = small + b**2 * (x - x_hat) ** 2
    step = (np.log(variance / small) + squares / variance - 1) / 2
    small = like(reverse(noisier, logsnr)[2], x)
    variance = small ** (1 - v) * like(alpha_sigma(logsnr)[1] ** 2, x) ** v
    decoder = stats.norm(x_hat, np.sqrt(variance))
    lower = np.where(x < -0.999, -np.inf, x - 1 / 255)
    upper = np.where(x > 0.999, np.inf, x + 1 / 255)
    mass = np.where(
        x > x_hat,
        decoder.sf(lower) - decoder.sf(upper),
        decoder.cdf(upper) - decoder.cdf(lower),
    )
    with np.errstate(divide="ignore"):
        return np.where(like(u < 1 / VLB_STEPS, x), -np.log(mass), step)


BITS = VLB_STEPS / (DIM * np.log(2))


def test_the_hybrid_loss_adds_the_bound_in_bits_per_dimension():
    _, loss, aux, z, u = jax.device_get(hybrid(EPS_HAT, V, vlb_weight=VLB_WEIGHT))
    assert 15 < np.sum(u < 1 / VLB_STEPS) < 33
    expected = BITS * exact_terms(z, u, np.float64(V)).sum(axis=1)
    np.testing.assert_allclose(aux["vlb"], expected, rtol=1e-3)
    np.testing.assert_allclose(loss, aux["eps_mse"] + VLB_WEIGHT * expected, rtol=1e-3)
    np.testing.assert_allclose(aux["logsnr"], RANGE(u), atol=1e-5)


def test_the_bound_trains_the_variance_and_leaves_the_rest_to_the_simple_loss():
    (by_eps, by_v), _, _, z, u = jax.device_get(hybrid(EPS_HAT, V, vlb_weight=VLB_WEIGHT))
    (by_eps_alone, by_v_alone), loss, aux, *_ = jax.device_get(hybrid(EPS_HAT, V, vlb_weight=0.0))
    np.testing.assert_array_equal(by_eps, by_eps_alone)
    np.testing.assert_array_equal(by_v_alone, 0)
    np.testing.assert_array_equal(loss, aux["eps_mse"])
    assert "vlb" not in aux
    nudge = 1e-4
    change = exact_terms(z, u, np.float64(V) + nudge) - exact_terms(z, u, np.float64(V) - nudge)
    expected = VLB_WEIGHT * BITS * change / (2 * nudge)
    np.testing.assert_allclose(by_v, expected, rtol=5e-3, atol=1e-4)


def test_the_variance_of_the_actual_error_is_where_training_rests():
    """KL is least if the variance is q's plus the squared distance of the means."""
    *_, z, u = jax.device_get(hybrid(EPS_HAT, V, vlb_weight=VLB_WEIGHT))
    logsnr, cleaner = np.float64(RANGE(u)), np.float64(RANGE(u - 1 / VLB_STEPS))
    _, b, small = (like(value, z) for value in reverse(logsnr, cleaner))
    width = np.log(like(forward(logsnr, cleaner)[1], z) / small)
    best = np.log1p((b * (BYTES - x_hat_of(z, logsnr))) ** 2 / small) / width
    (_, gradient), *_ = jax.device_get(hybrid(EPS_HAT, np.float32(best), vlb_weight=VLB_WEIGHT))
    (_, elsewhere), *_ = jax.device_get(
        hybrid(EPS_HAT, np.float32(best + 1), vlb_weight=VLB_WEIGHT)
    )
    steps = u >= 1 / VLB_STEPS
    assert np.all(np.abs(gradient[steps]) < 1e-3 * np.abs(elsewhere[steps]))


def test_the_hybrid_loss_and_its_gradients_are_finite_at_both_ends(monkeypatch):
    u = np.float32([0, 1e-9, 0.00099, 0.001, 0.00101, 0.5, 1 - 6e-8, 1])
    monkeypatch.setattr(cfg_jax.keys, "uniform", lambda keys: jnp.asarray(u))

    @jax.jit
    def run(eps_hat, v):
        loss, aux = cfg_jax.diffusion_loss(
            jax.random.key(6),
            lambda z, logsnr, labels: Prediction(eps_hat, v),
            BYTES[:8],
            jnp.zeros(8, jnp.int32),
            schedule=cfg_jax.cosine_schedule(),
            p_uncond=0.0,
            null_label=NULL,
            vlb_weight=1e-3,
        )
        return loss.sum(), aux

    value_and_gradients = jax.value_and_grad(run, (0, 1), has_aux=True)
    (loss, aux), gradients = value_and_gradients(EPS_HAT[:8], V[:8])
    np.testing.assert_array_equal(aux["logsnr"][np.array([0, -1])], [20, -20])
    assert np.isfinite(loss) and np.isfinite(aux["vlb"]).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"vlb_weight": -0.001}, "vlb_weight=-0.001"),
        ({"vlb_weight": float("nan")}, "vlb_weight=nan"),
        ({"vlb_weight": 0.001, "vlb_steps": 1}, "vlb_steps=1"),
        ({"vlb_weight": 0.001}, "vlb_weight=0.001.*Prediction"),
    ],
)
def test_a_hybrid_loss_that_cannot_be_is_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        jax.eval_shape(lambda: refused(**options))


CLASSES = [[2.0, 0.0], [-1.0, 1.0], [0.0, -1.5]], [0.3, 0.5, 0.2], [0.5, 0.3, 0.2]


@jax.jit
def classified(key, x, labels, logsnr):
    """Loss and aux of a classifier of three classes, and its input z."""
    calls = []

    def log_probs(z, logsnr):
        calls.append(z)
        return cfg_jax.GaussianMixture(*CLASSES).log_posterior(z, logsnr)

    loss, aux = losses.classifier_loss(key, log_probs, x, labels, schedule=lambda u: logsnr)
    assert len(calls) == 1, "the network is called once"
    return loss, aux, calls[0]


POINTS = np.random.default_rng(8).standard_normal((BATCH, 2)).astype(np.float32)


def test_the_classifiers_loss_is_the_cross_entropy_of_what_it_sees():
    loss, aux, z = jax.device_get(classified(KEYS, POINTS, LABELS, LOGSNR))
    mixture = Mixture(*CLASSES)
    each = log_softmax(mixture.log_weights + mixture.log_prob_given_each(z, LOGSNR), axis=1)
    expected = -each[np.arange(BATCH), LABELS]
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-5)
    clear = np.diff(np.sort(each, axis=1)[:, 1:], axis=1)[:, 0] > 1e-3
    np.testing.assert_array_equal(aux["correct"][clear], (each.argmax(axis=1) == LABELS)[clear])
    assert clear.sum() > 50 and 10 < aux["correct"].sum() < 54
    np.testing.assert_array_equal(aux["logsnr"], LOGSNR)


def test_the_classifier_sees_what_a_denoiser_is_trained_on():
    x = np.full_like(X, MEAN)
    scheduled = jax.jit(
        lambda keys: losses.classifier_loss(
            keys,
            lambda z, logsnr: jnp.concatenate([logsnr[:, None], z], axis=1),
            x,
            jnp.arange(BATCH),
            schedule=cfg_jax.cosine_schedule(),
        )
    )
    # The "log-probability" of label i is pixel i - 1 of z; that of label 0 is the log-SNR.
    loss, aux = jax.device_get(scheduled(KEYS))
    alpha, sigma = alpha_sigma(aux["logsnr"])
    np.testing.assert_array_equal(-loss[0], aux["logsnr"][0])
    eps = (-loss[1:] - alpha[1:] * MEAN) / sigma[1:]
    noisy = sigma[1:] > 1e-2
    assert stats.kstest(eps[noisy], "norm").pvalue > 1e-3 and noisy.sum() > 50
    # The paper's density in [-20, 20], except ends of mass 6e-5.
    u = np.arctan(np.exp(-np.float64(aux["logsnr"]) / 2)) / (np.pi / 2)
    assert stats.kstest(u, "uniform").pvalue > 1e-3


def test_the_classifiers_loss_of_an_example_does_not_depend_on_its_neighbours():
    whole = classified(KEYS, POINTS, LABELS, LOGSNR)
    order = np.random.default_rng(1).permutation(BATCH)
    moved = classified(KEYS[order], POINTS[order], LABELS[order], LOGSNR[order])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b), whole, moved)
    others = np.where(np.arange(BATCH)[:, None] == 5, POINTS, -POINTS)
    alone = classified(KEYS, others, (LABELS + (np.arange(BATCH) != 5)) % 3, LOGSNR)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[5], b[5]), whole, alone)
    assert not np.any(alone[0][8:] == whole[0][8:])
