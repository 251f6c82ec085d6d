"""Plots of a sweep and of training, drawn without a display, each with what it shows as a sentence.

Score against Frechet distance, with the guidance weight along each curve, as in figures 4 and 5 of
Ho & Salimans 2022, and training loss against step.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cfg_jax.core.telemetry import Telemetry
from cfg_jax.evaluation.result import Result, check_comparable, title
from cfg_jax.io.files import folder
from cfg_jax.io.images import Picture, in_legend, rendered
from cfg_jax.io.metric_log import read_records
from cfg_jax.io.text import short
from cfg_jax.study import point_labels, seeds
from cfg_jax.study.curves import Curve, families, is_alongside, lowest
from cfg_jax.study.paper_tables import published
from cfg_jax.study.svg import COLORS, INK

Losses = list[tuple[int, float]]
"""(step, mean loss since the previous entry)."""

_PARAMETERS = {"num_steps": "T", "classifier_w": "classifier weight"}
_LARGE_FACTOR = 8.0  # between distances on a logarithmic axis
_LEAST_RANGE = 0.05  # of an axis of distances, as a fraction of the largest


class Plot(NamedTuple):
    """A figure of matplotlib, and a sentence with the numbers that it shows."""

    finding: str
    figure: Any


def frontiers(results: Sequence[Result]) -> dict[str, Plot]:
    """Plots of a sweep by name, if their results were measured; raises ValueError as `families`.

    frontier_w: a curve per p_uncond, figure 4. frontier_T: a curve per T, figure 5, if there are
    several; frontier_sampler: a curve per solver and kind of guidance, if there are several.
    frontier_ways: guidance and its baselines, if any. calls: distance against T, if there are
    several.
    """
    sweep = families(results)
    found = sweep.over_w()
    if sweep.others:
        other = sweep.others[0].results[-1].swept
        alongside = (
            curve._replace(name="classifier-free guidance")
            for curve in sweep.over_p + sweep.over_t
            if is_alongside(curve.results[0], other)
        )
        found["ways"] = [next(alongside, sweep.over_p[0]), *sweep.others]
    plots = {f"frontier_{name}": frontier(curves) for name, curves in found.items()}
    return plots | ({"calls": calls(sweep.over_calls)} if sweep.over_calls else {})


def frontier(curves: Sequence[Curve]) -> Plot:
    """Score against Frechet distance, one line per curve, its parameter beside the points.

    A star marks the lowest distance. The paper's numbers for the same settings are a dashed line.
    Raises ValueError if protocols differ.
    """
    protocol = _protocol(curves)
    axes = _axes(xlabel=title("fid", protocol), ylabel=title("is", protocol))
    _spread(axes, "x", curves)
    for i, curve in enumerate(curves):
        x, y = curve.metric("fid"), curve.metric("is")
        errors = {"xerr": curve.errors("fid"), "yerr": curve.errors("is")}
        line = _draw(axes, i, curve.name, x, y, **errors)
        theirs = [pair for pair in map(published, curve.results) if pair]
        if theirs:
            label = f"{curve.name}, published"
            axes.plot(*zip(*theirs, strict=True), "x--", color=line.get_color(), label=label)
    curve, best = _lowest(curves)
    _star(axes, curves.index(curve), best.metrics["fid"], best.metrics["is"])
    figure = _finished(axes)
    _label(axes, curves, best)
    return Plot(_finding(curves), figure)


def calls(curves: Sequence[Curve]) -> Plot:
    """Distance against the number of network calls, one line per sampler, at one weight.

    A star marks the lowest distance. Raises ValueError if protocols differ.
    """
    protocol = _protocol(curves)
    w = curves[0].results[0].swept["w"]
    ylabel = f"{short(title('fid', protocol), 40)}, w = {w:g}"
    axes = _axes(xlabel="T, number of network calls", ylabel=ylabel)
    _spread(axes, "y", curves)
    for i, curve in enumerate(curves):
        errors = {"yerr": curve.errors("fid")}
        _draw(axes, i, curve.name, curve.values, curve.metric("fid"), **errors)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({value for curve in curves for value in curve.values}))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.minorticks_off()
    curve, best = _lowest(curves)
    _star(axes, curves.index(curve), best.swept["num_steps"], best.metrics["fid"])
    return Plot(_finding(curves), _finished(axes))


def loss_curves(runs: Mapping[str, Losses]) -> Plot:
    """Training loss of every run against step, with a logarithmic loss axis."""
    axes = _axes(height=2.2, xlabel="step", ylabel="training loss")
    _logarithmic(axes, "y")
    for i, (name, losses) in enumerate(runs.items()):
        look = _style(i) | {"marker": ""}
        axes.plot(*zip(*losses, strict=True), label=in_legend(name), **look)
    name = min(runs, key=lambda name: runs[name][-1][1])
    (first, start), (last, end) = runs[name][0], runs[name][-1]
    change = "falls" if end < start else "rises" if end > start else "stays"
    finding = f"The loss {change} from {start:.3g} at step {first} to {end:.3g} at step {last}"
    return Plot(finding + (f" in {name}" if len(runs) > 1 else ""), _finished(axes))


def _finding(curves: Sequence[Curve]) -> str:
    """Where the lowest distance is, as a sentence."""
    curve, best = _lowest(curves)
    parameter = _PARAMETERS.get(curve.parameter, curve.parameter.replace("_", " "))
    named = f" with {curve.name}" if len(curves) > 1 else ""
    return (
        f"{title('fid', best.protocol)} is lowest at {parameter} = "
        f"{best.swept[curve.parameter]:g}{named}: {seeds.text(best, 'fid', 3)}"
    )


def _lowest(curves: Sequence[Curve]) -> tuple[Curve, Result]:
    """The result with the lowest distance, and its curve."""
    best = lowest(result for curve in curves for result in curve.results)
    return next(curve for curve in curves if best in curve.results), best


def _protocol(curves: Sequence[Curve]) -> dict[str, Any]:
    """The protocol of all results; raises ValueError if protocols differ."""
    every = [result for curve in curves for result in curve.results]
    check_comparable(*every)
    return every[0].protocol


def telemetry(found: Mapping[str, Telemetry]) -> Picture:
    """Measurements of guidance against the log-SNR of the calls: means over samples, a line each.

    `found` has the telemetry of every line by its name, as from `Strip.telemetry`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.5), layout="constrained")
    defined = [name for name in MEASURED if any(_is_defined(each, name) for each in found.values())]
    for place, name in enumerate(defined, 1):
        axes = figure.add_subplot(2, 3, place, xlabel="log-SNR", title=MEASURED[name])
        for line, each in found.items():
            label = in_legend(line.replace("\n", ", "))
            values = np.mean(getattr(each, name), axis=1)
            axes.plot(each.logsnr, values, ".-", markersize=3, linewidth=1, label=label)
        axes.grid(alpha=0.25)
    figure.axes[0].legend(fontsize="small")
    return rendered(figure)


