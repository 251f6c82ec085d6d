"""Guidance weights of every call of a plan, as data.

Schedules of w, and an interval of log-SNR outside of which the weight is 0. A weight belongs to the
step of the solver, not to the log-SNR of a call.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cfg_jax.core.arguments import choice, finite, grid_of, on_host
from cfg_jax.core.plans import Plan
from cfg_jax.core.types import Array, ArrayLike

PCS_POWER = 4
"""Exponent of the "pcs" schedule; 4 in Gao et al. 2023 (MDT)."""


class Weights(NamedTuple):
    """Guidance weights of C calls, from `weights`.

    w: [C, B] or [C, 1] float32.
    guided: [C] bool, whether the other branches are evaluated.
    starts: [C] bool, whether the call begins a step; a rule's state only changes there.

    Examples:
      >>> cfg_jax.weights([-2.0, 0.0, 2.0], 1.0, interval=(-1.0, 1.0)).guided.tolist()
      [False, True, False]
    """

    w: Array | np.ndarray
    guided: Array | np.ndarray
    starts: Array | np.ndarray


class LinearWeights(NamedTuple):
    """Weights of J branches in C calls, from `linear_weights`: a [C, J, B] or [C, J, 1].

    Examples:
      >>> cfg_jax.linear_weights([-2.0, 2.0], [1.0, 2.0, -2.0]).a.shape
      (2, 3, 1)
    """

    a: Array | np.ndarray
    guided: Array | np.ndarray


SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": lambda u: np.ones_like(u),
    "linear": lambda u: 2 * (1 - u),
    "cosine": lambda u: 1 + np.cos(np.pi * u),
    "pcs": lambda u: (1 - np.cos(np.pi * (1 - u) ** PCS_POWER)) / 2,
}
"""Factor of w at u, from 1 (noise) to 0 (data). "linear" and "cosine" have mean 1 over u."""

SCHEDULE_NAMES = (*SCHEDULES, "cfgpp")
"""Schedules of `weights`; that of CFG++ depends on the gaps, not on u."""


def weights(
    plan: Plan | ArrayLike,
    w: ArrayLike,
    *,
    schedule: str = "constant",
    interval: Sequence[float] | None = None,
    least: float | None = None,
) -> Weights:
    """The guidance weight of every call of a plan, on the host.

    A call has the weight of the step that it belongs to. The schedules are those of Wang et al.
    2024, arXiv 2404.13040, at u = 2 / pi arctan(exp(-logsnr / 2)). "cfgpp" is CFG++ (Chung et al.
    2024, arXiv 2406.08070) with lambda = w, for DDIM: 1 + w_t = lambda / (1 - exp(-h)), h half the
    gap in log-SNR. A plan with correctors ("pcg") is guided in these calls only.

    Args:
      plan: a `Plan`, or log-SNRs [T] for a step rule.
      w: scalar, [B], or [C, B] or [C, 1] per call.
      schedule: a key of `SCHEDULES`, or "cfgpp".
      interval: (lo, hi): w counts for lo <= logsnr < hi; elsewhere the weight is 0, and only the
        first branch is evaluated. Kynkaanniemi et al. 2024, arXiv 2404.07724.
      least: lower limit of the scheduled weight inside the interval, where w is above 0.

    Raises ValueError if w is not finite or has another shape, if the schedule is unknown, or if the
    interval is empty.

    Examples:
      >>> rising = cfg_jax.weights([-2.0, 0.0, 2.0], 1.0, schedule="linear")
      >>> print(np.asarray(rising.w[:, 0]).round(3))
      [0.449 1.    1.551]
      >>> late = cfg_jax.weights([-2.0, 0.0, 2.0], 3.0, interval=(-1.0, 3.0))
      >>> print(late.w[:, 0], late.guided)
      [0. 3. 3.] [False  True  True]
    """
    logsnr, starts, corrects = _calls(plan)
    w = on_host("w", w, "finite guidance weights")
    if w.ndim > 2 or (w.ndim == 2 and w.shape[0] != logsnr.size):
        raise ValueError(
            f"w has shape {w.shape}: give a scalar, [B], or [{logsnr.size}, 1] or "
            f"[{logsnr.size}, B] for one per call"
        )
    table = np.broadcast_to(w, (logsnr.size, w.shape[-1] if w.ndim else 1))
    if choice("schedule", schedule, SCHEDULE_NAMES) == "cfgpp":
        if corrects.any() or not starts.all():
            raise ValueError("schedule='cfgpp' with a solver of several calls per step: use 'ddim'")
        table = _cfgpp(logsnr, table)
    else:
        u = 2 / np.pi * np.arctan(np.exp(-logsnr / 2))
        table = table * SCHEDULES[schedule](u)[:, None]
    if least is not None:
        # w = 0 and w = -1 stay models without guidance.
        table = np.where(w > 0, np.maximum(table, float(finite("least", least))), table)
    counts = _inside(logsnr, interval) & (corrects if corrects.any() else True)
    table = np.where(counts[:, None], table, 0.0).astype(np.float32)
    return Weights(table, np.any(table != 0, axis=1), starts)


def schedule_of(text: str) -> tuple[str, float | None]:
    """(schedule, least) of a text such as "linear" or "linear:least=0.5".

    Raises ValueError for an unknown schedule, or anything but a number after "least=".
    """
    name, colon, given = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not colon:
        return choice("schedule", text, SCHEDULE_NAMES), None
    key, _, value = given.partition("=")
    try:
        least = float(value)
    except ValueError:
        least = math.nan
    if key == "least" and name in SCHEDULES and math.isfinite(least):
        return name, least
    raise ValueError(
        f"schedule={text!r}: need one of {', '.join(SCHEDULES)} before :least=NUMBER, as in "
        "linear:least=0.5"
    )


def linear_weights(
    plan: Plan | ArrayLike, a: ArrayLike, *, interval: Sequence[float] | None = None
) -> LinearWeights:
    """Weights of J branches: eps_hat = sum_j a_j eps_j, for the density prod_j p_j^a_j.

    `branches(..., others=...)` gives the branches. Composition (Liu et al. 2022, arXiv 2206.01714,
    equation 11) of classes i has 1 - sum_i w_i for no label and w_i for class i; a negative w_i is
    NOT. Outside of the interval only the first branch is evaluated.

    Args:
      plan: a `Plan`, or log-SNRs [T] for a step rule.
      a: [J], [J, B] or [C, J, B]; the sum over J must be 1, or the noise end would be wrong.

    Raises ValueError if a is not finite, has another shape or another sum.

    Examples:
      >>> composed = cfg_jax.linear_weights([-2.0, 2.0], [1.0, 2.0, -2.0])
      >>> print(composed.a[:, :, 0])  # towards the second branch, away from the third
      [[ 1.  2. -2.]
       [ 1.  2. -2.]]
    """
    logsnr, _, corrects = _calls(plan)
    a = on_host("a", a, "finite weights of branches")
    if a.ndim == 1:
        a = a[:, None]
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[0] != logsnr.size):
        raise ValueError(f"a has shape {a.shape}: give [J], [J, B] or [{logsnr.size}, J, B]")
    sums = a.sum(axis=-2)
    if not np.allclose(sums, 1, rtol=0, atol=1e-6):
        raise ValueError(f"weights of branches sum to {sums.flat[0]:g}: need 1")
    table = np.broadcast_to(a, (logsnr.size, *a.shape[-2:]))
    inside = _inside(logsnr, interval) & (corrects if corrects.any() else True)
    only_first = np.zeros_like(table)
    only_first[:, 0] = 1
    table = np.where(inside[:, None, None], table, only_first)
    return LinearWeights(table.astype(np.float32), np.any(table != only_first, axis=(1, 2)))


def _calls(plan: Plan | ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log-SNR of the step, whether it starts there, whether it corrects), [C] each."""
    if isinstance(plan, Plan):
        parts = plan.step_logsnr, plan.starts, plan.corrects
        logsnr, starts, corrects = (np.asarray(part) for part in parts)
        corrects = corrects.astype(bool)
        starts = corrects if corrects.any() else starts.astype(bool)  # only these are guided
        return logsnr.astype(np.float64), starts, corrects
    allowed = "a Plan, or finite log-SNRs [T], as of `logsnr_grid`"
    logsnr = on_host("logsnrs", grid_of(plan, allowed), allowed)
    if logsnr.ndim != 1:
        raise ValueError(f"plan of shape {logsnr.shape}: need {allowed}")
    return logsnr, np.ones(logsnr.shape, bool), np.zeros(logsnr.shape, bool)


def _inside(logsnr: np.ndarray, interval: Sequence[float] | None) -> np.ndarray:
    if interval is None:
        return np.ones(logsnr.shape, bool)
    try:
        lo, hi = map(float, interval)
    except (TypeError, ValueError):
        lo = hi = math.nan
    if not lo < hi:
        raise ValueError(
            f"interval={interval}: need (lo, hi) in log-SNR, lo below hi, such as (-3, 6)"
        )
    return (lo <= logsnr) & (logsnr < hi)


def _cfgpp(logsnr: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """w_t = lambda / (1 - exp(-h)) - 1; the last call has an infinite gap."""
    h = np.append(np.diff(logsnr), np.inf) / 2
    return lam / -np.expm1(-h)[:, None] - 1
