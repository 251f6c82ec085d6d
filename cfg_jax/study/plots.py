"""How do a sweep and a training run look?

The score against the Frechet distance with the guidance weight along each curve, as figures 4 and 5
of Ho & Salimans 2022, and the loss against the step. Drawn without a display.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cfg_jax.evaluation.result import Result, check_comparable, title
from cfg_jax.io.files import folder
from cfg_jax.io.images import Picture, rendered
from cfg_jax.study.curves import NUM_STEPS, P_UNCOND, Curve, guidance_family, older_ways
from cfg_jax.study.paper_tables import published

Losses = list[tuple[int, float]]
"""(step, mean loss since the step before)."""


def frontiers(results: Sequence[Result]) -> dict[str, Picture]:
    """The plots that a sweep has the cells for, by name.

    frontier_w: a curve for each p_uncond, figure 4. frontier_T: a curve for each T, figure 5, where
    there are several. frontier_ways: guidance beside a classifier and temperatures, where there are
    any.

    Raises:
      ValueError: results of unlike protocols.
    """
    over_p, over_t = (guidance_family(results, over) for over in (P_UNCOND, NUM_STEPS))
    found = {"frontier_w": frontier(over_p)}
    if len(over_t) > 1:
        found["frontier_T"] = frontier(over_t)
    if ways := older_ways(results):
        found["frontier_ways"] = frontier([_reference(results, ways), *ways])
    return found


def frontier(curves: Sequence[Curve]) -> Picture:
    """Score against Frechet distance, a line for each curve, its parameter beside the points.

    What the paper has for the same cells is drawn as a dashed line.

    Raises:
      ValueError: results of unlike protocols.
    """
    from matplotlib.figure import Figure

    every = [result for curve in curves for result in curve.results]
    check_comparable(*every)
    figure = Figure(figsize=(7.0, 5.0), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        x, y = curve.metric("fid"), curve.metric("is")
        (line,) = axes.plot(x, y, "o-", markersize=4, linewidth=1.2, label=curve.name)
        for value, *place in zip(curve.values, x, y, strict=True):
            axes.annotate(
                f"{value:g}", place, (4, -9), textcoords="offset points", fontsize=7, alpha=0.8
            )
        theirs = [pair for pair in map(published, curve.results) if pair]
        if theirs:
            label = f"{curve.name}, published"
            axes.plot(*zip(*theirs, strict=True), "x--", color=line.get_color(), label=label)
    protocol = every[0].protocol
    axes.set(xlabel=title("fid", protocol), ylabel=title("is", protocol))
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small")
    return rendered(figure)


def loss_curves(runs: Mapping[str, Losses]) -> Picture:
    """The training loss of every run against the step, on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="training loss", yscale="log")
    for name, losses in runs.items():
        axes.plot(*zip(*losses, strict=True), linewidth=1.2, label=name)
    axes.grid(alpha=0.25, which="both")
    axes.legend(fontsize="small")
    return rendered(figure)


def read_losses(workdir: str | Path) -> Losses:
    """The losses in a run's `metrics.jsonl`, lines that cannot be read left out."""
    path = folder(workdir) / "metrics.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            found.append((int(record["step"]), float(record["loss"])))
        except (ValueError, KeyError, TypeError):
            continue  # half a line of a run that was cut, or a step without a loss
    return found


def _reference(results: Sequence[Result], ways: Sequence[Curve]) -> Curve:
    """The curve over w of the model and T that the other ways were measured with."""
    other = ways[0].results[-1].swept
    for over in (P_UNCOND, NUM_STEPS):
        for curve in guidance_family(results, over):
            first = curve.results[0].swept
            if all(first[name] == other[name] for name in ("model", "num_steps")):
                return curve._replace(name="classifier-free guidance")
    return guidance_family(results, P_UNCOND)[0]
