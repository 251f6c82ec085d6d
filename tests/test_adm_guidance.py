"""ADM's guided steps against numbers of the original program, and complete runs against float64.

The golden network and classifier are analytic in z and in t, the original timestep over 1000.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.core.guidance import classifier_guidance, clipped, mean_shift
from cfg_jax.core.timesteps import cosine_timesteps, linear_timesteps
from cfg_jax.core.types import Prediction, eps_of
from tests.closed_form import alpha_sigma, forward, like, reverse

SCHEDULES = {"linear_50": linear_timesteps(), "cosine_25": cosine_timesteps()}
LEARNED = {"linear_50": True, "cosine_25": False}
MU = np.float32([0.5, -0.5, 0.25]).reshape(1, 1, 1, 3)


def golden(name):
    """Arrays of a golden file, with NHWC images."""
    with np.load(Path(__file__).parent / "golden" / f"diffusion_{name}.npz") as file:
        return {
            key: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
            for key, array in file.items()
        }


def golden_denoiser(name):
    def network(z, logsnr, labels):
        t = like(SCHEDULES[name].timestep(logsnr) / 1000, z)
        eps_hat = 0.9 * z * (0.2 + 0.8 * t) + 0.05 * jnp.sin(3 * t)
        if not LEARNED[name]:
            return eps_hat
        return jnp.concatenate([eps_hat, jnp.tanh(0.5 * z + t - 0.5)], axis=-1)

    predict = cfg_jax.as_predict(network, "eps", learned_variance=LEARNED[name])
    return lambda z, logsnr: predict(z, logsnr, jnp.zeros(len(z), jnp.int32))


def golden_classifier(name):
    def log_prob(z, logsnr):
        t = SCHEDULES[name].timestep(logsnr) / 1000
        return (t / 2 - 1) * jnp.sum((z - MU) ** 2, axis=(1, 2, 3))

    return log_prob


def to_the_mean(key, z_t, x_hat, logsnr_t, logsnr_s, *, logvar_interp=0.0):
    """A step rule with zero noise."""
    mean, _ = cfg_jax.posterior(z_t, x_hat, logsnr_t, logsnr_s, logvar_interp=logvar_interp)
    return mean


@jax.jit(static_argnums=(0, 1))
def reverse_step(name, clip, z, logsnr_t, logsnr_s, w):
    """Values of one step under the names of the golden files."""
    denoiser, log_prob = golden_denoiser(name), golden_classifier(name)
    output = denoiser(z, logsnr_t)
    x_hat = cfg_jax.predict_x(z, eps_of(output), logsnr_t)
    if clip:
        x_hat, denoiser = jnp.clip(x_hat, -1, 1), clipped(denoiser)
    guided = classifier_guidance(denoiser, log_prob, w)(z, logsnr_t)
    guided_x_hat = cfg_jax.predict_x(z, eps_of(guided), logsnr_t)
    options = {"logvar_interp": output.logvar_interp} if LEARNED[name] else {}
    mean, logvar = cfg_jax.posterior(z, x_hat, logsnr_t, logsnr_s, **options)
    shifted = mean_shift(log_prob, w, to_the_mean)(None, z, x_hat, logsnr_t, logsnr_s, **options)
    return {
        "mean": mean,
        "variance": jnp.broadcast_to(jnp.exp(logvar), z.shape),
        "log_variance": jnp.broadcast_to(logvar, z.shape),
        "pred_xstart": x_hat,
        "guided_mean": shifted,
        "guided_score_pred_xstart": guided_x_hat,
        "ddim_sample": cfg_jax.ddim_step(None, z, x_hat, logsnr_t, logsnr_s),
        "ddim_guided_sample": cfg_jax.ddim_step(None, z, guided_x_hat, logsnr_t, logsnr_s),
    }


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_stored_step_of_the_original_program_is_reproduced(name, clip):
    data = golden(name)
    logsnr = SCHEDULES[name].grid(len(data["timestep_map"]))[::-1]
    steps = sorted({int(key.split("_")[0][4:]) for key in data if key.startswith("step")})
    assert len(steps) == 3
    for i in steps:
        pair = np.full((2, 2), [[logsnr[i]], [logsnr[i - 1]]], np.float32)
        found = reverse_step(name, clip, data["x"], *pair, np.float32(1))
        prefix = f"step{i}_clip{clip}_"
        assert {key for key in data if key.startswith(prefix)} == {prefix + what for what in found}
        for what, actual in found.items():
            expected = data[prefix + what]
            # Nearly canceled entries are compared at the magnitude of the others.
            atol = 2e-6 * np.abs(expected).max()
            np.testing.assert_allclose(
                actual, expected, rtol=1e-4, atol=atol, err_msg=prefix + what
            )


def original_run(name, z, w, noise=None):
    """z before each of T steps, and the result, in float64: DDIM, or ancestral with `noise`.

    Uses betas and alpha_bars of the respaced process, and clips x_hat before guidance.
    """
    data = golden(name)
    abar, path = data["alphas_cumprod"], []
    ratio = np.sqrt(1 / abar - 1)
    for i in reversed(range(len(abar))):
        path.append(z)
        t, scaled = data["timestep_map"][i] / 1000, z / np.sqrt(abar[i])
        x_hat = np.clip(
            scaled - ratio[i] * (0.9 * z * (0.2 + 0.8 * t) + 0.05 * np.sin(3 * t)), -1, 1
        )
        push = w * (2 - t) * (MU - z)
        if noise is None:
            # Song et al. 2021, equation 13: a step of z / sqrt(alpha_bar) along eps.
            eps_hat = (scaled - x_hat) / ratio[i] - np.sqrt(1 - abar[i]) * push
            before, ratio_before = (abar[i - 1], ratio[i - 1]) if i else (1, 0)
            z = np.sqrt(before) * (scaled + (ratio_before - ratio[i]) * eps_hat)
        elif i:
            before, beta = abar[i - 1], 1 - abar[i] / abar[i - 1]
            share = (np.tanh(0.5 * z + t - 0.5) + 1) / 2 if LEARNED[name] else 0.0
            variance = beta * ((1 - before) / (1 - abar[i])) ** (1 - share)
            mean = np.sqrt(before) * beta * x_hat + np.sqrt(1 - beta) * (1 - before) * z
            z = mean / (1 - abar[i]) + variance * push + np.sqrt(variance) * noise[i]
        else:
            z = x_hat
    return np.stack([*path, z])


@pytest.mark.parametrize(("name", "form"), [("linear_50", "ancestral"), ("cosine_25", "ddim")])
def test_a_whole_respaced_run_is_that_of_the_original_formulas(name, form):
    """Compares every intermediate z, from the z_1 of `sample`; weights differ per example."""
    num_steps, shape, w = len(golden(name)["timestep_map"]), (2, 2, 2, 3), np.float32([1.5, -0.25])
    grid = SCHEDULES[name].grid(num_steps)
    noise = np.random.default_rng(0).standard_normal((num_steps, *shape)).astype(np.float32)
    denoiser, log_prob, seen = golden_denoiser(name), golden_classifier(name), []

    def watched(z, logsnr):
        jax.debug.callback(lambda *given: seen.append(given), logsnr[0], z)
        return denoiser(z, logsnr)

    def noisy(key, z_t, x_hat, logsnr_t, logsnr_s, *, logvar_interp=0.0):
        """The ancestral step with noise that the float64 run can reuse."""
        mean, logvar = cfg_jax.posterior(
            z_t, x_hat, logsnr_t, logsnr_s, logvar_interp=logvar_interp
        )
        step = num_steps - 1 - jnp.argmin(jnp.abs(grid - logsnr_t))
        return mean + jnp.exp(logvar / 2) * jnp.asarray(noise)[step]

    @jax.jit
    def run(key, w):
        if form == "ancestral":
            rule = mean_shift(log_prob, w, noisy)
            return cfg_jax.sample(key, watched, shape, grid, step=rule)
        guided = classifier_guidance(clipped(watched), log_prob, w)
        return cfg_jax.sample(key, guided, shape, grid, step=cfg_jax.ddim_step, clip_x=False)

    result = np.asarray(run(jax.random.key(3), w))
    jax.effects_barrier()
    seen.sort(key=lambda given: given[0])
    found = np.stack([*(z for _, z in seen), result])
    expected = original_run(
        name, np.float64(found[0]), like(w, found[0]), noise if form == "ancestral" else None
    )
    assert found.shape == expected.shape == (num_steps + 1, *shape)
    for z, z_expected in zip(found, expected, strict=True):
        np.testing.assert_allclose(z, z_expected, rtol=0, atol=2e-5 * np.abs(z_expected).max())


# Log-SNRs of a step, a variance exponent, a weight and a slope for each example.
LOGSNR_T = np.float32([-20, -9, -2, -0.5, 0, 3, 8, 10.165])
LOGSNR_S = np.float32([-10.165, -8, 1, -0.25, 6, 3.125, 11, 20])
V = np.float32([0, 1, 0.3, 0.5, 0, 1, 0.7, 0.2])
W = np.float32([1, -3, 0.5, 2, 7, -0.5, 1, 4])
SLOPE = np.random.default_rng(1).standard_normal((8, 2, 1, 3)).astype(np.float32)
ZERO = np.zeros((8, 2, 1, 3), np.float32)


def steep(z, logsnr):
    """log_prob with gradient SLOPE everywhere."""
    return jnp.sum(SLOPE * z, axis=(1, 2, 3))


@jax.jit
def shift_in_eps(logsnr_t, logsnr_s, w):
    """Shift of an ancestral step's mean by `classifier_guidance`; 0 without it."""
    eps_hat = classifier_guidance(lambda z, logsnr: 0 * z, steep, w)(ZERO, logsnr_t)
    return to_the_mean(None, ZERO, cfg_jax.predict_x(ZERO, eps_hat, logsnr_t), logsnr_t, logsnr_s)