def _is_defined(found: Telemetry, name: str) -> bool:
    return bool(np.isfinite(getattr(found, name)).any())


MEASURED = {
    "gap_ratio": "|c - u| / |c|",
    "cosine": "cosine of c and u",
    "parallel": "cosine of x_c and x_c - x_u",
    "saturation": "fraction of x_hat beyond [-1, 1]",
    "std_ratio": "std(x_hat) / std(x_c)",
    "log_prob": "change of log p(c | z)",
}
"""Fields of `Telemetry` that are plotted, with titles; c and u are eps_hat of both branches."""


def read_losses(workdir: str | Path) -> Losses:
    """Recorded losses of a run; skips records without a loss."""
    records = read_records(folder(workdir))
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


def _axes(*, xlabel: str, ylabel: str, height: float = 3.2) -> Any:
    """Axes of a figure as wide as a telephone's page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, height), dpi=170, layout="constrained", facecolor="white")
    axes = figure.add_subplot(xlabel=short(xlabel))
    axes.set_title(short(ylabel), loc="left", fontsize=9, color=INK)  # upright, unlike a ylabel
    axes.grid(alpha=0.2, which="both", color=INK, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(which="both", color=INK, labelcolor=INK, labelsize=8)
    axes.xaxis.label.set(color=INK, fontsize=9)
    return axes


def _spread(axes: Any, name: str, curves: Sequence[Curve]) -> None:
    """Makes the axis of distances logarithmic where they differ by a large factor.

    Where they hardly differ, its range is a fraction of them, so that they look alike.
    """
    distances = [value for curve in curves for value in curve.metric("fid")]
    low, high = min(distances), max(distances)
    if 0 < _LARGE_FACTOR * low < high:
        _logarithmic(axes, name)
    elif high - low < _LEAST_RANGE * high:
        centre, half = (low + high) / 2, _LEAST_RANGE * high / 2
        ends = [(centre - half,) * 2, (centre + half,) * 2]
        axes.update_datalim(ends, updatex=name == "x", updatey=name == "y")


def _logarithmic(axes: Any, name: str) -> None:
    """Makes the axis "x" or "y" logarithmic, with numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(**{f"{name}scale": "log"})
    axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _style(i: int) -> dict[str, Any]:
    """Appearance of curve i; beyond the number of colours by another stroke."""
    stroke = ("-", "--", ":")[i // len(COLORS) % 3]
    look = {"marker": "o", "linestyle": stroke, "color": COLORS[i % len(COLORS)][0]}
    return look | {"markersize": 4, "linewidth": 1.3}


def _draw(axes: Any, i: int, label: str, x: Sequence[float], y: Sequence[float], **errors: Any):
    """Draws curve i, with bars for errors xerr and yerr that are not None; returns its line."""
    (line,) = axes.plot(x, y, label=in_legend(label), **_style(i))
    if any(error is not None for error in errors.values()):
        bars = {"fmt": "none", "ecolor": line.get_color(), "elinewidth": 0.8, "capsize": 2}
        axes.errorbar(x, y, **errors, **bars)
    return line


def _star(axes: Any, i: int, x: float, y: float) -> None:
    look = _style(i) | {"marker": "*", "markersize": 12, "linestyle": ""}
    axes.plot([x], [y], markeredgecolor=INK, markeredgewidth=0.6, zorder=5, **look)


def _label(axes: Any, curves: Sequence[Curve], best: Result) -> None:
    """Writes parameters beside points: first of the best one, then of ends, then of the rest."""
    labels = []
    for i, curve in enumerate(curves):
        ends = (curve.results[0], curve.results[-1])
        for value, result in zip(curve.values, curve.results, strict=True):
            rank = 0 if result is best else 1 if result in ends else 2
            place = result.metrics["fid"], result.metrics["is"]
            labels.append(point_labels.Label(f"{value:g}", *place, _style(i)["color"], rank))
    point_labels.place(axes, labels)


def _finished(axes: Any) -> Any:
    """The figure of the axes with a legend below them, and its names as they are, no formulas."""
    from matplotlib.text import Text

    figure = axes.figure
    names = axes.get_legend_handles_labels()[1]
    columns = 2 if all(len(name) < 28 for name in names) else 1
    figure.set_figheight(figure.get_figheight() + 0.16 * math.ceil(len(names) / columns))
    figure.legend(
        loc="outside lower left",
        fontsize=8,
        frameon=False,
        labelcolor=INK,
        ncols=columns,
    )
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure
