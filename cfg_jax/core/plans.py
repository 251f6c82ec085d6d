"""A solver on a grid as a table of numbers, one row per denoiser call.

`plan` computes the rows of a solver in float64 on the host; `samplers.sample` scans them. Solver,
grid, eta and churn are data: changing them compiles nothing if the number of calls stays.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cfg_jax.core.arguments import choice, finite, grid_of, number, on_host, whole
from cfg_jax.core.solvers import (
    ANCHOR,
    NOISE,
    SHORTER,
    SOLVERS,
    X0,
    Level,
    Request,
    Row,
    Solver,
    Steps,
    level_at,
)
from cfg_jax.core.types import Array

MOST_FIRST_GAP = math.log(10)
"""Half log-SNR: Heun's error grows with exp(h) of its first gap (measured on a mixture)."""

MOST_LANGEVIN_GAP = math.log(5) / 2
"""Half log-SNR: a Langevin step multiplies z by about 1 - (exp(2h) - 1) / 2, unstable beyond."""


class Plan(NamedTuple):
    """A solver on a grid, one row per denoiser call; all fields are arrays, float64 from `plan`.

    logsnr: [C], log-SNR of the call.
    matrix: [C, 2, 7], see `solvers`; the last row returns x_0.
    step_logsnr: [C], log-SNR that decides the call's guidance weight: that of the grid point at
      which its step begins, or the call's own for "heun_flow".
    starts: [C] bool, whether the call is the first of its step.
    corrects: [C] bool, whether the call is a Langevin corrector's.

    Examples:
      >>> plan = cfg_jax.plan([-4.0, 0.0, 4.0], "heun")
      >>> print(plan.logsnr, plan.starts)  # two calls per step, and the last
      [-4.  0.  0.  4.  4.] [ True False  True False  True]
    """

    logsnr: Array | np.ndarray
    matrix: Array | np.ndarray
    step_logsnr: Array | np.ndarray
    starts: Array | np.ndarray
    corrects: Array | np.ndarray

    @property
    def num_calls(self) -> int:
        """C, the number of denoiser calls."""
        return self.logsnr.shape[0]


class Churn(NamedTuple):
    """Noise added before a step: Karras et al. 2022, algorithm 2.

    amount: S_churn; the step at sigma / alpha in [low, high] first adds noise up to
      (1 + min(amount / T, sqrt(2) - 1)) sigma / alpha, for T grid points.
    low, high: S_min and S_max, in units of sigma / alpha.
    noise: S_noise, factor on the noise.

    Examples:
      >>> logsnrs = np.linspace(-8, 8, 20)
      >>> plan = cfg_jax.plan(logsnrs, "ddim", churn=cfg_jax.Churn(amount=4.0, low=0.05, high=50.0))
      >>> bool((plan.matrix[:, :, -1] != 0).any())  # the last column multiplies noise
      True
    """

    amount: float
    low: float = 0.0
    high: float = math.inf
    noise: float = 1.0


