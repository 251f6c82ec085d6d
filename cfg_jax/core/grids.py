"""Grids of log-SNRs by name, for solvers that need other gaps than the schedule's own grid.

    grid("karras", schedule, 18)

Every grid ascends from noise to data and stays inside the range of the schedule that the network
was trained with. The schedule's own grid ("schedule") is uniform in u for the continuous schedule,
the paper's; its first and last gaps are very long, so that solvers of high order gain less there.
"""

import math
from collections.abc import Callable

import numpy as np

from cfg_jax.core.arguments import choice, whole
from cfg_jax.core.schedules import Schedule, cosine_schedule

ENDS = 9.0
"""Log-SNR +-9 of the uniform and the mixed grid: sigma / alpha from 90 to 0.011."""


def uniform_grid(num_points: int, logsnr_min: float, logsnr_max: float) -> np.ndarray:
    """Evenly spaced log-SNRs [T], float64: "logSNR" of DPM-Solver, Lu et al. 2022."""
    return np.linspace(logsnr_min, logsnr_max, whole("num_points", num_points, 2))


def mixed_grid(num_points: int, logsnr_min: float, logsnr_max: float) -> np.ndarray:
    """The mean of the uniform grid and the cosine schedule's between the same ends: [T]."""
    cosine = cosine_schedule(logsnr_min, logsnr_max).grid(num_points)
    return (uniform_grid(num_points, logsnr_min, logsnr_max) + cosine) / 2


def karras_grid(
    num_points: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """sigma / alpha of Karras et al. 2022, arXiv 2206.00364, equation 5, as log-SNRs [T], float64.

    sigma_i = (sigma_max^(1/rho) + i / (T-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho. Their
    sampler appends sigma = 0, which is the last denoiser call of ours. Raises ValueError unless
    0 < sigma_min < sigma_max and rho > 0.

    Examples:
      >>> sigmas = np.exp(-karras_grid(3) / 2)
      >>> print(np.asarray(sigmas).round(3))
      [8.000e+01 2.515e+00 2.000e-03]
    """
    if not 0 < sigma_min < sigma_max < math.inf or not 0 < rho < math.inf:
        raise ValueError(
            f"sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}: need 0 < sigma_min < "
            "sigma_max and rho > 0"
        )
    roots = np.linspace(
        sigma_max ** (1 / rho), sigma_min ** (1 / rho), whole("num_points", num_points, 2)
    )
    return -2 * rho * np.log(roots)


def _karras(schedule: Schedule, num_points: int) -> np.ndarray:
    low, high = (max(schedule.logsnr_min, -2 * math.log(80)), -2 * math.log(0.002))
    sigmas = (math.exp(-logsnr / 2) for logsnr in (min(schedule.logsnr_max, high), low))
    return karras_grid(num_points, *sigmas)


def _ends(schedule: Schedule) -> tuple[float, float]:
    return max(schedule.logsnr_min, -ENDS), min(schedule.logsnr_max, ENDS)


GRIDS: dict[str, Callable[[Schedule, int], np.ndarray]] = {
    "schedule": lambda schedule, num_points: schedule.grid(num_points),
    "uniform": lambda schedule, num_points: uniform_grid(num_points, *_ends(schedule)),
    "mixed": lambda schedule, num_points: mixed_grid(num_points, *_ends(schedule)),
    "karras": _karras,
}
"""Functions (schedule, T) -> log-SNRs [T] by name."""


def grid(name: str, schedule: Schedule, num_points: int) -> np.ndarray:
    """The log-SNRs [T] of a named grid inside the range of a schedule, on the host.

    Raises ValueError if the name is unknown, or if num_points is not an integer of at least 2.

    Examples:
      >>> print(grid("uniform", cfg_jax.cosine_schedule(), 4))
      [-9. -3.  3.  9.]
    """
    return GRIDS[choice("grid", name, GRIDS)](schedule, whole("num_points", num_points, 2))
