"""Solvers as tables: golden runs of other programs, orders of convergence, one compiled program."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.core import samplers
from cfg_jax.core.plans import calls_per_gap, grid_points
from cfg_jax.core.solvers import SOLVERS
from tests.solver_files import (
    INF,
    cases,
    guided64,
    load,
    noise_of,
    plan_of,
    run,
)

CASES = {case.file: case for case in cases()}
UNIFORM = np.linspace(-8, 8, 12)


def test_every_golden_run_has_a_case():
    assert len(CASES) >= 60


def states_of(golden):
    """(z at the starts of steps or None, z at every call or None, result) of a golden run."""
    starts = golden.get("z")
    result = golden.get("x_final")
    if "z_final" in golden:  # programs that end in z
        starts = None
    return starts, golden.get("call_z"), result


@pytest.mark.parametrize("name", CASES)
def test_a_table_gives_the_states_of_the_original_program_in_float64(name):
    case, golden = CASES[name], load(name)
    plan = plan_of(case)
    states, estimates = run(
        plan,
        lambda z, logsnr, call: guided64(golden, z, logsnr, golden["w"]),
        golden["z_1"],
        noise_of(case, plan),
        case.clip,
    )
    starts, every, result = states_of(golden)
    if starts is not None:
        own = states[plan.starts]
        np.testing.assert_allclose(own[: len(starts)], starts[: len(own)], rtol=0, atol=1e-10)
        if len(starts) == len(own) + 1:
            np.testing.assert_allclose(estimates[-1], starts[-1], rtol=0, atol=1e-10)
    if every is not None:
        np.testing.assert_allclose(states, every, rtol=0, atol=1e-10)
    if result is not None:
        np.testing.assert_allclose(estimates[-1], result, rtol=0, atol=1e-10)
    if "z_final" in golden:
        np.testing.assert_allclose(states[-1], golden["z_final"], rtol=0, atol=1e-10)


class GoldenNoise:
    """cfg_jax.core.keys with the noise of a golden run in place of drawn noise."""

    def __init__(self, noise):
        self.noise = noise

    def per_example(self, key, size):
        return key

    def fold_in(self, keys, call):
        return call

    def normal(self, call, shape):
        return self.noise[call - 1]


@pytest.fixture(scope="module")
def compiled():
    """One jitted sampler of all golden runs; everything that differs is data."""

    def draw(plan, mixture, labels, w, z_init, noise, low, high):
        means, variance, weights = mixture
        oracle = cfg_jax.GaussianMixture.__new__(cfg_jax.GaussianMixture)
        oracle.num_classes = oracle.null_label = 3
        oracle.means, oracle.variance = means, jnp.broadcast_to(variance, (3,))
        oracle.log_weights, oracle._size = jnp.log(weights), math.prod(means.shape[1:])
        denoiser = cfg_jax.classifier_free_guidance(oracle.predict, labels, w, null_label=3)
        original, samplers.keys_lib = samplers.keys_lib, GoldenNoise(noise)
        try:
            return cfg_jax.sample(
                jax.random.key(0),
                denoiser,
                z_init.shape,
                plan,
                clip_x=lambda x: jnp.clip(x, low, high),
                z_init=z_init,
                record=lambda call: call.x_hat,
            )
        finally:
            samplers.keys_lib = original

    return jax.jit(draw)


@pytest.mark.parametrize("name", CASES)
def test_the_compiled_sampler_gives_the_result_of_the_original_program(name, compiled):
    case, golden = CASES[name], load(name)
    plan = plan_of(case)
    mixture = golden["means"], golden["variance"], golden["weights"] / golden["weights"].sum()
    f32 = [np.asarray(a, np.float32) for a in (golden["w"], golden["z_1"], noise_of(case, plan))]
    bound = (-1.0, 1.0) if case.clip else (-INF, INF)
    x, x_hats = compiled(plan, mixture, golden["labels"], *f32, *bound)
    np.testing.assert_array_equal(x, x_hats[-1])
    starts, _, result = states_of(golden)
    if result is not None:
        np.testing.assert_allclose(x, result, rtol=2e-5, atol=2e-5)
    elif starts is not None and len(starts) == plan.starts.sum() + 1:
        np.testing.assert_allclose(x, starts[-1], rtol=2e-5, atol=2e-5)
    else:  # the original ends in z: x_hat of our last call belongs to it
        end = golden["z_final"] if "z_final" in golden else starts[-1]
        expected = guided64(golden, end, plan.logsnr[-1], golden["w"])
        np.testing.assert_allclose(x, expected, rtol=2e-5, atol=2e-5)


def test_the_golden_runs_need_one_program_per_number_of_calls(compiled):
    calls = {plan_of(case).num_calls for case in CASES.values()}
    assert compiled._cache_size() <= len(calls)


# An order p of convergence: the error of z at the end falls as gaps^-p.
ORDERS = {
    ("ddim", ()): 1.0,
    ("dpmpp_2m", ()): 2.0,
    ("dpmpp_2m", (("taylor", True),)): 2.0,
    ("dpmpp_3m", ()): 3.0,
    ("unipc_1", (("lower_final", False),)): 2.0,
    ("unipc_2", (("lower_final", False),)): 3.0,
    ("unipc_3", (("lower_final", False),)): 4.0,
    ("deis_2", ()): 2.0,
    ("heun", ()): 2.0,
    ("heun_flow", ()): 2.0,
    ("heun_flow", (("noise_scale", 2.0),)): 2.0,
    ("dpmpp_2s", ()): 2.0,
    ("dpmpp_3s", ()): 3.0,
}


def end(solver, gaps, w, **options):
    """z at the end of a uniform grid, in float64."""
    golden = load("kdiff_euler_cosine")
    plan = cfg_jax.plan(np.linspace(-6, 4, gaps + 1), solver, **options)
    x_hat = lambda z, logsnr, call: guided64(golden, z, logsnr, w)  # noqa: E731
    return run(plan, x_hat, golden["z_1"])[0][-1]


@functools.cache
def exact(w):
    return end("unipc_3", 1024, w, lower_final=False)


@pytest.mark.parametrize("w", [0.0, 2.0])
@pytest.mark.parametrize("solver, options", ORDERS)
def test_the_error_falls_with_the_order_of_the_solver(solver, options, w):
    gaps = np.array([32, 64, 128])
    errors = [np.sqrt(np.mean((end(solver, n, w, **dict(options)) - exact(w)) ** 2)) for n in gaps]
    slope = -np.polyfit(np.log(gaps), np.log(errors), 1)[0]
    assert slope == pytest.approx(ORDERS[solver, options], abs=0.3)


def test_on_the_default_grid_capped_2m_and_unipc_beat_ddim_and_published_2m_does_not():
    golden = load("kdiff_euler_cosine")
    schedule = cfg_jax.cosine_schedule()
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 3
    golden = golden | {"labels": labels}
    z_1 = rng.standard_normal((64, *golden["z_1"].shape[1:]))

    def end(name, calls, **chosen):
        plan = cfg_jax.plan(schedule.grid(calls), name, **chosen)
        return run(plan, lambda z, logsnr, call: guided64(golden, z, logsnr, 2.0), z_1)[1][-1]

    fine = end("unipc_2", 1500)
    for calls in (8, 16, 32):
        ddim, capped, unipc, published = (
            np.sqrt(np.mean((end(name, calls, **chosen) - fine) ** 2))
            for name, chosen in (
                ("ddim", {}),
                ("dpmpp_2m", {}),
                ("unipc_2", {}),
                ("dpmpp_2m", {"max_ratio": INF}),
            )
        )
        assert max(capped, unipc) < ddim < published


def mixture():
    rng = np.random.default_rng(1)
    means = rng.standard_normal((3, 2, 2, 1))
    return cfg_jax.GaussianMixture(means, [0.1, 0.2, 0.3], [0.2, 0.3, 0.5])


def test_solvers_of_equal_calls_share_one_program():
    oracle, labels = mixture(), np.array([0, 1, 2, 1])
    full = np.linspace(-8, 8, 13)
    half = np.linspace(-8, 8, 7)

    @jax.jit
    def draw(seed, plan, w):
        every = cfg_jax.branches(oracle.predict, labels, null_label=3)
        guided = cfg_jax.guide(every, w)
        return cfg_jax.sample(jax.random.key(seed), guided, (4, 2, 2, 1), plan, clip_x=False)

    made = [
        cfg_jax.plan(full, "ddim"),
        cfg_jax.plan(full, "ddim", eta=0.5),
        cfg_jax.plan(full, "ddim", churn=cfg_jax.Churn(3.0)),
        cfg_jax.plan(full, "ancestral"),
        cfg_jax.plan(full, "dpmpp_2m"),
        cfg_jax.plan(full, "dpmpp_2m", eta=1.0),
        cfg_jax.plan(full, "dpmpp_3m"),
        cfg_jax.plan(full, "unipc_2"),
        cfg_jax.plan(full, "unipc_3"),
        cfg_jax.plan(full, "deis_2"),
        cfg_jax.plan(half, "heun"),
        cfg_jax.plan(half, "dpmpp_2s"),
        cfg_jax.plan(np.linspace(-8, 8, 5), "dpmpp_3s"),
        cfg_jax.plan(half, "pcg", max_ratio=INF),
        cfg_jax.plan(cfg_jax.cosine_schedule(-9, 9).grid(13), "dpmpp_2m", max_ratio=INF),
    ]
    for seed, plan in enumerate(made):
        for schedule in ("constant", "linear"):
            for interval in (None, (-2.0, 3.0)):
                w = cfg_jax.weights(plan, [0.5, 1, 2, 3], schedule=schedule, interval=interval)
                assert np.isfinite(draw(seed, plan, w)).all()
    assert draw._cache_size() == 1


@pytest.mark.parametrize("solver, step", [("ddim", cfg_jax.ddim_step), ("ancestral", None)])
def test_a_table_draws_what_the_step_rule_draws(solver, step):
    oracle, labels = mixture(), np.array([0, 1, 2, 1])
    grid = cfg_jax.cosine_schedule().grid(16)
    denoiser = cfg_jax.classifier_free_guidance(oracle.predict, labels, 1.5, null_label=3)
    options = {"logvar_interp": 0.3} if step is None else {}
    ours = cfg_jax.plan(grid, solver, **options)
    x = cfg_jax.sample(jax.random.key(0), denoiser, (4, 2, 2, 1), ours)
    step = step or cfg_jax.ancestral_step
    expected = cfg_jax.sample(
        jax.random.key(0), denoiser, (4, 2, 2, 1), jnp.asarray(grid), step=step, **options
    )
    np.testing.assert_allclose(x, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_grid_for_a_number_of_calls_gives_a_plan_of_that_many(solver):
    for num_calls in (3, 4, 5, 8, 32) if solver != "pcg" else (3, 5, 33):
        if num_calls < 1 + calls_per_gap(solver):
            continue
        grid = np.linspace(-6, 6, grid_points(solver, num_calls))
        plan = cfg_jax.plan(grid, solver, num_calls=num_calls, max_ratio=INF)
        assert plan.num_calls == num_calls
        assert plan.logsnr[0] == pytest.approx(-6) and plan.logsnr[-1] == pytest.approx(6)
        np.testing.assert_array_equal(plan.matrix[-1, 0], [0, 0, 1, 0, 0, 0, 0])


def test_the_noise_of_ddim_and_of_churn_are_independent():
    # Denoising N(0, 1) exactly, every sampler draws the variance 1 in the limit of many steps.
    def variance(points):
        churn = cfg_jax.Churn(20.0)
        plan = cfg_jax.plan(np.linspace(-12, 12, points), "ddim", eta=1.0, churn=churn)
        found = 1.0
        for logsnr, matrix in zip(plan.logsnr, plan.matrix, strict=True):
            alpha, sigma = 1 / np.sqrt(1 + np.exp(-logsnr)), 1 / np.sqrt(1 + np.exp(logsnr))
            factor = alpha / (alpha**2 + sigma**2)  # x_hat = alpha z / (alpha^2 + sigma^2)
            found = (matrix[0, 0] + matrix[0, 2] * factor) ** 2 * found + matrix[0, 6] ** 2
        return found

    assert 2 * variance(2001) - variance(1001) == pytest.approx(1, abs=0.01)


def test_a_step_begins_at_its_grid_point_whatever_is_churned():
    plan = cfg_jax.plan(UNIFORM, "heun", churn=cfg_jax.Churn(4.0), max_ratio=INF)
    np.testing.assert_allclose(plan.step_logsnr, [*np.repeat(UNIFORM[:-1], 2), 8])
    assert np.all(plan.logsnr[::2] < UNIFORM)


def test_predictor_corrector_guidance_is_refused_for_an_even_number_of_calls():
    assert grid_points("pcg", 257) == 129
    with pytest.raises(ValueError, match="such as 255 or 257"):
        grid_points("pcg", 256)


def test_sample_i_depends_on_its_own_key_with_a_plan():
    oracle, labels = mixture(), np.array([0, 1, 2, 1])
    plan = cfg_jax.plan(np.linspace(-8, 8, 7), "dpmpp_2m", eta=1.0)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(4))

    def draw(rows):
        w = cfg_jax.weights(plan, 1.0)
        guided = cfg_jax.guide(cfg_jax.branches(oracle.predict, labels[rows], null_label=3), w)
        shape = (len(labels[rows]), 2, 2, 1)
        return cfg_jax.sample(keys[rows], guided, shape, plan, clip_x=False)

    np.testing.assert_array_equal(draw(slice(1, 3)), draw(slice(None))[1:3])


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"solver": "dpm"}, "solver='dpm': choose one of ancestral, ddim, dpmpp_2m"),
        ({"solver": None}, "solver=None: choose one of"),
        ({"solver": "unipc_2", "eta": 0.5}, "eta=0.5 with solver='unipc_2', which does not use"),
        ({"solver": "ddim", "eta": 1.5}, "eta=1.5: need a number from 0 to 1"),
        ({"eta": math.nan}, "eta=nan: need"),
        ({"max_ratio": 0.5}, "max_ratio=0.5: need a number of at least 1"),
        ({"max_ratio": math.nan}, "max_ratio=nan: need"),
        ({"churn": cfg_jax.Churn(3.0)}, "with solver='dpmpp_2m', which does not use it"),
        ({"solver": "heun", "churn": cfg_jax.Churn(-1.0)}, "need numbers of at least 0"),
        ({"solver": "pcg", "corrections": 0}, "corrections=0: need an integer of at least 1"),
        ({"num_calls": 9}, "num_calls=9: solver='dpmpp_2m' on 12 log-SNRs makes 12 calls"),
        ({"logsnrs": [1.0, 0.0]}, "strictly ascending"),
        ({"logsnrs": [1.0]}, "at least 2"),
        ({"logsnrs": [0.0, math.inf]}, "logsnrs="),
        ({"solver": "pcg", "logsnrs": [-8, 8]}, "a gap of 16.0 in log-SNR: its Langevin"),
        (
            {"solver": "heun", "logsnrs": cfg_jax.cosine_schedule().grid(16)},
            "use grid='karras' or 'uniform'",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(arguments, said):
    with pytest.raises(ValueError) as error:
        cfg_jax.plan(**({"logsnrs": UNIFORM} | arguments))
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"step": cfg_jax.ddim_step}, "step with a plan"),
        ({"logvar_interp": 0.3}, "logvar_interp with a plan"),
        ({"z_init": np.zeros((4, 2, 2, 2))}, r"z_init of shape \(4, 2, 2, 2\): need"),
    ],
)
def test_what_a_plan_does_not_use_is_refused(options, said):
    denoiser = cfg_jax.classifier_free_guidance(
        mixture().predict, np.zeros(4, np.int32), 1.0, null_label=3
    )
    with pytest.raises(ValueError, match=said):
        plan = cfg_jax.plan(UNIFORM)
        cfg_jax.sample(jax.random.key(0), denoiser, (4, 2, 2, 1), plan, **options)