def plan(
    logsnrs: Sequence[float] | np.ndarray,
    solver: str = "dpmpp_2m",
    *,
    eta: float = 0.0,
    max_ratio: float = 1.0,
    churn: Churn | None = None,
    num_calls: int | None = None,
    logvar_interp: float = 0.0,
    corrections: int = 1,
    taylor: bool = False,
    lower_final: bool | None = None,
    noise_scale: float = 1.0,
) -> Plan:
    """A solver on a grid of log-SNRs, as data for `sample`.

    Multistep solvers extrapolate x_hat along the gap h from the gap before it. They lose accuracy
    where gaps grow, as next to the ends of the cosine grid; `max_ratio` limits h / h_before there.

    Args:
      logsnrs: [T], strictly ascending, on the host.
      solver: a key of `SOLVERS`.
      eta: noise. In "ddim", the fraction of Song et al. 2021, equation 16, in [0, 1]. In "dpmpp_2m"
        and "dpmpp_3m", that of the stochastic differential equation: 0 for none, 1 for ancestral.
      max_ratio: largest ratio of a gap to the one before that "dpmpp_2m", "dpmpp_3m" and "deis_2"
        use, 1 or more; inf for all solvers as published, also on grids where they explode.
      churn: noise added before the steps of "heun" and "ddim".
      num_calls: number of calls; for solvers of 2 or 3 calls per gap the last gap may have fewer,
        and is then of lower order. None for all.
      logvar_interp: the paper's v of "ancestral", in [0, 1].
      corrections: Langevin calls per gap of "pcg".
      taylor: whether "dpmpp_2m" weighs x_hat by its integral over the gap in place of its middle.
      lower_final: whether the last gaps have lower order; None for the solver's own choice.
      noise_scale: n of "heun_flow", see `flow`.

    Raises ValueError if the grid, a name or a number is out of range, if an argument does not count
    for the solver, or if a gap is so long that "heun" or "pcg" explodes (not for max_ratio inf).

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[0.5]], variance=1e-4, weights=[1])
      >>> denoiser = lambda z, logsnr: mixture.predict(z, logsnr, jnp.zeros(4, jnp.int32))
      >>> plan = cfg_jax.plan(np.linspace(-9, 9, 12), "dpmpp_2m")
      >>> x = cfg_jax.sample(jax.random.key(0), denoiser, (4, 1), plan)
      >>> print(plan.num_calls, np.asarray(x.mean()).round(1))
      12 0.5
    """
    chosen = _checked_solver(solver)
    levels = [level_at(logsnr) for logsnr in _checked_grid(logsnrs)]
    given = {
        "eta": eta, "churn": churn, "logvar_interp": logvar_interp, "taylor": taylor,
        "lower_final": lower_final, "corrections": corrections, "noise_scale": noise_scale,
    }  # fmt: skip
    _check_arguments(solver, chosen, given, max_ratio)
    calls = calls_per_gap(solver, corrections)
    if max_ratio < math.inf:
        _check_gaps(solver, levels)
    request = Request(
        levels,
        eta,
        max_ratio,
        taylor,
        chosen.lower_final if lower_final is None else lower_final,
        logvar_interp,
        corrections,
        noise_scale,
    )
    last = _calls_of_last(solver, len(levels) - 1, calls, num_calls)
    final = chosen.rows if last == calls else SHORTER[last]
    rows, steps = _rows(request, chosen.rows, final, churn)
    if chosen.own_weight:
        steps = [row.level for row in rows]
    return Plan(
        np.array([2 * row.level.half for row in rows]),
        np.array([(row.z, row.anchor) for row in rows]),
        np.array([2 * step.half for step in steps]),
        np.array([row.starts for row in rows]),
        np.array([row.corrects for row in rows]),
    )


def _rows(
    request: Request, usual: Steps, final: Steps, churn: Churn | None
) -> tuple[list[Row], list[Level]]:
    """The rows of all calls, and the levels at which their steps begin."""
    levels = request.levels
    hats = [_churned(level, churn, len(levels)) for level in levels]
    rows: list[Row] = []
    steps: list[Level] = []
    for k in range(len(levels) - 1):
        at = request._replace(levels=[*levels[:k], hats[k], *levels[k + 1 :]])
        made = (usual if k < len(levels) - 2 else final)(at, k)
        made[-1] = _then_churned(made[-1], levels[k + 1], hats[k + 1], churn)
        rows += made
        steps += [levels[k]] * len(made)
    return [*rows, Row(hats[-1], X0, ANCHOR)], [*steps, levels[-1]]


def calls_per_gap(solver: str, corrections: int = 1) -> int:
    """Denoiser calls from one grid point to the next; ValueError for an unknown solver."""
    return 1 + corrections if solver == "pcg" else _checked_solver(solver).calls


def grid_points(
    solver: str, num_calls: int, corrections: int = 1, *, name: str = "num_calls"
) -> int:
    """T of a grid on which `solver` makes num_calls calls; ValueError, with `name`, for none."""
    calls = calls_per_gap(solver, corrections)
    least = 1 + calls
    num_calls = whole(name, num_calls)
    if num_calls < least:
        raise ValueError(f"{name}={num_calls}: solver={solver!r} needs at least {least}")
    if solver == "pcg" and (num_calls - 1) % calls:
        fewer = num_calls - (num_calls - 1) % calls
        raise ValueError(
            f"{name}={num_calls}: solver='pcg' makes {calls} calls per step and a last one, "
            f"such as {fewer} or {fewer + calls}"
        )
    return 1 - (1 - num_calls) // calls