@jax.jit
def shift_of_mean(logsnr_t, logsnr_s, w, v):
    rule = mean_shift(steep, w, to_the_mean)
    return rule(None, ZERO, ZERO, logsnr_t, logsnr_s, logvar_interp=v)


def test_the_mean_moves_by_the_steps_variance_and_in_eps_by_another_one():
    """w Sigma g against w (alpha_s / alpha_t) sigma^2_{t|s} g."""
    _, _, small = reverse(LOGSNR_T, LOGSNR_S)
    ratio, large = forward(LOGSNR_T, LOGSNR_S)
    for found, variance in [
        (shift_of_mean(LOGSNR_T, LOGSNR_S, W, V), small ** (1 - V) * large**V),
        (shift_in_eps(LOGSNR_T, LOGSNR_S, W), large / ratio),
    ]:
        np.testing.assert_allclose(found, like(W * variance, SLOPE) * SLOPE, rtol=2e-5)


def test_the_two_guidances_are_one_for_small_steps_only():
    distances = []
    for gap in 2.0 ** -np.arange(-2, 11, 3):
        steps = LOGSNR_T, np.float32(LOGSNR_T + gap)
        ratio = np.float64(shift_in_eps(*steps, W)) / shift_of_mean(*steps, W, V)
        distances.append(np.abs(np.log(ratio)).max(axis=(1, 2, 3)))
        # log alpha and log sigma^2 each change by less than the log-SNR.
        assert np.all(distances[-1] < gap + 1e-5)
    assert np.all(distances[0] > 0.2 * np.abs(V - 1) + 1e-4)
    assert np.all(np.diff(distances, axis=0) < 0) and distances[-1].max() < 1.1e-3


