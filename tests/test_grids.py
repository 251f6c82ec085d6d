"""Grids of log-SNRs: those of other programs, and their ends."""

import numpy as np
import pytest

import cfg_jax
from cfg_jax.core import grids
from tests.solver_files import guided64, load, run


@pytest.mark.parametrize("rho, low, high", [(7, 0.002, 80.0), (3, 0.01, 30.0)])
def test_the_karras_grid_is_that_of_k_diffusion(rho, low, high):
    sigmas = load("kdiff_grids")[f"karras_{rho}"]
    sigmas = sigmas[sigmas > 0]
    low, high = sigmas[-1], sigmas[0]
    found = grids.karras_grid(len(sigmas), low, high, rho)
    np.testing.assert_allclose(found, -2 * np.log(sigmas), rtol=0, atol=1e-10)


def test_the_karras_grid_of_edm_is_the_one_of_its_sampler():
    np.testing.assert_allclose(grids.karras_grid(9), load("edm_heun")["logsnrs"], atol=1e-8)


@pytest.mark.parametrize(
    "schedule",
    [cfg_jax.cosine_schedule(), cfg_jax.cosine_schedule(-5, 4), cfg_jax.linear_timesteps()],
)
@pytest.mark.parametrize("name", grids.GRIDS)
def test_a_named_grid_ascends_inside_the_range_of_the_schedule(name, schedule):
    for count in (2, 3, 17):
        found = grids.grid(name, schedule, count)
        assert found.shape == (count,) and np.all(np.diff(found) > 0)
        assert found[0] >= schedule.logsnr_min - 1e-6
        assert found[-1] <= schedule.logsnr_max + 1e-6


def test_the_mixed_grid_has_the_errors_that_were_measured_for_it():
    # rms error of the final x_hat at 8, 16, 32 calls, w = 2, on another draw of the same mixture
    # (closed form in float64): DDIM .088 .042 .021, 2M .098 .017 .0036, UniPC-2 .075 .0042 .0003.
    golden = load("kdiff_euler_cosine")
    rng = np.random.default_rng(0)
    golden = golden | {"labels": np.arange(96) % 3}
    z_1 = rng.standard_normal((96, *golden["z_1"].shape[1:]))
    schedule = cfg_jax.cosine_schedule()

    def end(solver, calls):
        plan = cfg_jax.plan(grids.grid("mixed", schedule, calls), solver)
        return run(plan, lambda z, logsnr, call: guided64(golden, z, logsnr, 2.0), z_1)[1][-1]

    fine = end("unipc_2", 1000)
    errors = {
        solver: [np.sqrt(np.mean((end(solver, calls) - fine) ** 2)) for calls in (8, 16, 32)]
        for solver in ("ddim", "dpmpp_2m", "unipc_2")
    }
    measured = {
        "ddim": [0.088, 0.042, 0.021],
        "dpmpp_2m": [0.087, 0.015, 0.0030],
        "unipc_2": [0.075, 0.0042, 0.0003],
    }
    print(errors)
    for solver, expected in measured.items():
        ratio = np.array(errors[solver]) / expected
        assert np.all(ratio < 2.5) and np.all(ratio > 0.4), errors


@pytest.mark.parametrize("name", ["cosine", None, 3])
def test_an_unknown_grid_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match="choose one of schedule, uniform, mixed, karras"):
        grids.grid(name, cfg_jax.cosine_schedule(), 8)


@pytest.mark.parametrize("arguments", [(1.0, 0.5, 7), (0.0, 80.0, 7), (0.002, 80.0, 0)])
def test_a_karras_grid_needs_ascending_sigmas(arguments):
    with pytest.raises(ValueError, match="need 0 < sigma_min < sigma_max and rho > 0"):
        grids.karras_grid(8, *arguments)
