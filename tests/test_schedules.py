"""u <-> log-SNR on [0, 1], its density, and the sampler's grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.core import schedules

RANGES = [(-20.0, 20.0), (-20.3, 12.7), (-40.0, 40.0), (1.5, 9.0), (-9.0, -1.5)]
U = np.concatenate(
    [
        np.linspace(0, 1, 20_001),
        np.logspace(-7, -1, 400),
        1 - np.logspace(-7, -1, 400),
    ]
).astype(np.float32)


standard = jax.jit(cfg_jax.cosine_schedule())


def angles(logsnr_min, logsnr_max):
    """theta at u = 0 and at u = 1, where alpha = cos theta and sigma = sin theta."""
    return np.arctan(np.exp(-logsnr_max / 2)), np.arctan(np.exp(-logsnr_min / 2))


def exact_logsnr(u, logsnr_min, logsnr_max):
    """2 arcsinh(cot(2 theta)): sinh(logsnr / 2) = (alpha / sigma - sigma / alpha) / 2."""
    first, last = angles(logsnr_min, logsnr_max)
    return 2 * np.arcsinh(1 / np.tan(2 * (first + (last - first) * np.asarray(u, np.float64))))


def exact_u(logsnr, logsnr_min, logsnr_max):
    """(theta - theta_0) / (theta_1 - theta_0) with theta from the two-argument arctangent."""
    first, last = angles(logsnr_min, logsnr_max)
    logsnr = np.asarray(logsnr, np.float64)
    return (np.arctan2(np.exp(-logsnr / 4), np.exp(logsnr / 4)) - first) / (last - first)


@pytest.mark.parametrize("ends", RANGES)
def test_the_schedule_is_within_1e_5_of_float64_for_every_u(ends):
    schedule = cfg_jax.cosine_schedule(*ends)
    logsnr = np.asarray(schedule(U))
    assert logsnr.dtype == np.float32 and logsnr.shape == U.shape
    np.testing.assert_allclose(logsnr, exact_logsnr(U, *ends), rtol=0, atol=1e-5)
    assert np.all(np.diff(logsnr[:20_001]) < 0)


def test_the_compiled_schedule_is_as_accurate():
    np.testing.assert_allclose(standard(U), exact_logsnr(U, -20, 20), rtol=0, atol=1e-5)


@pytest.mark.parametrize("ends", RANGES)
def test_both_ends_of_the_schedule_are_exact(ends):
    logsnr_min, logsnr_max = np.float32(ends)
    logsnr = np.asarray(cfg_jax.cosine_schedule(*ends)(U))
    assert np.all(logsnr[U == 0] == logsnr_max) and np.all(logsnr[U == 1] == logsnr_min)
    assert logsnr.max() == logsnr_max and logsnr.min() == logsnr_min


def test_the_papers_range_is_20_at_clean_data_0_half_way_and_minus_20_at_noise():
    logsnr = np.asarray(standard(U))
    assert U[0] == 0 and U[10_000] == 0.5 and U[20_000] == 1
    assert logsnr[0] == 20 and logsnr[20_000] == -20
    assert abs(logsnr[10_000]) < 1e-6


def test_the_schedule_keeps_the_shape_of_u():
    schedule = cfg_jax.cosine_schedule()
    for shape in [(), (2, 3)]:
        assert jax.eval_shape(schedule, jnp.zeros(shape)).shape == shape


@pytest.mark.parametrize("ends", RANGES)
def test_the_inverse_leads_from_log_snr_back_to_u(ends):
    schedule = cfg_jax.cosine_schedule(*ends)
    logsnr = np.float32(np.linspace(*ends, len(U)))
    u = np.asarray(schedule.inverse(logsnr))
    np.testing.assert_allclose(u, exact_u(logsnr, *ends), rtol=0, atol=5e-7)
    np.testing.assert_allclose(schedule.inverse(schedule(U)), U, rtol=0, atol=5e-7)


@pytest.mark.parametrize("ends", RANGES)
def test_the_density_integrates_to_one_and_vanishes_outside(ends):
    schedule = cfg_jax.cosine_schedule(*ends)
    logsnr = np.linspace(ends[0] - 1, ends[1] + 1, len(U))
    density = np.asarray(schedule.density(logsnr), np.float64)
    inside = (logsnr > ends[0]) & (logsnr < ends[1])
    assert abs(np.sum(density) * (logsnr[1] - logsnr[0]) - 1) < 3e-4
    assert np.all(density[inside] > 0) and np.all(density[~inside] == 0)


def test_the_density_is_the_change_of_u_per_log_snr():
    logsnr = np.linspace(-19.9, 19.9, len(U)).astype(np.float32)
    low, high = (exact_u(logsnr + np.float64(h), -20, 20) for h in (-1e-4, 1e-4))
    density = cfg_jax.cosine_schedule().density(logsnr)
    np.testing.assert_allclose(density, (low - high) / 2e-4, rtol=1e-5)


def test_log_snrs_fall_into_the_bands_that_the_density_says():
    """Fractions of uniform u: integrals of sech(x / 2) / (4 a), to a tenth of a percent."""
    u = np.float32((np.arange(len(U)) + 0.5) / len(U))
    shares = np.histogram(np.abs(standard(u)), [0, 2, 5, 10, 20.1])[0] / len(U)
    np.testing.assert_allclose(shares, [0.551, 0.345, 0.096, 0.009], atol=6e-4)
    density = np.asarray(cfg_jax.cosine_schedule().density(np.linspace(-2, 2, len(U))))
    assert abs(density.mean() * 4 - shares[0]) < 2e-4


def test_the_grid_of_256_steps_has_the_papers_values():
    grid = np.asarray(cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 256))
    assert grid.shape == (256,) and grid.dtype == np.float32
    np.testing.assert_allclose(grid[:4], [-20, -10.165, -8.786, -7.977], atol=5e-4)
    np.testing.assert_allclose(grid[-4:], [7.977, 8.786, 10.165, 20], atol=5e-4)


@pytest.mark.parametrize("ends", RANGES)
@pytest.mark.parametrize("num_steps", [2, 7, 1000])
def test_the_grid_climbs_from_end_to_end_uniformly_in_u(ends, num_steps):
    grid = np.asarray(cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(*ends), num_steps))
    assert grid.shape == (num_steps,) and grid.dtype == np.float32
    assert grid[0] == np.float32(ends[0]) and grid[-1] == np.float32(ends[1])
    assert np.all(np.diff(grid) > 0)
    np.testing.assert_allclose(np.diff(exact_u(grid, *ends)), -1 / (num_steps - 1), atol=3e-7)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 50])
def test_the_grid_that_excludes_clean_data_stops_one_step_short(num_steps):
    grid = np.asarray(
        cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), num_steps, inclusive=False), np.float64
    )
    assert grid[0] == -20 and grid.shape == (num_steps,)
    u = np.arange(num_steps, 0, -1) / num_steps
    np.testing.assert_allclose(exact_u(grid, -20, 20), u, atol=3e-7)


@pytest.mark.parametrize(
    "ends",
    [(20, -20), (1, 1), (np.nan, 20), (-20, np.nan), (-np.inf, 20), (-20, np.inf)],
)
def test_ends_that_are_no_range_are_refused(ends):
    with pytest.raises(ValueError, match="logsnr_m.*need finite values"):
        cfg_jax.cosine_schedule(*ends)


@pytest.mark.parametrize(("num_steps", "inclusive"), [(1, True), (0, True), (-3, True), (0, False)])
def test_a_grid_without_a_step_is_refused(num_steps, inclusive):
    with pytest.raises(ValueError, match=f"num_steps={num_steps}"):
        cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), num_steps, inclusive=inclusive)


def test_equal_schedules_share_one_compiled_program():
    traces = []

    def logsnr(schedule, u):
        traces.append(schedule)
        return schedule(u)

    logsnr = jax.jit(logsnr, static_argnums=0)
    values = [logsnr(cfg_jax.cosine_schedule(-9, 9), jnp.float32(0.3)) for _ in range(2)]
    assert len(traces) == 1 and values[0] == values[1]


def test_a_continuous_schedule_has_no_timesteps_to_choose_from():
    with pytest.raises(ValueError, match="respacing='ddim25'.*continuous.*give num_steps"):
        cfg_jax.cosine_schedule().respaced("ddim25")


def test_a_grid_is_taken_as_float32_and_traced_values_are_not_looked_at():
    for grid in ([-1.0, 2.0, 2.0], [3.0]):
        found = schedules.ascending(grid)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, grid)
    jax.jit(schedules.ascending)(jnp.array([2.0, 1.0]))


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ([2.0, 1.0], {}),
        ([1.0, float("nan"), 2.0], {}),
        ([], {}),
        ([[1.0, 2.0]], {}),
        (1.0, {}),
        ([1.0], {"least": 2}),
        ([1.0, 1.0], {"strictly": True}),
    ],
)
def test_a_grid_that_does_not_go_from_noise_to_data_is_refused(grid, options):
    with pytest.raises(ValueError, match=r"^logsnrs.*: need a.* grid"):
        schedules.ascending(grid, **options)
