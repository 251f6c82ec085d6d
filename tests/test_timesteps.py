"""Discrete processes in log-SNR: published ranges, golden respacings, DDPM's formulas."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.core.timesteps import DiscreteSchedule, cosine_timesteps, linear_timesteps

LINEAR, COSINE = linear_timesteps(), cosine_timesteps()
GOLDEN = {"linear_50": (LINEAR, 50), "cosine_25": (COSINE, 25)}
# Uneven log-SNRs: a neighboring step, or the wrong end, would fail.
UNEVEN = DiscreteSchedule((9.5, 3.0, 2.75, -1.0, -1.5, -12.0))
SCHEDULES = {"linear": LINEAR, "cosine": COSINE, "uneven": UNEVEN}

call = jax.jit(lambda schedule, u: schedule(u), static_argnums=0)
inverse = jax.jit(lambda schedule, logsnr: schedule.inverse(logsnr), static_argnums=0)
timestep = jax.jit(lambda schedule, logsnr: schedule.timestep(logsnr), static_argnums=0)
logsnr_of = jax.jit(lambda schedule, t: schedule.logsnr(t), static_argnums=0)


def golden(name):
    return np.load(Path(__file__).parent / "golden" / f"diffusion_{name}.npz")


def timesteps_of(schedule, grid):
    """Timesteps, cleanest first, of an ascending float32 grid of table entries."""
    grid = np.asarray(grid)
    assert grid.dtype == np.float32 and np.all(np.diff(grid) > 0)
    where = {np.float32(entry): t for t, entry in enumerate(schedule.logsnrs)}
    return [where[entry] for entry in grid[::-1]]


@pytest.mark.parametrize(
    ("schedule", "ends"), [(LINEAR, (-10.118, 9.210)), (COSINE, (-19.836, 10.095))]
)
def test_a_thousand_steps_have_the_published_range(schedule, ends):
    assert schedule.num_timesteps == 1000
    np.testing.assert_allclose([schedule.logsnr_min, schedule.logsnr_max], ends, atol=5.1e-4)


@pytest.mark.parametrize("num_timesteps", [21, 100, 1000, 4000])
def test_linear_betas_sum_up_to_the_log_snr(num_timesteps):
    """log abar is a sum of log1p(-beta), and 1 / snr = 1 / abar - 1 = expm1(-log abar)."""
    share = np.arange(num_timesteps) / (num_timesteps - 1)
    beta = (0.1 * (1 - share) + 20 * share) / num_timesteps
    log_abar = np.cumsum(np.log1p(-beta))
    expected = -np.log(np.expm1(-log_abar))
    np.testing.assert_allclose(linear_timesteps(num_timesteps).logsnrs, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_timesteps", [2, 25, 1000, 4000])
def test_cosine_betas_telescope_up_to_the_last_which_is_capped(num_timesteps):
    angle = (np.arange(num_timesteps + 1) / num_timesteps + 0.008) / 1.008 * np.pi / 2
    abar = (np.cos(angle[1:]) / np.cos(angle[0])) ** 2
    abar[-1] = 0.001 * abar[-2]
    schedule = cosine_timesteps(num_timesteps)
    np.testing.assert_allclose(schedule.logsnrs, np.log(abar / (1 - abar)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_grid_is_the_golden_respacing(name):
    schedule, num_steps = GOLDEN[name]
    data = golden(name)
    grid = cfg_jax.logsnr_grid(schedule, num_steps)
    assert timesteps_of(schedule, grid) == data["timestep_map"].tolist()
    abar = data["alphas_cumprod"]
    np.testing.assert_allclose(grid[::-1], np.log(abar / (1 - abar)), rtol=2e-7)
    np.testing.assert_allclose(timestep(schedule, grid)[::-1], data["timestep_map"], atol=1e-3)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_respaced_step_is_the_posterior_between_its_log_snrs(name):
    """Betas of the respaced process, then DDPM's coefficients, all from the golden abar."""
    schedule, num_steps = GOLDEN[name]
    abar = golden(name)["alphas_cumprod"]
    now, before = abar[1:], abar[:-1]
    beta = 1 - now / before
    logsnr = np.asarray(schedule.grid(num_steps))[::-1]
    one, zero = np.ones((num_steps - 1, 1), np.float32), np.zeros((num_steps - 1, 1), np.float32)
    weight_z, logvar = cfg_jax.posterior(one, zero, logsnr[1:], logsnr[:-1])
    weight_x, _ = cfg_jax.posterior(zero, one, logsnr[1:], logsnr[:-1])
    _, upper = cfg_jax.posterior(zero, one, logsnr[1:], logsnr[:-1], logvar_interp=1.0)
    expected = {
        "z": (weight_z, np.sqrt(1 - beta) * (1 - before) / (1 - now)),
        "x": (weight_x, np.sqrt(before) * beta / (1 - now)),
        "beta tilde": (np.exp(logvar), (1 - before) / (1 - now) * beta),
        "beta": (np.exp(upper), beta),
    }
    for what, (actual, value) in expected.items():
        np.testing.assert_allclose(actual[:, 0], value, rtol=1e-5, err_msg=what)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("clip", [0, 1])