def _calls_of_last(solver: str, gaps: int, calls: int, num_calls: int | None) -> int:
    """Calls of the last gap for a total of num_calls."""
    full = gaps * calls + 1
    if num_calls is None:
        return calls
    last = calls - (full - num_calls)
    shorter = last in SHORTER and last < calls and solver != "pcg"
    if last != calls and not shorter:
        raise ValueError(
            f"num_calls={num_calls}: solver={solver!r} on {gaps + 1} log-SNRs makes {full} calls; "
            "give a grid of `grid_points`"
        )
    return last


def _churned(level: Level, churn: Churn | None, num_levels: int) -> Level:
    """The level at which the step from `level` begins, after its noise."""
    if churn is None or not churn.low <= level.ve <= churn.high:
        return level
    gamma = min(churn.amount / num_levels, math.sqrt(2) - 1)
    return level_at(2 * (level.half - math.log1p(gamma)))


def _then_churned(row: Row, level: Level, hat: Level, churn: Churn | None) -> Row:
    """The row with the noise of the next step added to its result."""
    if churn is None or hat == level:
        return row
    std = hat.alpha * churn.noise * math.sqrt(hat.ve**2 - level.ve**2)
    z = hat.alpha / level.alpha * row.z
    # The noise of the row and that of the churn are independent, so variances add.
    return row._replace(z=np.where(NOISE > 0, np.hypot(z, std), z))


def _checked_solver(solver: str) -> Solver:
    return SOLVERS[choice("solver", solver, SOLVERS)]


def _checked_grid(logsnrs: Sequence[float] | np.ndarray) -> list[float]:
    allowed = "finite log-SNRs [T], as of `logsnr_grid`"
    grid = on_host("logsnrs", grid_of(logsnrs, allowed), allowed)
    if grid.ndim != 1 or grid.size < 2 or not np.all(np.diff(grid) > 0):
        raise ValueError(
            f"logsnrs of shape {grid.shape}: a plan needs at least 2, strictly ascending from "
            "noise to data"
        )
    return grid.tolist()


def _check_arguments(solver: str, chosen: Solver, given: dict, max_ratio: float) -> None:
    """Raises ValueError for an argument out of range, or of another solver."""
    usual = {
        "eta": 0.0, "churn": None, "logvar_interp": 0.0, "taylor": False, "lower_final": None,
        "corrections": 1, "noise_scale": 1.0,
    }  # fmt: skip
    for name, value in given.items():
        if value != usual[name] and name not in chosen.takes:
            users = ", ".join(each for each in SOLVERS if name in SOLVERS[each].takes)
            raise ValueError(
                f"{name}={value!r} with solver={solver!r}, which does not use it: choose one of "
                f"{users}"
            )
    most_eta = 1.0 if solver == "ddim" else math.inf
    for name, least, most in (("eta", 0.0, most_eta), ("logvar_interp", 0.0, 1.0)):
        number(name, given[name], f"a number from {least:g} to {most:g}", least, most)
    whole("corrections", given["corrections"], 1)
    number("noise_scale", given["noise_scale"], "a number from 0.01 to 100", 0.01, 100)
    if isinstance(max_ratio, bool) or not max_ratio >= 1:
        raise ValueError(f"max_ratio={max_ratio}: need a number of at least 1; inf for no limit")
    if churn := given["churn"]:
        numbers = finite("churn", churn._replace(high=min(churn.high, 1e30)))
        if numbers.min() < 0 or churn.low > churn.high:
            raise ValueError(f"churn={churn}: need numbers of at least 0, and low below high")


def _check_gaps(solver: str, levels: Sequence[Level]) -> None:
    """Raises ValueError for a grid on which "heun" or "pcg" explodes."""
    gaps = np.diff([level.half for level in levels])
    if solver == "pcg" and gaps.max() > MOST_LANGEVIN_GAP:
        raise ValueError(
            f"solver='pcg' on a grid with a gap of {2 * gaps.max():.1f} in log-SNR: its Langevin "
            f"steps are unstable above {2 * MOST_LANGEVIN_GAP:.1f}; use grid='uniform' or 'mixed' "
            "and more steps"
        )
    gap = gaps[0]
    if solver == "heun" and gap > MOST_FIRST_GAP:
        raise ValueError(
            f"solver='heun' on a grid whose first gap is {2 * gap:.1f} in log-SNR: its error grows "
            f"with exp(gap / 2), need at most {2 * MOST_FIRST_GAP:.1f}; use grid='karras' or "
            "'uniform', more steps, or solver='unipc_2'"
        )