@jax.jit
def guided_and_plain(z, x_hat, logsnr_t, logsnr_s, w):
    """The guided step with its noise, and the ancestral step with the same key."""
    rule = mean_shift(lambda z, logsnr: -jnp.sum(z**4, axis=(1, 2, 3)) * jnp.exp(logsnr / 9), w)
    arguments = jax.random.key(0), z, x_hat, logsnr_t, logsnr_s
    plain = cfg_jax.ancestral_step(*arguments, logvar_interp=0.3)
    return rule(*arguments, logvar_interp=0.3), plain


@pytest.mark.parametrize("example", [slice(None), 3])
def test_the_shift_is_added_to_an_ancestral_draw_with_the_same_noise(example):
    """Weights divided by the variance keep the shift above the noise; one, or one per example."""
    z, x_hat = np.random.default_rng(2).standard_normal((2, *ZERO.shape)).astype(np.float32)
    logsnr_t, logsnr_s, weight = LOGSNR_T[example], LOGSNR_S[example], W[example]
    _, _, small = reverse(logsnr_t, logsnr_s)
    _, large = forward(logsnr_t, logsnr_s)
    w = np.float32(weight / (small**0.7 * large**0.3))
    guided, plain = map(np.float64, guided_and_plain(z, x_hat, logsnr_t, logsnr_s, w))
    size = like(np.broadcast_to(weight * np.exp(logsnr_t / 9.0), 8), z)
    np.testing.assert_allclose(guided - plain, -4 * size * z**3, rtol=1e-4, atol=2e-6)


