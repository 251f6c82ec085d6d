"""Which results form a curve, and which curves form a family?

A curve joins results that differ only in the guidance weight, or only in another parameter that
trades variety for fidelity. A family is a list of curves that differ only in the run or in T. Both
are derived from `Result.swept`, so results of different samplers never mix.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cfg_jax.evaluation.result import (
    Result,
    check_comparable,
    grid,
    sampler,
    temperatures,
)
from cfg_jax.study import seeds

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
        for group in grouped(cells, [parameter]):
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
        [group for group in grouped(cells, ["num_steps"]) if len({_calls(r) for r in group}) > 1]
        for cells in grouped(guided, ["num_steps", *SAMPLER])
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


def lowest(results: Iterable[Result]) -> Result:
    """The result with the lowest distance; the first of several."""
    return min(results, key=lambda result: result.metrics["fid"])


def _family(guided: Sequence[Result], *over: str) -> list[Curve]:
    """The largest family over w whose curves differ in the fields `over`, sorted by the first."""
    groups = grouped(guided, ["w", *over])
    largest = max(groups, key=lambda group: (len(grouped(group, ["w"])), len(group)))
    found = sorted(grouped(largest, ["w"]), key=lambda group: group[0].swept[over[0]])
    first = [group[0].swept for group in found]
    name_of = {"p_uncond": _run, "num_steps": grid, "solver": _sampler}[over[0]]
    names = [name_of(swept) for swept in first]
    unique = [
        name if names.count(name) == 1 else f"{name}, model {swept['model'][:6]}"
        for name, swept in zip(names, first, strict=True)
    ]
    return [_curve(name, "w", group) for name, group in zip(unique, found, strict=True)]


def grouped(results: Iterable[Result], without: Sequence[str]) -> list[list[Result]]:
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
