"""Straight paths in log-SNR: schedule, coordinates, weighting, clamp and Heun's steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import cfg_jax
from cfg_jax.core import flow
from cfg_jax.core.losses import WEIGHTING_NAMES, squared_error, weight_of
from cfg_jax.core.types import eps_of
from tests.solver_files import run

SCHEDULES = [cfg_jax.FlowSchedule(), cfg_jax.FlowSchedule(-0.4, 1.2, 2.0)]
SCALES = [1.0, 2.0, 0.5]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("noise_scale", SCALES)
def test_time_and_log_snr_are_those_of_the_straight_path(noise_scale):
    t = np.linspace(0, 1, 41)[1:-1]
    signal, noise = t, (1 - t) * noise_scale
    logsnr = 2 * np.log(signal / noise)
    np.testing.assert_allclose(flow.logsnr_of(t, noise_scale), logsnr, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(flow.time_of(logsnr, noise_scale), t, rtol=2e-6)
    # z_flow = t x + (1 - t) n eps is z times the root of the squares of both.
    scale = np.hypot(signal, noise)
    np.testing.assert_allclose(flow.scale_of(logsnr, noise_scale), scale, rtol=2e-6)


@pytest.mark.parametrize("noise_scale", SCALES)
def test_both_ends_of_the_path_are_finite(noise_scale):
    ends = jnp.asarray([-jnp.inf, jnp.inf])
    np.testing.assert_array_equal(flow.time_of(ends, noise_scale), [0, 1])
    np.testing.assert_allclose(flow.scale_of(ends, noise_scale), [noise_scale, 1], rtol=1e-6)
    np.testing.assert_array_equal(flow.logsnr_of([0.0, 1.0], noise_scale), ends)
    z, t = flow.coordinates(jnp.ones((2, 3)), ends, noise_scale)
    np.testing.assert_allclose(z, [[noise_scale] * 3, [1] * 3], rtol=1e-6)
    np.testing.assert_array_equal(t, [0, 1])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_density_of_a_flow_schedule_integrates_to_one(schedule):
    grid = np.linspace(schedule.logsnr_min, schedule.logsnr_max, 20_001)
    assert integrate.simpson(schedule.density(grid), x=grid) == pytest.approx(1, abs=1e-5)
    outside = jnp.asarray([schedule.logsnr_min - 0.1, schedule.logsnr_max + 0.1])
    np.testing.assert_array_equal(schedule.density(outside), 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_snrs_of_uniform_u_have_the_mean_and_deviation_of_logit_normal_times(schedule):
    logsnr = np.asarray(schedule(jax.random.uniform(jax.random.key(0), (200_000,))), np.float64)
    mean = 2 * schedule.p_mean - 2 * np.log(schedule.noise_scale)
    assert logsnr.mean() == pytest.approx(mean, abs=5 * 2 * schedule.p_std / 200_000**0.5)
    assert logsnr.std() == pytest.approx(2 * schedule.p_std, rel=0.01)
    times = np.asarray(flow.time_of(logsnr, schedule.noise_scale))
    logit = np.log(times / (1 - times))
    assert stats.kstest(logit, stats.norm(schedule.p_mean, schedule.p_std).cdf).pvalue > 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_u_and_log_snr_of_a_flow_schedule_are_inverse_and_ordered(schedule):
    u = np.linspace(0, 1, 1001)
    logsnr = np.asarray(schedule(u))
    assert np.all(np.diff(logsnr) < 0)
    expected = [schedule.logsnr_max, schedule.logsnr_min]
    np.testing.assert_allclose(logsnr[[0, -1]], expected, rtol=1e-6)
    np.testing.assert_allclose(schedule.inverse(logsnr), u, atol=2e-6)


def test_the_grid_of_a_flow_schedule_is_uniform_in_time_and_begins_with_noise_alone():
    schedule = cfg_jax.FlowSchedule(noise_scale=2.0)
    grid = schedule.grid(50)
    np.testing.assert_allclose(flow.time_of(grid, 2.0), np.arange(50) / 50, atol=1e-7)
    with pytest.raises(ValueError, match="num_steps=1"):
        schedule.grid(1)
    with pytest.raises(ValueError, match="respacing='ddim25'.*continuous"):
        schedule.respaced("ddim25")


@pytest.mark.parametrize("noise_scale", SCALES)
@pytest.mark.parametrize("t_eps", [0.0, 0.05])
def test_the_flow_weighting_gives_the_squared_error_of_velocities(noise_scale, t_eps):
    t = np.array([0.02, 0.3, 0.5, 0.9, 0.97])
    x, x_hat, noise = RNG.standard_normal((3, 5, 4, 4, 2))
    along = t[:, None, None, None]
    z_flow = along * x + (1 - along) * noise_scale * noise
    left = np.maximum(1 - along, t_eps)
    expected = np.mean(((x - z_flow) / left - (x_hat - z_flow) / left) ** 2, axis=(1, 2, 3))
    logsnr = flow.logsnr_of(t, noise_scale)
    z = z_flow / np.asarray(flow.scale_of(logsnr, noise_scale))[:, None, None, None]
    schedule = cfg_jax.FlowSchedule(noise_scale=noise_scale)
    weight = weight_of("flow", logsnr, schedule, t_eps)
    predict = cfg_jax.as_predict(lambda *_: jnp.asarray(x_hat, jnp.float32), "x")
    output = predict(jnp.asarray(z, jnp.float32), logsnr, None)
    for given in (output, eps_of(output)):
        loss = squared_error(z, given, x, jnp.asarray(noise), logsnr, weight)
        np.testing.assert_allclose(loss, expected, rtol=2e-4 if given is not output else 1e-5)


@pytest.mark.parametrize("weighting", WEIGHTING_NAMES)
def test_a_loss_by_x_hat_equals_that_by_eps_hat(weighting):
    schedule = cfg_jax.FlowSchedule()
    logsnr = jnp.asarray([-3.0, 0.0, 2.0])
    x, eps, x_hat = jnp.asarray(RNG.standard_normal((3, 3, 4, 4, 2)), jnp.float32)
    z = cfg_jax.diffuse(x, eps, logsnr)
    output = cfg_jax.as_predict(lambda *_: x_hat, "x")(z, logsnr, None)
    weight = weight_of(weighting, logsnr, schedule)
    one, other = (squared_error(z, o, x, eps, logsnr, weight) for o in (output, eps_of(output)))
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_flow_weighting_of_another_schedule_is_refused():
    with pytest.raises(ValueError, match="weighting='flow' needs.*FlowSchedule"):
        weight_of("flow", jnp.zeros(1), cfg_jax.cosine_schedule())


@pytest.mark.parametrize("noise_scale", SCALES)
def test_a_clamped_predict_has_the_velocity_of_a_limited_denominator(noise_scale):
    t = np.array([0.0, 0.5, 0.94, 0.96, 0.99])
    along = t[:, None, None, None]
    z_flow, x_hat = RNG.standard_normal((2, 5, 3, 3, 1))
    logsnr = np.maximum(flow.logsnr_of(t, noise_scale), -80)
    z = z_flow / np.asarray(flow.scale_of(logsnr, noise_scale), np.float64)[:, None, None, None]
    predict = cfg_jax.as_predict(lambda *_: jnp.asarray(x_hat, jnp.float32), "x")
    output = flow.clamped(predict, noise_scale)(jnp.asarray(z, jnp.float32), logsnr, None)
    velocity = (np.asarray(output.x_hat, np.float64) - z_flow) / (1 - along)
    expected = (x_hat - z_flow) / np.maximum(1 - along, 0.05)
    np.testing.assert_allclose(velocity, expected, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("noise_scale", SCALES)
def test_heuns_step_takes_the_mean_of_both_velocities(noise_scale):
    # The formula of the paper, in the coordinates of the paper.
    times = np.array([0.0, 0.1, 0.4, 0.7, 0.9])
    x_hats = RNG.standard_normal((9, 3))
    start = noise_scale * RNG.standard_normal(3)
    z, answers, ends = start, iter(x_hats), []
    for t, s in zip(times[:-1], times[1:], strict=True):
        first = (next(answers) - z) / (1 - t)
        second = (next(answers) - (z + (s - t) * first)) / (1 - s)
        z = z + (s - t) * (first + second) / 2
        ends.append(z)
    logsnrs = np.concatenate([[-np.inf], 2 * np.log(times[1:] / (1 - times[1:]) / noise_scale)])
    plan = cfg_jax.plan(logsnrs, "heun_flow", noise_scale=noise_scale)
    states, _ = run(plan, lambda z, logsnr, call: x_hats[call], start / noise_scale)
    scale = np.hypot(times, (1 - times) * noise_scale)[1:, None]
    np.testing.assert_allclose(states[plan.starts][1:] * scale, ends, rtol=1e-10, atol=1e-10)


def test_every_call_of_heuns_flow_step_is_guided_by_its_own_log_snr():
    plan = cfg_jax.plan(cfg_jax.FlowSchedule().grid(50), "heun_flow")
    w = cfg_jax.weights(plan, 1.9, interval=(float(flow.logsnr_of(0.1)) + 1e-4, 80.0))
    assert plan.num_calls == 99 and w.guided.sum() == 88  # published: 88 of 99


MEANS = np.float32([[1, -1], [-1, 1]])
MIXTURE = cfg_jax.GaussianMixture(MEANS, 0.04, np.float32([0.5, 0.5]))


@jax.jit
def drawn(plan):
    denoiser = lambda z, logsnr: _with_x(MIXTURE, z, logsnr)  # noqa: E731
    return cfg_jax.sample(jax.random.key(0), denoiser, (2000, 2), plan, clip_x=False)


SOLVERS = ["ddim", "dpmpp_2m", "dpmpp_3m", "unipc_1", "unipc_3", "deis_2", "heun_flow"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_that_begins_with_noise_alone_draws_the_data(solver):
    x = np.asarray(drawn(cfg_jax.plan(cfg_jax.FlowSchedule().grid(60), solver)))
    side = x[:, 0] > 0
    assert side.mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(x[side].mean(axis=0), [1, -1], atol=0.03)
    np.testing.assert_allclose(x[side].std(axis=0), 0.2, rtol=0.1)


def _with_x(mixture, z, logsnr):
    """The exact x_hat, which is the data's mean for noise alone."""
    safe = jnp.maximum(logsnr, -30.0)
    x_hat = cfg_jax.predict_x(z, mixture.predict(z, safe, jnp.full(len(z), 2)), safe)
    return cfg_jax.as_predict(lambda *_: jnp.where(logsnr[:, None] < -20, 0.0, x_hat), "x")(
        z, logsnr, None
    )