def test_a_shift_of_weight_zero_is_the_ancestral_step_bit_for_bit():
    z, x_hat = np.random.default_rng(3).standard_normal((2, *ZERO.shape)).astype(np.float32)
    np.testing.assert_array_equal(*guided_and_plain(z, x_hat, LOGSNR_T, LOGSNR_S, 0 * W))


def test_a_shift_does_not_depend_on_the_neighbours():
    z, x_hat = np.random.default_rng(4).standard_normal((2, *ZERO.shape)).astype(np.float32)
    guided, _ = guided_and_plain(z, x_hat, LOGSNR_T, LOGSNR_S, W)
    z[1::2] = np.nan
    again, _ = guided_and_plain(z, x_hat, LOGSNR_T, LOGSNR_S, W)
    np.testing.assert_array_equal(again[::2], guided[::2])


def test_a_weight_of_the_shift_that_fits_no_example_is_refused():
    """A weight of shape [3] would broadcast against the channels."""
    rule = mean_shift(steep, np.ones(3, np.float32), to_the_mean)
    with pytest.raises(ValueError, match="one number per example"):
        jax.eval_shape(lambda z: rule(None, z, z, 0.0, 1.0), ZERO)


def test_the_last_call_is_guided_in_eps_and_not_by_a_shift():
    """One call: x_hat = z / alpha + w (sigma^2 / alpha) g, and without guidance z / alpha = z_1."""

    @jax.jit
    def run(key, logsnr):
        grid = jnp.stack([logsnr])
        guided = classifier_guidance(lambda z, logsnr: 0 * z, steep, W)
        options = {"clip_x": False, "logvar_interp": V}
        return (
            cfg_jax.sample(key, lambda z, logsnr: 0 * z, ZERO.shape, grid, **options),
            cfg_jax.sample(
                key,
                lambda z, logsnr: 0 * z,
                ZERO.shape,
                grid,
                step=mean_shift(steep, W),
                **options,
            ),
            cfg_jax.sample(key, guided, ZERO.shape, grid, **options),
        )

    plain, shifted, guided = run(jax.random.key(0), np.float32(0.5))
    np.testing.assert_array_equal(shifted, plain)
    alpha, sigma = alpha_sigma(0.5)
    expected = plain + like(W * sigma**2 / alpha, ZERO) * SLOPE
    np.testing.assert_allclose(guided, expected, rtol=1e-5, atol=1e-5)


def test_clipping_and_both_guidances_leave_a_learned_variance_as_it_was():
    z, v = np.random.default_rng(5).random((2, *ZERO.shape)).astype(np.float32)

    def predict(z, logsnr, labels):
        return Prediction(z, jnp.concatenate([v, v + 1])[: len(z)])

    @jax.jit
    def run(z, w):
        denoiser = cfg_jax.classifier_free_guidance(predict, np.arange(8), w, null_label=8)
        return classifier_guidance(clipped(denoiser), steep, w)(z, np.float32(0))

    output = run(z, W)
    np.testing.assert_array_equal(output.logvar_interp, v)
    assert np.all(output.eps_hat != z)


def test_clipped_means_that_x_hat_lies_in_the_range_of_images():
    """x_hat = 3 z with z in [-1, 1]: a third is unchanged, the rest becomes -1 or 1."""
    z = np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3)
    logsnr = np.float32([-8, -4, -2, 0, 1, 2, 4, 8])

    def denoiser(z, logsnr):
        return cfg_jax.predict_eps(z, 3 * z, logsnr)

    eps_hat = jax.jit(clipped(denoiser))(z, logsnr)
    alpha, sigma = alpha_sigma(logsnr)
    x_hat = (z - like(sigma, z) * eps_hat) / like(alpha, z)
    np.testing.assert_allclose(x_hat, np.clip(3 * z, -1, 1), atol=2e-5)
