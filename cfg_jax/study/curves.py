"""Which results form a curve, and which curves form a table?

A curve joins results that differ only in the guidance weight, or only in another parameter that
trades variety for fidelity. A family is a list of curves that differ only in the run or in T. Both
are derived from `Result.swept`, so results of different samplers never mix. Tables call a result a
cell: one model sampled with one setting.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cfg_jax.evaluation.result import (
    Result,
    check_comparable,
    grid,
    sampler,
    shown,
    temperatures,
    title,
)
from cfg_jax.study import seeds
from cfg_jax.study.paper_tables import published

NEUTRAL = {
    "classifier_w": {"classifier": None, "classifier_w": 0.0, "classifier_form": "eps"},
    "noise_temperature": {"noise_temperature": 1.0},
    "score_temperature": {"score_temperature": 1.0},
}
"""Parameters other than w, each with the values that leave sampling unchanged."""

SAMPLER = (
    *("solver", "grid", "eta", "churn", "schedule", "interval", "rule", "against", "threshold"),
    *("dtype", "weaker"),
)
"""Swept fields of the solver and of guidance that changes over the calls."""


class Curve(NamedTuple):
    """One or more results in ascending order of `parameter`, a field of `Result.swept`."""

    name: str
    parameter: str
    results: list[Result]

    @property
    def values(self) -> list[float]:
        """Parameter of every result, ascending."""
        return [result.swept[self.parameter] for result in self.results]

    def metric(self, name: str) -> list[float]:
        """Metric of every result, "fid" or "is"."""
        return [result.metrics[name] for result in self.results]

    def errors(self, name: str) -> list[float] | None:
        """Standard errors of a metric over seeds; None for single seeds."""
        found = [seeds.error(result, name) for result in self.results]
        return found if any(found) else None


class Families(NamedTuple):
    """Curves of a sweep.

    over_p: curves over w, one per run, as in figure 4 of the paper (one per p_uncond).
    over_t: curves over w, one per number of steps T, as in figure 5.
    over_sampler: curves over w, one per solver, grid, schedule, interval and rule.
    over_calls: curves over T at one w, one per solver, grid, schedule, interval and rule.
    others: curves over classifier weight or a temperature. Each starts at the result without them.
    """

    over_p: list[Curve]
    over_t: list[Curve]
    over_sampler: list[Curve]
    over_calls: list[Curve]
    others: list[Curve]

    def over_w(self) -> dict[str, list[Curve]]:
        """Families for tables and plots, by name; "T" and "sampler" if there are several."""
        several = {"T": self.over_t, "sampler": self.over_sampler}
        return {"w": self.over_p} | {k: curves for k, curves in several.items() if len(curves) > 1}


class Table(NamedTuple):
    """Rows of text; `head` names the columns, `caption` says what the numbers are."""

    caption: str
    head: list[str]
    rows: list[list[str]]

    def text(self) -> str:
        """The caption and the aligned columns."""
        return f"{self.caption}\n\n{aligned([self.head, *self.rows])}\n"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines, with right-aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def families(results: Sequence[Result]) -> Families:
    """Groups results into curves: over w, and over classifier weight and temperatures.

    There is one curve over w per run (over_p) or per T (over_t); all other settings of these curves
    agree. If several groups qualify, the group with most curves is used, then with most results.

    Raises ValueError if `check_comparable` does, or if no result is guided by w alone.
    """
    check_comparable(*results)
    guided = [result for result in results if moved(result) is None]
    if not guided:
        raise ValueError("no result guided by w alone: sweep w without classifier or temperature")
    others = []
    for parameter, neutral in NEUTRAL.items():
        cells = [result for result in results if moved(result) == parameter]
        for group in _grouped(cells, [parameter]):
            start = group[0].swept | neutral
            group = [result for result in results if result.swept == start] + group
            others.append(_curve(_other_name(parameter, group[-1].swept), parameter, group))
    over_p = _family(guided, "p_uncond", "model", "checkpoint")  # a run differs in all three
    over_sampler = _family(guided, *SAMPLER)
    over_t = _family(guided, "num_steps")
    return Families(over_p, over_t, over_sampler, _over_calls(guided), others)


def _over_calls(guided: Sequence[Result]) -> list[Curve]:
    """Curves over T, one per sampler, at the w with most of them; [] if none has several T."""
    families = [
        [group for group in _grouped(cells, ["num_steps"]) if len({_calls(r) for r in group}) > 1]
        for cells in _grouped(guided, ["num_steps", *SAMPLER])
    ]
    largest = max(families, key=lambda groups: (len(groups), sum(map(len, groups))))
    return [_curve(_sampler(group[0].swept), "num_steps", group) for group in largest]


def _calls(result: Result) -> int:
    return result.swept["num_steps"]


def moved(result: Result) -> str | None:
    """The first parameter of NEUTRAL that is not neutral, or None."""
    for parameter, neutral in NEUTRAL.items():
        if result.swept | neutral != result.swept:
            return parameter
    return None


def is_alongside(result: Result, swept: dict[str, Any]) -> bool:
    """Whether a result has the model, T, solver and kind of guidance of these swept fields."""
    return all(result.swept[name] == swept[name] for name in ("model", "num_steps", *SAMPLER))


def describe(swept: dict[str, Any]) -> str:
    """Settings of a result as text: "p_uncond = 0.1, T = 32, w = 0.3"."""
    parts = [_run(swept), *sampler(swept), grid(swept), f"w = {swept['w']:g}"]
    if swept["classifier"]:
        parts.append(f"classifier {swept['classifier_w']:g}{_form(swept)}")
    return ", ".join(parts + temperatures(swept))


def tables(results: Sequence[Result]) -> dict[str, Table]:
    """Tables by name, if their results were measured; raises ValueError as `families`.

    table_w: rows w, columns p_uncond, as in the paper's table 1. table_T: rows w, columns T, as in
    the paper's table 2, if there are several T. table_sampler: rows w, columns solvers and rules of
    guidance, if there are several. table_calls: rows solvers and rules, columns T, at one w.
    table_cells: all metrics of all results.
    """
    found_curves = families(results)
    every = found_curves.over_w()
    found = {f"table_{name}": guidance_table(curves) for name, curves in every.items()}
    if found_curves.over_calls:
        found["table_calls"] = calls_table(found_curves.over_calls)
    return found | {"table_cells": _cell_table(results)}


def guidance_table(curves: Sequence[Curve]) -> Table:
    """Rows w, columns curves, entries "FID / IS", as in the paper's tables 1 and 2.

    A star marks the lowest distance and the highest score of a column. The paper's numbers stand
    beside these if model, sampler and protocol match. Raises ValueError if protocols differ.
    """
    every = [result for curve in curves for result in curve.results]
    check_comparable(*every)
    columns = {}
    for i, curve in enumerate(curves):
        ours = list(zip(curve.metric("fid"), curve.metric("is"), strict=True))
        said = list(map(_pair_text, curve.results))
        columns[i, curve.name] = dict(zip(curve.values, _starred(ours, said), strict=True))
        theirs = [published(result) for result in curve.results]
        if any(theirs):
            said = [tuple(f"{x:.2f}" for x in pair) if pair else None for pair in theirs]
            columns[i, "published"] = dict(zip(curve.values, _starred(theirs, said), strict=True))
    weights = sorted({w for column in columns.values() for w in column})
    rows = [[f"{w:g}", *(column.get(w, "-") for column in columns.values())] for w in weights]
    return Table(_pair_caption(every), ["w", *(name for _, name in columns)], rows)


def calls_table(curves: Sequence[Curve]) -> Table:
    """Rows curves over T, columns T, entries as in `guidance_table`. ValueError as there."""
    every = [result for curve in curves for result in curve.results]
    check_comparable(*every)
    counts = sorted({count for curve in curves for count in curve.values})
    columns = []
    for count in counts:
        cells = [dict(zip(curve.values, curve.results, strict=True)).get(count) for curve in curves]
        pairs = [(cell.metrics["fid"], cell.metrics["is"]) if cell else None for cell in cells]
        said = [_pair_text(cell) if cell else None for cell in cells]
        columns.append(_starred(pairs, said))
    rows = [
        [curve.name, *row] for curve, row in zip(curves, zip(*columns, strict=True), strict=True)
    ]
    caption = f"{_pair_caption(every)}; w = {every[0].swept['w']:g}"
    return Table(caption, ["solver", *(f"T = {count}" for count in counts)], rows)


def _pair_text(result: Result) -> tuple[str, ...]:
    return tuple(seeds.text(result, name, 3) for name in ("fid", "is"))


def _pair_caption(results: Sequence[Result]) -> str:
    protocol = results[0].protocol
    return (
        f"{title('fid', protocol)} / {title('is', protocol)}, of {protocol['num_samples']} samples "
        f"each{_over_seeds(results)}; * marks the lowest distance and highest score of a column"
    )


def _cell_table(results: Sequence[Result]) -> Table:
    """One row per result, with all its metrics."""
    protocol = results[0].protocol
    names = list(dict.fromkeys(name for result in results for name in shown(result)))
    rows = [
        [describe(result.swept)]
        + [seeds.text(result, name, 4) if name in result.metrics else "-" for name in names]
        for result in results
    ]
    caption = f"All cells, {protocol['num_samples']} samples each{_over_seeds(results)}"
    return Table(caption, ["cell", *(title(name, protocol) for name in names)], rows)


def _over_seeds(results: Sequence[Result]) -> str:
    """How many seeds a number is the mean of, for a caption."""
    most = max(map(seeds.count, results))
    return f", mean and standard error over {most} seeds" if most > 1 else ""


def _starred(
    pairs: Sequence[tuple[float, float] | None], said: Sequence[tuple[str, ...] | None]
) -> list[str]:
    """Texts of pairs (distance, score), joined, with a star at the best of each."""
    known = [pair for pair in pairs if pair]
    best = min(fid for fid, _ in known), max(score for _, score in known)

    def text(pair: tuple[float, float], said: tuple[str, ...]) -> str:
        stars = ("*" if value == top else " " for value, top in zip(pair, best, strict=True))
        return " / ".join(part + star for part, star in zip(said, stars, strict=True))

    each = zip(pairs, said, strict=True)
    return [text(pair, words) if pair and words else "-" for pair, words in each]


def _family(guided: Sequence[Result], *over: str) -> list[Curve]:
    """The largest family over w whose curves differ in the fields `over`, sorted by the first."""
    groups = _grouped(guided, ["w", *over])
    largest = max(groups, key=lambda group: (len(_grouped(group, ["w"])), len(group)))
    found = sorted(_grouped(largest, ["w"]), key=lambda group: group[0].swept[over[0]])
    first = [group[0].swept for group in found]
    name_of = {"p_uncond": _run, "num_steps": grid, "solver": _sampler}[over[0]]
    names = [name_of(swept) for swept in first]
    unique = [
        name if names.count(name) == 1 else f"{name}, model {swept['model'][:6]}"
        for name, swept in zip(names, first, strict=True)
    ]
    return [_curve(name, "w", group) for name, group in zip(unique, found, strict=True)]


def _grouped(results: Iterable[Result], without: Sequence[str]) -> list[list[Result]]:
    """Results grouped by all swept fields except `without`, in order of appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        rest = {name: value for name, value in result.swept.items() if name not in without}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(result)
    return list(groups.values())


def _curve(name: str, parameter: str, results: Sequence[Result]) -> Curve:
    """The curve of the results; a value that occurs twice counts once."""
    found = {result.swept[parameter]: result for result in reversed(results)}
    return Curve(name, parameter, [found[value] for value in sorted(found)])


def _run(swept: dict[str, Any]) -> str:
    return f"p_uncond = {swept['p_uncond']:g}"


def _sampler(swept: dict[str, Any]) -> str:
    return ", ".join(sampler(swept)) or "ancestral"


def _form(swept: dict[str, Any]) -> str:
    return " (ADM's form)" if swept["classifier_form"] == "adm" else ""


def _other_name(parameter: str, swept: dict[str, Any]) -> str:
    name = parameter.replace("_", " ")
    if parameter == "classifier_w":
        name = f"classifier{_form(swept)}"
    return f"{name}, w = {swept['w']:g}, {grid(swept)}"
