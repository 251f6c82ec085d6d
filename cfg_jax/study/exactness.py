"""Which density does guidance draw?

Guidance is named after p_w(x) ~ p(x | c)^(1 + w) p(x)^-w, and uses its score at every noise level.
But diffusing p_w does not give densities with these scores, so no sampler with a constant w draws
p_w. For p(x | c) = N(0, 1) and p(x) = N(0, 2), all variances have closed forms in the limit of many
steps:

    p_w  2 / (2 + w)        DDIM  2^-w        ancestral  (2 - 2^-2w) / (2w + 1)

K guided Langevin steps after each step of DDIM with w = 0 draw p_w for large K; K = 1 with weight
2w is ancestral sampling with w. Source: Bradley & Nakkiran 2024, arXiv 2408.09000.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.core import grids
from cfg_jax.core.guiding import branches, guide
from cfg_jax.core.oracles import GaussianMixture
from cfg_jax.core.plans import Plan, plan
from cfg_jax.core.samplers import sample
from cfg_jax.core.solvers import level_at
from cfg_jax.core.telemetry import measure, summarise
from cfg_jax.core.weighting import weights
from cfg_jax.io.images import Picture, rendered

WAYS: dict[str, Callable[[float], float]] = {
    "ddim": lambda w: 2**-w,
    "ancestral": lambda w: (2 - 2 ** (-2 * w)) / (2 * w + 1),
    "target": lambda w: 2 / (2 + w),
}
"""Closed forms of the variance."""

REACH = 18.0
"""The grids go from log-SNR -REACH to REACH."""


class Row(NamedTuple):
    """A sampler's variance: of the closed form, None if there is none, and measured."""

    name: str
    w: float
    closed: float | None
    measured: float


def variance(made: Plan, w: float) -> float:
    """Variance of x for p(x | c) = N(0, 1), p(x) = N(0, 2), by exact recursion in float64.

    Every call of a plan without memory multiplies z by a number and adds independent noise.
    """
    found = 1.0
    every = weights(made, w).w[:, 0].astype(np.float64)
    for logsnr, matrix, w_k in zip(made.logsnr, made.matrix, every, strict=True):
        _, alpha, sigma = level_at(logsnr)
        first, other = (sigma / (alpha**2 * each + sigma**2) for each in (1.0, 2.0))
        factor = (1 - sigma * ((1 + w_k) * first - w_k * other)) / alpha
        found = (matrix[0, 0] + matrix[0, 2] * factor) ** 2 * found + matrix[0, 6] ** 2
    return float(found)


def limit(solver: str, w: float, points: int = 1001, **options) -> float:
    """`variance` of infinitely many steps: its error is of order 1, so two grids extrapolate it."""
    coarse, fine = (
        variance(plan(grids.uniform_grid(count, -REACH, REACH), solver, **options), w)
        for count in (points, 2 * points - 1)
    )
    return 2 * fine - coarse


def rows(every: Sequence[float], corrections: Sequence[int] = (1, 4, 16)) -> list[Row]:
    """Closed and measured variances at every w."""
    found = []
    for w in every:
        for name in ("ddim", "ancestral"):
            found.append(Row(name, w, WAYS[name](w), limit(name, w)))
        found.append(Row("pcg, K = 1, weight 2w", w, WAYS["ancestral"](w), limit("pcg", 2 * w)))
        for count in corrections:
            measured = limit("pcg", w, corrections=count)
            found.append(Row(f"pcg, K = {count}", w, None, measured))
        found.append(Row("target", w, WAYS["target"](w), WAYS["target"](w)))
    return found


def table(found: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| w | sampler | closed form | measured |", "| --- | --- | --- | --- |"]
    for row in found:
        closed = "" if row.closed is None else f"{row.closed:.4f}"
        measured = "" if row.name == "target" else f"{row.measured:.4f}"
        lines.append(f"| {row.w:g} | {row.name} | {closed} | {measured} |")
    return "\n".join(lines)


def draw_mixture(
    solver: str, w: float, *, count: int, seed: int, num_points: int = 400, **options
) -> tuple[np.ndarray, np.ndarray]:
    """(x [count], log of the Feynman-Kac weights [count]) of class 0 of `two_classes`."""
    mixture = two_classes()
    made = plan(grids.uniform_grid(num_points, -9.0, 9.0), solver, **options)
    per_call = weights(made, w)
    every = branches(mixture.predict, jnp.zeros(count, jnp.int32), null_label=2)
    guided = guide(every, per_call, watch=True)

    @jax.jit
    def draw(key):
        return sample(key, guided, (count, 1), made, clip_x=False, record=measure)

    x, measured = draw(jax.random.key(seed))
    return np.asarray(x)[:, 0], summarise(made, per_call.w, measured).log_weight[-1]


def two_classes() -> GaussianMixture:
    """Two overlapping classes on a line."""
    return GaussianMixture(jnp.array([[0.3], [-0.5]]), jnp.array([0.1, 0.15]), np.ones(2))


def target_density(w: float, x: np.ndarray) -> np.ndarray:
    """p_w at evenly spaced x [N], normalised on them."""
    points, labels = jnp.asarray(x, jnp.float32)[:, None], jnp.zeros(len(x), jnp.int32)
    log = two_classes().guided_log_density(points, jnp.float32(20.0), labels, w)
    values = np.exp(np.asarray(log, np.float64) - float(jnp.max(log)))
    return values / (values.sum() * (x[1] - x[0]))


def figure(w: float, *, count: int, seed: int) -> Picture:
    """Densities that samplers draw, above the target p_w, on two classes on a line."""
    from matplotlib.figure import Figure

    axis = np.linspace(-2.0, 1.8, 381)
    drawing = Figure(figsize=(7, 4), layout="constrained")
    axes = drawing.add_subplot(xlabel="x", ylabel="density", title=f"class 0 at w = {w:g}")
    target = target_density(w, axis)
    mean = np.average(axis, weights=target)
    said = _moments("target, p_w", mean, np.average((axis - mean) ** 2, weights=target))
    axes.fill_between(axis, target, color="0.85", label=said)
    axes.plot(axis, target_density(0.0, axis), color="0.5", ls=":", label="p(x | c)")
    drawn = {
        "DDIM": draw_mixture("ddim", w, count=count, seed=seed)[0],
        "ancestral": draw_mixture("ancestral", w, count=count, seed=seed)[0],
        "PCG, K = 4": draw_mixture("pcg", w, count=count, seed=seed, corrections=4)[0],
    }
    for name, x in drawn.items():
        height, edges = np.histogram(x, bins=np.linspace(-2.0, 1.8, 96), density=True)
        axes.stairs(height, edges, label=_moments(name, x.mean(), x.var()))
    axes.legend(fontsize="small", loc="upper left")
    return rendered(drawing)


def _moments(name: str, mean: float, variance: float) -> str:
    return f"{name}: mean {mean:.2f}, variance {variance:.3f}"