def test_a_golden_reverse_step_is_reproduced_from_its_x(name, clip):
    schedule, num_steps = GOLDEN[name]
    data = golden(name)
    logsnr = np.asarray(schedule.grid(num_steps))[::-1]
    steps = sorted({int(key.split("_")[0][4:]) for key in data if key.startswith("step")})
    assert steps[0] == 1 and steps[-1] == num_steps - 1
    for i in steps:
        t = data["timestep_map"][i] / 1000
        # The network of the linear file also returns a variance, from -1 (lower) to 1 (upper).
        learned = np.tanh(0.5 * data["x"] + t - 0.5) if name == "linear_50" else -1.0
        mean, logvar = cfg_jax.posterior(
            data["x"],
            data[f"step{i}_clip{clip}_pred_xstart"],
            logsnr[i],
            logsnr[i - 1],
            logvar_interp=np.float32((learned + 1) / 2),
        )
        size = np.abs(data[f"step{i}_clip{clip}_mean"]).max()
        np.testing.assert_allclose(mean, data[f"step{i}_clip{clip}_mean"], atol=2e-6 * size)
        expected = data[f"step{i}_clip{clip}_variance"]
        np.testing.assert_allclose(np.exp(logvar) * np.ones_like(mean), expected, rtol=2e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_uniform_u_meets_every_timestep_equally_often_cleanest_first(name):
    schedule = SCHEDULES[name]
    n = schedule.num_timesteps
    u = (np.arange(7 * n) + 0.5) / (7 * n)
    logsnr = call(schedule, u)
    assert logsnr.dtype == np.float32
    np.testing.assert_array_equal(logsnr, np.repeat(np.float32(schedule.logsnrs), 7))


@pytest.mark.parametrize("name", SCHEDULES)
def test_u_clamps_at_both_ends_and_keeps_its_shape(name):
    schedule = SCHEDULES[name]
    u = np.float32([[-3, 0, 1e-7], [1 - 1e-7, 1, 2]])
    first, last = np.float32([schedule.logsnr_max, schedule.logsnr_min])
    np.testing.assert_array_equal(call(schedule, u), [[first] * 3, [last] * 3])
    assert schedule(0.5).shape == ()


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_inverse_leads_back_to_the_very_timestep(name):
    schedule = SCHEDULES[name]
    n = schedule.num_timesteps
    table = np.float32(schedule.logsnrs)
    u = inverse(schedule, table)
    np.testing.assert_allclose(u, (np.arange(n) + 0.5) / n, rtol=0, atol=1e-3 / n)
    np.testing.assert_array_equal(call(schedule, u), table)
    middle = (table[1:] + table[:-1]) / 2
    np.testing.assert_allclose(inverse(schedule, middle), np.arange(1, n) / n, atol=1e-3 / n)
    assert np.all(inverse(schedule, np.float32([-1e9, 1e9])) >= 0)
    assert np.all(inverse(schedule, np.float32([-1e9, 1e9])) <= 1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_timestep_and_log_snr_are_each_others_inverse(name):
    schedule = SCHEDULES[name]
    n = schedule.num_timesteps
    whole, table = np.arange(n), np.float64(schedule.logsnrs)
    np.testing.assert_allclose(timestep(schedule, table), whole, rtol=0, atol=1e-3)
    np.testing.assert_allclose(logsnr_of(schedule, whole), table, rtol=1e-5)
    t = np.linspace(0, n - 1, 12_345).astype(np.float32)
    logsnr = np.asarray(logsnr_of(schedule, t))
    assert np.all(np.diff(logsnr) < 0)
    np.testing.assert_allclose(timestep(schedule, logsnr), t, rtol=0, atol=1e-3)
    np.testing.assert_allclose(logsnr, np.interp(t, whole, table), rtol=1e-5, atol=1e-5)


def test_between_two_timesteps_both_maps_are_straight_lines():
    """Computed by hand: 3.0 and 2.75 are timesteps 1 and 2, -1.5 and -12.0 are 4 and 5."""
    logsnr, t = [[2.9375, 2.8125], [-3.6, -6.75]], [[1.25, 1.75], [4.2, 4.5]]
    np.testing.assert_allclose(timestep(UNEVEN, jnp.asarray(logsnr)), t, rtol=1e-6)
    np.testing.assert_allclose(logsnr_of(UNEVEN, jnp.asarray(t)), logsnr, rtol=1e-6)
    np.testing.assert_array_equal(timestep(UNEVEN, jnp.asarray([20.0, -20.0])), [0, 5])
    np.testing.assert_array_equal(logsnr_of(UNEVEN, jnp.asarray([-1.0, 6.0])), [9.5, -12])


def test_a_log_snr_that_is_no_number_has_no_timestep():
    assert np.isnan(timestep(LINEAR, jnp.nan)) and np.isnan(logsnr_of(LINEAR, jnp.nan))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_grid_of_as_many_steps_as_timesteps_is_the_whole_table(name):
    schedule = SCHEDULES[name]
    grid = schedule.grid(schedule.num_timesteps)
    assert grid.dtype == np.float32
    np.testing.assert_array_equal(grid, np.float32(schedule.logsnrs)[::-1])


def test_the_shortest_grid_has_both_ends():
    np.testing.assert_array_equal(UNEVEN.grid(2), [-12, 9.5])
    np.testing.assert_array_equal(cfg_jax.logsnr_grid(UNEVEN, 3), [-12, 2.75, 9.5])


@pytest.mark.parametrize("num_steps", [21, 27, 100, 107, 250, 999])
def test_halves_round_as_in_the_running_sum_of_the_original(num_steps):
    """At 21 steps the exact tenth timestep is 499.5; the sum of ten strides sets its rounding."""
    sums = itertools.accumulate(itertools.repeat(999 / (num_steps - 1), num_steps - 1), initial=0.0)
    assert timesteps_of(LINEAR, LINEAR.grid(num_steps)) == [round(value) for value in sums]


def test_one_number_is_that_many_even_timesteps():
    np.testing.assert_array_equal(LINEAR.respaced("250"), LINEAR.grid(250))
    np.testing.assert_array_equal(LINEAR.respaced("1000"), LINEAR.grid(1000))


@pytest.mark.parametrize(("sections", "stride"), [("ddim25", 40), ("ddim50", 20), ("ddim500", 2)])
def test_ddim_timesteps_keep_an_integer_stride(sections, stride):
    assert timesteps_of(COSINE, COSINE.respaced(sections)) == list(range(0, 1000, stride))


def test_the_lsun_sections_are_dense_where_the_data_is_clean():
    t = np.array(timesteps_of(LINEAR, LINEAR.respaced("90,60,60,20,20")))
    assert len(t) == 250 and t[0] == 0 and t[-1] == 999
    np.testing.assert_array_equal(np.histogram(t, np.arange(0, 1001, 200))[0], [90, 60, 60, 20, 20])
    for first in range(0, 1000, 200):
        section = t[(t >= first) & (t < first + 200)]
        assert section[0] == first and section[-1] == first + 199
        assert np.ptp(np.diff(section)) <= 1


def test_the_first_sections_are_longer_where_they_do_not_divide():
    """Six timesteps in four sections are 0 1, 2 3, 4, 5."""
    assert timesteps_of(UNEVEN, UNEVEN.respaced("2,1,1,1")) == [0, 1, 2, 4, 5]
    assert timesteps_of(UNEVEN, UNEVEN.respaced(" 1, 2, 1, 1 ")) == [0, 2, 3, 4, 5]
    assert timesteps_of(UNEVEN, UNEVEN.respaced("1,1")) == [0, 3]


@pytest.mark.parametrize("schedule", [LINEAR, UNEVEN])
@pytest.mark.parametrize("num_steps", [-1, 0, 1, "more"])
def test_a_grid_of_too_few_or_too_many_steps_is_refused(schedule, num_steps):
    num_steps = schedule.num_timesteps + 1 if num_steps == "more" else num_steps
    with pytest.raises(ValueError, match=f"num_steps={num_steps}:.* 2 to {schedule.num_timesteps}"):
        cfg_jax.logsnr_grid(schedule, num_steps)


def test_a_grid_without_its_clean_end_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="inclusive=False: a discrete process has no such grid"):
        cfg_jax.logsnr_grid(LINEAR, 50, inclusive=False)


@pytest.mark.parametrize(
    "sections",
    ["", "1", "0", "-5", "abc", "1.5", "10,", ",10", "10,0", "10,-3", "10;20", "ddim", "ddim-5"]
    + ["ddim2.5", "ddim25,10", "25ddim", "DDIM25", "250 250", None, 250],
)
def test_a_malformed_respacing_is_refused_with_the_allowed_forms(sections):
    with pytest.raises(ValueError, match="'250'.*'ddim25'.*'90,60,60,20,20'") as error:
        LINEAR.respaced(sections)
    assert f"respacing={sections!r}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("sections", ["1001", "201,60,60,20,20", "60,60,60,60,201"])
def test_more_timesteps_than_a_section_has_are_refused(sections):
    with pytest.raises(ValueError, match=f"'{sections}': (1001|201) timesteps of a section"):
        LINEAR.respaced(sections)


@pytest.mark.parametrize(
    ("count", "nearest"), [(0, 2), (1, 2), (300, 334), (700, 500), (2000, 1000)]
)
def test_a_count_that_no_stride_gives_is_refused_with_the_nearest(count, nearest):
    with pytest.raises(ValueError, match=f"exactly {count} of 1000.*'ddim{nearest}'"):
        LINEAR.respaced(f"ddim{count}")
    assert len(LINEAR.respaced(f"ddim{nearest}")) == nearest


@pytest.mark.parametrize("logsnrs", [(), (3.0,)])
def test_a_table_of_less_than_two_log_snrs_is_refused(logsnrs):
    with pytest.raises(ValueError, match="at least 2"):
        DiscreteSchedule(logsnrs)


@pytest.mark.parametrize(
    "logsnrs",
    [(1.0, 2.0, 3.0), (3.0, 1.0, 1.0), (3.0, 1.0, 1 - 1e-9), (3.0, 1.0, np.nan, 0.0)]
    + [(np.inf, 1.0), (1.0, -np.inf), (np.nan, 1.0), (5.0, 1.0, 2.0)],
)
def test_a_table_that_does_not_decrease_is_refused(logsnrs):
    with pytest.raises(ValueError, match=r"logsnrs\[\d\]="):
        DiscreteSchedule(logsnrs)


@pytest.mark.parametrize("num_timesteps", [-1, 0, 1])
@pytest.mark.parametrize("create", [linear_timesteps, cosine_timesteps])
def test_a_process_of_less_than_two_timesteps_is_refused(create, num_timesteps):
    with pytest.raises(ValueError, match=f"num_timesteps={num_timesteps}:"):
        create(num_timesteps)


def test_a_linear_process_whose_betas_reach_one_is_refused():
    with pytest.raises(ValueError, match="num_timesteps=20: .* at least 21"):
        linear_timesteps(20)


def test_equal_tables_share_one_compiled_program_and_others_do_not():
    traces = []

    def grid(schedule, u):
        traces.append(schedule)
        return schedule(u), schedule.grid(25)

    grid = jax.jit(grid, static_argnums=0)
    for schedule in (cosine_timesteps(), DiscreteSchedule(list(COSINE.logsnrs)), COSINE):
        assert hash(schedule) == hash(COSINE) and schedule == COSINE
        u_half, steps = grid(schedule, jnp.float32(0.5))
        np.testing.assert_array_equal(steps, COSINE.grid(25))
    assert len(traces) == 1 and u_half == np.float32(COSINE.logsnrs[500])
    grid(linear_timesteps(), jnp.float32(0.5))
    assert len(traces) == 2 and LINEAR != COSINE


def test_a_table_is_shown_by_its_size_and_ends():
    shown = repr(UNEVEN)
    assert shown == "DiscreteSchedule(num_timesteps=6, logsnr_min=-12.0, logsnr_max=9.5)"
    assert len(repr(LINEAR)) < 120


def test_the_loss_trains_on_the_tables_log_snrs():
    seen = []

    @jax.jit
    def losses(key):
        def predict(z, logsnr, labels):
            seen.append(logsnr.shape)
            return z

        x, labels = jnp.zeros((4096, 1)), jnp.zeros(4096, jnp.int32)
        options = {"schedule": UNEVEN, "p_uncond": 0.0, "null_label": 1}
        return cfg_jax.diffusion_loss(key, predict, x, labels, **options)[1]["logsnr"]

    values, counts = np.unique(losses(jax.random.key(0)), return_counts=True)
    np.testing.assert_array_equal(values, sorted(UNEVEN.logsnrs))
    assert seen == [(4096,)]
    # Five standard deviations of a binomial count.
    np.testing.assert_allclose(counts, 4096 / 6, atol=5 * np.sqrt(4096 * 5 / 36))


def test_sampling_on_fifty_of_a_thousand_linear_timesteps_gives_the_data():
    """Unit variance is where beta, v = 1, is exact; beta tilde, v = 0, falls short as DDPM says."""
    mean = np.repeat(np.float32([0.4, -0.7]), 2500)
    mixture = cfg_jax.GaussianMixture(mean[None], 1.0, [1.0])
    interp = np.repeat(np.float32([1, 0]), 4)

    @jax.jit
    def draw(key, logsnrs):
        def denoiser(z, logsnr):
            return mixture.predict(z, logsnr, jnp.zeros(8, jnp.int32))

        options = {"clip_x": False, "logvar_interp": interp}
        return cfg_jax.sample(key, denoiser, (8, 5000), logsnrs, **options)

    x = np.float64(draw(jax.random.key(3), cfg_jax.logsnr_grid(LINEAR, 50))) - mean
    for half in np.split(x, 2, axis=1):
        assert abs(half[:4].mean()) < 4.5 / np.sqrt(10_000)
        np.testing.assert_allclose(half[:4].std(), 1, rtol=4.5 / np.sqrt(20_000))
    abar = golden("linear_50")["alphas_cumprod"]
    variance = 1.0
    for now, before in zip(abar[:0:-1], abar[-2::-1], strict=True):
        beta = 1 - now / before
        weight_z = np.sqrt(1 - beta) * (1 - before) / (1 - now)
        weight_x = np.sqrt(before) * beta / (1 - now)
        # E[x | z] is mean + sqrt(abar) (z - sqrt(abar) mean) for data of unit variance.
        variance *= (weight_z + weight_x * np.sqrt(now)) ** 2
        variance += (1 - before) / (1 - now) * beta
    np.testing.assert_allclose(x[4:].std(), np.sqrt(variance), rtol=4.5 / np.sqrt(40_000))
    assert variance < 0.95
