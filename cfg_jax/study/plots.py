"""Plots of a sweep and of training, drawn without a display.

Score against Frechet distance, with the guidance weight along each curve, as in figures 4 and 5 of
Ho & Salimans 2022, and training loss against step.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cfg_jax.core.telemetry import Telemetry
from cfg_jax.evaluation.result import Result, check_comparable, title
from cfg_jax.io.files import folder
from cfg_jax.io.images import Picture, in_legend, rendered
from cfg_jax.io.metric_log import read_records
from cfg_jax.study.curves import Curve, families, is_alongside
from cfg_jax.study.paper_tables import published

Losses = list[tuple[int, float]]
"""(step, mean loss since the previous entry)."""


def frontiers(results: Sequence[Result]) -> dict[str, Picture]:
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
    pictures = {f"frontier_{name}": frontier(curves) for name, curves in found.items()}
    return pictures | ({"calls": calls(sweep.over_calls)} if sweep.over_calls else {})


def calls(curves: Sequence[Curve]) -> Picture:
    """Distance against the number of network calls, one line per sampler, at one weight.

    Raises ValueError if protocols differ.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    every = [result for curve in curves for result in curve.results]
    check_comparable(*every)
    name = title("fid", every[0].protocol)
    axes = _axes(5.0, xlabel="T, number of network calls", ylabel=f"{name}, w = {_w(every[0])}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for i, curve in enumerate(curves):
        errors = {"yerr": curve.errors("fid")}
        _draw(axes, i, curve.name, curve.values, curve.metric("fid"), **errors)
    axes.set_xticks(sorted({value for curve in curves for value in curve.values}))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if len(curves) > _COLORS else {}
    axes.legend(fontsize="small", **beside)
    return rendered(axes.figure)


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


_COLORS = 10  # of matplotlib


def _style(i: int) -> dict[str, Any]:
    """Appearance of curve i; beyond the colours of matplotlib by another stroke."""
    stroke = ("-", "--", ":")[i // _COLORS % 3]
    look = {"marker": "o", "linestyle": stroke, "color": f"C{i % _COLORS}"}
    return look | {"markersize": 4, "linewidth": 1.2}


def _draw(axes: Any, i: int, label: str, x: Sequence[float], y: Sequence[float], **errors: Any):
    """Draws curve i, with bars for errors xerr and yerr that are not None; returns its line."""
    (line,) = axes.plot(x, y, label=in_legend(label), **_style(i))
    if any(error is not None for error in errors.values()):
        bars = {"fmt": "none", "ecolor": line.get_color(), "elinewidth": 0.8, "capsize": 2}
        axes.errorbar(x, y, **errors, **bars)
    return line


def _w(result: Result) -> str:
    return f"{result.swept['w']:g}"


def frontier(curves: Sequence[Curve]) -> Picture:
    """Score against Frechet distance, one line per curve, its parameter beside the points.

    The paper's numbers for the same settings are a dashed line. Raises ValueError if protocols
    differ.
    """
    every = [result for curve in curves for result in curve.results]
    check_comparable(*every)
    protocol = every[0].protocol
    axes = _axes(5.0, xlabel=title("fid", protocol), ylabel=title("is", protocol))
    for i, curve in enumerate(curves):
        x, y = curve.metric("fid"), curve.metric("is")
        errors = {"xerr": curve.errors("fid"), "yerr": curve.errors("is")}
        line = _draw(axes, i, curve.name, x, y, **errors)
        for value, *place in zip(curve.values, x, y, strict=True):
            axes.annotate(
                f"{value:g}", place, (4, -9), textcoords="offset points", fontsize=7, alpha=0.8
            )
        theirs = [pair for pair in map(published, curve.results) if pair]
        if theirs:
            label = f"{curve.name}, published"
            axes.plot(*zip(*theirs, strict=True), "x--", color=line.get_color(), label=label)
    axes.legend(fontsize="small")
    return rendered(axes.figure)


def loss_curves(runs: Mapping[str, Losses]) -> Picture:
    """Training loss of every run against step, with a logarithmic loss axis."""
    axes = _axes(3.6, xlabel="step", ylabel="training loss", yscale="log")
    for name, losses in runs.items():
        axes.plot(*zip(*losses, strict=True), linewidth=1.2, label=in_legend(name))
    axes.legend(fontsize="small")
    return rendered(axes.figure)


def read_losses(workdir: str | Path) -> Losses:
    """Recorded losses of a run; skips records without a loss."""
    records = read_records(folder(workdir))
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


def _axes(height: float, **labels: str):
    from matplotlib.figure import Figure

    axes = Figure(figsize=(7.0, height), dpi=110, layout="constrained").add_subplot(**labels)
    axes.grid(alpha=0.25, which="both")
    return axes