@pytest.mark.parametrize("direction", [lambda z: jnp.ones_like(z), lambda z: z, jnp.sin])
def test_the_exact_mixture_minimises_the_flow_weighted_loss(direction):
    mixture = cfg_jax.GaussianMixture(jnp.asarray([[1.5], [-0.5]]), 0.1, jnp.asarray([0.5, 0.5]))
    labels = jnp.arange(20_000) % 2
    x = mixture.draw(jax.random.key(1), labels)

    def losses(theta):
        def predict(z, logsnr, labels):
            x_hat = cfg_jax.predict_x(z, mixture.predict(z, logsnr, labels), logsnr)
            moved = lambda *_: x_hat + theta * direction(z)  # noqa: E731
            return cfg_jax.as_predict(moved, "x")(z, logsnr, labels)

        loss, _ = cfg_jax.diffusion_loss(
            jax.random.key(2), predict, x, labels, schedule=cfg_jax.FlowSchedule(),
            p_uncond=0.1, null_label=2, weighting="flow",
        )  # fmt: skip
        return loss

    slopes = np.asarray(jax.jvp(losses, (0.0,), (1.0,))[1], np.float64)
    assert abs(slopes.mean()) < 4 * slopes.std() / len(slopes) ** 0.5
    assert losses(0.1).mean() > losses(0.0).mean() < losses(-0.1).mean()


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc_2", "deis_2"])
def test_the_first_step_from_noise_alone_is_that_of_ddim(solver):
    grid = cfg_jax.FlowSchedule().grid(10)
    first = cfg_jax.plan(grid, "ddim").matrix[0, 0]
    np.testing.assert_allclose(cfg_jax.plan(grid, solver).matrix[0, 0], first, rtol=1e-9, atol=1e-9)


def test_noise_alone_is_refused_for_a_function_that_gives_eps_hat_only():
    plan = cfg_jax.plan(cfg_jax.FlowSchedule().grid(10), "ddim")
    for logsnrs in (plan, cfg_jax.FlowSchedule().grid(10)):
        with pytest.raises(ValueError, match="begin at -80, where eps_hat.*return a Prediction"):
            cfg_jax.sample(jax.random.key(0), lambda z, logsnr: z, (2, 3), logsnrs)


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (1, 4, 4, 1), (2, 4, 4), ()])
def test_an_x_hat_of_another_shape_is_refused_everywhere(shape):
    z, logsnr, labels = jnp.zeros((2, 4, 4, 1)), jnp.zeros(2), jnp.zeros(2, jnp.int32)
    output = cfg_jax.Prediction(z, x_hat=jnp.zeros(shape))
    given = {"schedule": cfg_jax.FlowSchedule(), "p_uncond": 0.1, "null_label": 2}
    draw = lambda step: cfg_jax.sample(  # noqa: E731
        jax.random.key(0), lambda z, logsnr: output, z.shape, step
    )
    grid = cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 4)
    for call in (
        lambda: cfg_jax.diffusion_loss(jax.random.key(0), lambda *_: output, z, labels, **given),
        lambda: draw(grid),
        lambda: draw(cfg_jax.plan(np.asarray(grid), "dpmpp_2m")),
        lambda: squared_error(z, output, z, z, logsnr),
    ):
        with pytest.raises(ValueError, match="x_hat of shape .* for z of shape"):
            call()


def test_a_flow_schedule_of_arrays_is_hashable_and_without_a_limit_the_loss_is_finite():
    schedule = cfg_jax.FlowSchedule(np.array(-0.8), jnp.float32(0.5), np.float64(2))
    assert hash(schedule) == hash(cfg_jax.FlowSchedule(-0.8, 0.5, 2.0))
    x, labels = jnp.ones((64, 2, 2, 1)), jnp.zeros(64, jnp.int32)
    predict = cfg_jax.as_predict(lambda z, logsnr, labels: z, "x")
    given = {"weighting": "flow", "t_eps": 0.0, "p_uncond": 0.1, "null_label": 2}
    loss, _ = cfg_jax.diffusion_loss(
        jax.random.key(0), predict, x, labels, schedule=schedule, **given
    )
    assert np.all(np.isfinite(loss))
