"""Guidance of a sampler: branches, their weights per call, and a rule that combines them.

    guided = guide(branches(predict, labels, null_label=K), weights(plan, w), rule=cfg())
    x = sample(key, guided, shape, plan)

`branches` evaluates all branches in one forward pass. `weights` is data [C, B] for the C calls of a
plan: schedules of w, and an interval of log-SNR outside of which only the first branch is
evaluated. `guidance.classifier_free_guidance` is the plain form, for one weight and no plan.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import finite
from cfg_jax.core.diffusion import expand
from cfg_jax.core.plans import Plan
from cfg_jax.core.rules import SPACES, Rule, cfg
from cfg_jax.core.types import (
    Array,
    ArrayLike,
    Guided,
    Key,
    Output,
    Predict,
    eps_of,
    with_eps,
)

PCS_POWER = 4
"""Exponent of the "pcs" schedule; 4 in Gao et al. 2023 (MDT)."""


class Branches(NamedTuple):
    """The branches of guidance.

    first: (z [B, ...], logsnr [B]) -> output of the first branch, in a forward pass of B.
    every: (z, logsnr, call) -> (output of the first branch, list of eps_hat of the others); call
      is the number of the call in the sampler.
    num_branches: J.
    """

    first: Callable[[Array, Array], Output]
    every: Callable[[Array, Array, Array], tuple[Output, list[Array]]]
    num_branches: int


def branches(
    predict: Predict,
    labels: Array,
    *,
    null_label: int | None = None,
    others: Sequence[Array] = (),
    weaker: Predict | None = None,
    pair: Callable[[Array, Array, Array], tuple[Output, Output]] | None = None,
    independent: tuple[Key, int] | None = None,
) -> Branches:
    """The branch of `labels` [B], and what it is guided away from; give exactly one of the others.

    Args:
      null_label: no label: classifier-free guidance, in one forward pass of 2B.
      others: labels [B] of further branches, such as a negative class or classes to combine; one
        forward pass of all.
      weaker: a weaker model with the same labels: autoguidance, Karras et al. 2024, arXiv
        2406.02507; two forward passes.
      pair: (z, logsnr, labels) -> outputs of the model and of a weaker one of the same form, for
        example a vmap over both parameter trees.
      independent: (key [] or [B], K): another random class in every call, for networks without a
        null label: Sadat et al. 2024, arXiv 2407.02687. It approximates classifier-free guidance
        at high noise only: use it with an interval.

    Raises ValueError unless exactly one is given.
    """
    given: dict[str, Any] = {"null_label": null_label, "others": tuple(others) or None}
    given |= {"weaker": weaker, "pair": pair, "independent": independent}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise ValueError(
            f"branches with {' and '.join(chosen) or 'none'} of {', '.join(given)}: give one"
        )

    def first(z: Array, logsnr: Array) -> Output:
        return predict(z, logsnr, labels)

    def together(z: Array, logsnr: Array, more: Sequence[Array]) -> tuple[Output, list[Array]]:
        count = 1 + len(more)
        every = jnp.concatenate([labels, *more])
        output = predict(
            jnp.tile(z, (count,) + (1,) * (z.ndim - 1)), jnp.tile(logsnr, count), every
        )
        parts = [jax.tree.map(lambda a, i=i: jnp.split(a, count)[i], output) for i in range(count)]
        return parts[0], [eps_of(part) for part in parts[1:]]

    def every(z: Array, logsnr: Array, call: Array) -> tuple[Output, list[Array]]:
        if pair is not None:
            strong, weak = pair(z, logsnr, labels)
            return strong, [eps_of(weak)]
        if weaker is not None:
            return first(z, logsnr), [eps_of(weaker(z, logsnr, labels))]
        if independent is not None:
            key, num_classes = independent
            keys = keys_lib.fold_in(keys_lib.per_example(key, len(z)), call)
            drawn = jnp.floor(keys_lib.uniform(keys) * num_classes).astype(labels.dtype)
            return together(z, logsnr, [drawn])
        if null_label is not None:
            return together(z, logsnr, [jnp.full_like(labels, null_label)])
        return together(z, logsnr, list(others))

    return Branches(first, every, 1 + max(len(tuple(others)), 1))


class Weights(NamedTuple):
    """Guidance weights of C calls, from `weights`.

    w: [C, B] or [C, 1] float32.
    guided: [C] bool, whether the other branches are evaluated.
    starts: [C] bool, whether the call begins a step; a rule's state only changes there.
    """

    w: Array | np.ndarray
    guided: Array | np.ndarray
    starts: Array | np.ndarray


class LinearWeights(NamedTuple):
    """Weights of J branches in C calls, from `linear_weights`: a [C, J, B] or [C, J, 1]."""

    a: Array | np.ndarray
    guided: Array | np.ndarray


SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": lambda u: np.ones_like(u),
    "linear": lambda u: 2 * (1 - u),
    "cosine": lambda u: 1 + np.cos(np.pi * u),
    "pcs": lambda u: (1 - np.cos(np.pi * (1 - u) ** PCS_POWER)) / 2,
}
"""Factor of w at u, from 1 (noise) to 0 (data). "linear" and "cosine" have mean 1 over u."""


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
      least: lower limit of the scheduled weight inside the interval.

    Raises ValueError if w is not finite or has another shape, if the schedule is unknown, or if the
    interval is empty.
    """
    logsnr, starts, corrects = _calls(plan)
    w = finite("w", w, "finite guidance weights").astype(np.float64)
    if w.ndim > 2 or (w.ndim == 2 and w.shape[0] != logsnr.size):
        raise ValueError(
            f"w has shape {w.shape}: give a scalar, [B], or [{logsnr.size}, 1] or "
            f"[{logsnr.size}, B] for one per call"
        )
    table = np.broadcast_to(w, (logsnr.size, w.shape[-1] if w.ndim else 1))
    if schedule == "cfgpp":
        table = _cfgpp(logsnr, table)
    elif schedule in SCHEDULES:
        u = 2 / np.pi * np.arctan(np.exp(-logsnr / 2))
        table = table * SCHEDULES[schedule](u)[:, None]
    else:
        names = ", ".join([*SCHEDULES, "cfgpp"])
        raise ValueError(f"schedule={schedule!r}: choose one of {names}")
    if least is not None:
        table = np.maximum(table, float(finite("least", least)))
    counts = _inside(logsnr, interval) & (corrects if corrects.any() else True)
    table = np.where(counts[:, None], table, 0.0).astype(np.float32)
    return Weights(table, np.any(table != 0, axis=1), starts)


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
    """
    logsnr, _, _ = _calls(plan)
    a = finite("a", a, "finite weights of branches").astype(np.float64)
    if a.ndim == 1:
        a = a[:, None]
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[0] != logsnr.size):
        raise ValueError(f"a has shape {a.shape}: give [J], [J, B] or [{logsnr.size}, J, B]")
    sums = a.sum(axis=-2)
    if not np.allclose(sums, 1, rtol=0, atol=1e-6):
        raise ValueError(f"weights of branches sum to {sums.flat[0]:g}: need 1")
    table = np.broadcast_to(a, (logsnr.size, *a.shape[-2:]))
    inside = _inside(logsnr, interval)
    only_first = np.zeros_like(table)
    only_first[:, 0] = 1
    table = np.where(inside[:, None, None], table, only_first)
    return LinearWeights(table.astype(np.float32), np.any(table != only_first, axis=(1, 2)))


def guide(every: Branches, weights: Weights | LinearWeights, rule: Rule | None = None) -> Guided:
    """A `Guided` for `sample`: branches combined by a rule (`cfg` for None) with weights per call.

    Where a call is not guided, only the first branch is evaluated, by a `lax.cond` on a row of
    data: nothing is compiled for another interval. A learned variance comes from the first branch.
    Raises ValueError if the number of branches and weights differ, or if a rule meets
    `LinearWeights`.
    """
    if isinstance(weights, LinearWeights):
        if rule is not None or weights.a.shape[1] != every.num_branches:
            raise ValueError(
                f"{weights.a.shape[1]} weights for {every.num_branches} branches"
                + (" with a rule" if rule is not None else "")
                + ": give one weight per branch, and no rule"
            )
        return _guided_linearly(every, weights)
    if every.num_branches != 2:
        raise ValueError(f"{every.num_branches} branches with one weight: give `linear_weights`")
    rule = rule or cfg()
    to_space, from_space = SPACES[rule.space]
    rows = {"call": jnp.arange(weights.w.shape[0]), **weights._asdict()}

    def denoise(z: Array, logsnr: Array, row: Any, state: Any) -> tuple[Output, Any]:
        def both() -> tuple[Output, Any]:
            output, (other,) = every.every(z, logsnr, row["call"])
            x_cond, x_other = (to_space(z, eps, logsnr) for eps in (eps_of(output), other))
            w = jnp.broadcast_to(row["w"], z.shape[:1])
            x, after = rule(x_cond, x_other, w, state)
            kept = jax.tree.map(lambda new, old: jnp.where(row["starts"], new, old), after, state)
            return with_eps(output, from_space(z, x, logsnr)), kept

        return jax.lax.cond(row["guided"], both, lambda: (every.first(z, logsnr), state))

    return Guided(denoise, rows, rule.init)


def _guided_linearly(every: Branches, weights: LinearWeights) -> Guided:
    rows = {"call": jnp.arange(weights.a.shape[0]), **weights._asdict()}

    def denoise(z: Array, logsnr: Array, row: Any, state: Any) -> tuple[Output, Any]:
        def all_branches() -> Output:
            output, others = every.every(z, logsnr, row["call"])
            found = [eps_of(output), *others]
            factors = [jnp.broadcast_to(a, z.shape[:1]) for a in row["a"]]
            eps = sum(expand(a, z) * eps for a, eps in zip(factors, found, strict=True))
            return with_eps(output, jnp.asarray(eps))

        return jax.lax.cond(row["guided"], all_branches, lambda: every.first(z, logsnr)), state

    return Guided(denoise, rows, lambda shape: ())


def _calls(plan: Plan | ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log-SNR of the step, whether it starts there, whether it corrects), [C] each."""
    if isinstance(plan, Plan):
        parts = plan.step_logsnr, plan.starts, plan.corrects
        logsnr, starts, corrects = (np.asarray(part) for part in parts)
        return logsnr.astype(np.float64), starts.astype(bool), corrects.astype(bool)
    logsnr = finite("logsnrs", plan, "finite log-SNRs [T]").astype(np.float64)
    return logsnr, np.ones(logsnr.shape, bool), np.zeros(logsnr.shape, bool)


def _inside(logsnr: np.ndarray, interval: Sequence[float] | None) -> np.ndarray:
    if interval is None:
        return np.ones(logsnr.shape, bool)
    try:
        lo, hi = map(float, interval)
    except (TypeError, ValueError):
        lo = hi = math.nan
    if not lo < hi:
        raise ValueError(f"interval={interval}: need (lo, hi) in log-SNR, lo below hi")
    return (lo <= logsnr) & (logsnr < hi)


def _cfgpp(logsnr: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """w_t = lambda / (1 - exp(-h)) - 1; the last call has an infinite gap."""
    h = np.append(np.diff(logsnr), np.inf) / 2
    return lam / -np.expm1(-h)[:, None] - 1
