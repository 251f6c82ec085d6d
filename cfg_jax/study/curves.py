"""Which results lie on one curve, and what stands in a table of them?

A curve is cells that differ in one number alone, the guidance weight or another that trades variety
for fidelity; a family is curves that differ in one thing besides, p_uncond or T. Both are read from
what the results say of themselves, so that cells of unlike samplers never meet in one.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from cfg_jax.evaluation.result import Result, check_comparable, shown, title
from cfg_jax.study.paper_tables import published

P_UNCOND = ("p_uncond", "model", "checkpoint")
"""What differs between the curves of figure 4: one run each."""

NUM_STEPS = ("num_steps",)
"""What differs between the curves of figure 5."""

NEUTRAL = {
    "classifier_w": {"classifier": None, "classifier_w": 0.0, "classifier_form": "eps"},
    "noise_temperature": {"noise_temperature": 1.0},
    "score_temperature": {"score_temperature": 1.0},
}
"""Of the parameters other than w: the fields that leave sampling as it is."""


class Curve(NamedTuple):
    """Cells in ascending order of one number.

    name: what sets it apart, "p_uncond = 0.1".
    parameter: the field of `Result.swept` that moves along it, "w".
    results: one or more.
    """

    name: str
    parameter: str
    results: list[Result]

    @property
    def values(self) -> list[float]:
        """Of the parameter, ascending."""
        return [result.swept[self.parameter] for result in self.results]

    def metric(self, name: str) -> list[float]:
        """Of every cell, "fid" or "is"."""
        return [result.metrics[name] for result in self.results]


class Table(NamedTuple):
    """Text in rows and columns.

    caption: one sentence on what the numbers are.
    head: names of the columns, the first that of the rows.
    rows: as many strings each.
    """

    caption: str
    head: list[str]
    rows: list[list[str]]

    def text(self) -> str:
        """The caption and the aligned columns, as lines."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        aligned = (
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        )
        return "\n".join([self.caption, "", *aligned]) + "\n"


def guidance_family(results: Sequence[Result], over: Sequence[str]) -> list[Curve]:
    """The curves over w that differ in the fields `over` alone, P_UNCOND or NUM_STEPS.

    Where there are several such families, that of the most curves, then of the most cells. Cells
    with a classifier or a temperature are left out.

    Raises:
      ValueError: results of unlike protocols, or no cell that is guided by w alone.
    """
    check_comparable(*results)
    guided = [result for result in results if moved(result) is None]
    if not guided:
        raise ValueError("no result without classifier and temperature: measure some over w")
    groups = _grouped(guided, ("w", *over))
    largest = max(groups, key=lambda group: (len(_grouped(group, ("w",))), len(group)))
    found = sorted(_grouped(largest, ("w",)), key=lambda group: group[0].swept[over[0]])
    plain = [_name(over[0], group[0].swept) for group in found]
    names = [
        name if plain.count(name) == 1 else f"{name}, model {group[0].swept['model'][:6]}"
        for name, group in zip(plain, found, strict=True)
    ]
    return [_curve(name, "w", group) for name, group in zip(names, found, strict=True)]


def older_ways(results: Sequence[Result]) -> list[Curve]:
    """The curves over classifier_w and over the temperatures, each with the cell it starts from.

    Raises:
      ValueError: results of unlike protocols.
    """
    check_comparable(*results)
    found = []
    for parameter, neutral in NEUTRAL.items():
        cells = [result for result in results if moved(result) == parameter]
        for group in _grouped(cells, (parameter,)):
            start = group[0].swept | neutral
            group = [result for result in results if result.swept == start] + group
            found.append(_curve(_older_name(parameter, group[-1].swept), parameter, group))
    return found


def moved(result: Result) -> str | None:
    """The parameter besides w that is not neutral, the first of NEUTRAL; None where all are."""
    for parameter, neutral in NEUTRAL.items():
        if any(result.swept[field] != value for field, value in neutral.items()):
            return parameter
    return None


def describe(swept: dict[str, Any]) -> str:
    """A cell in words: "p_uncond = 0.1, T = 32, w = 0.3"."""
    parts = [_name("p_uncond", swept), _name("num_steps", swept), f"w = {swept['w']:g}"]
    if swept["classifier"]:
        form = " (ADM's form)" if swept["classifier_form"] == "adm" else ""
        parts.append(f"classifier {swept['classifier_w']:g}{form}")
    for name in ("noise_temperature", "score_temperature"):
        if swept[name] != 1:
            parts.append(f"{name.replace('_', ' ')} {swept[name]:g}")
    return ", ".join(parts)


def tables(results: Sequence[Result]) -> dict[str, Table]:
    """The tables that there are cells for, by name.

    table_w: rows w, columns p_uncond, as the paper's table 1. table_T: columns T, as its table 2,
    where there are several. table_cells: all that was measured.

    Raises:
      ValueError: results of unlike protocols.
    """
    over_t = guidance_family(results, NUM_STEPS)
    found = {"table_w": guidance_table(guidance_family(results, P_UNCOND))}
    if len(over_t) > 1:
        found["table_T"] = guidance_table(over_t)
    found["table_cells"] = cell_table(results)
    return found


def guidance_table(curves: Sequence[Curve]) -> Table:
    """Rows are w, columns are curves, cells "FID / IS" as in the paper's tables 1 and 2.

    A star marks the lowest distance and the highest score of a column. The paper's numbers stand
    beside ours where they are of the same model, sampler and protocol.

    Raises:
      ValueError: results of unlike protocols.
    """
    every = [result for curve in curves for result in curve.results]
    check_comparable(*every)
    protocol = every[0].protocol
    theirs = [[published(result) for result in curve.results] for curve in curves]
    head, columns = ["w"], []
    for curve, known in zip(curves, theirs, strict=True):
        pairs = list(zip(curve.metric("fid"), curve.metric("is"), strict=True))
        head.append(curve.name)
        columns.append(dict(zip(curve.values, _starred(pairs, 3), strict=True)))
        if any(known):
            head.append("published")
            columns.append(dict(zip(curve.values, _starred(known, 2), strict=True)))
    weights = sorted({w for column in columns for w in column})
    caption = (
        f"{title('fid', protocol)} / {title('is', protocol)}, of {protocol['num_samples']} samples "
        f"each; * lowest distance, highest score of a column"
    )
    return Table(caption, head, [[f"{w:g}", *(c.get(w, "-") for c in columns)] for w in weights])


def cell_table(results: Sequence[Result]) -> Table:
    """Every cell in a row of its own, with all that was measured of it.

    Raises:
      ValueError: results of unlike protocols.
    """
    check_comparable(*results)
    protocol = results[0].protocol
    names = list(dict.fromkeys(name for result in results for name in shown(result)))
    rows = [
        [describe(result.swept)]
        + [f"{result.metrics[name]:.4f}" if name in result.metrics else "-" for name in names]
        for result in results
    ]
    caption = f"Every cell, of {protocol['num_samples']} samples"
    return Table(caption, ["cell", *(title(name, protocol) for name in names)], rows)


def _starred(pairs: Sequence[tuple[float, float] | None], decimals: int) -> list[str]:
    known = [pair for pair in pairs if pair]
    best = min(fid for fid, _ in known), max(score for _, score in known)

    def text(pair: tuple[float, float]) -> str:
        return " / ".join(
            f"{value:.{decimals}f}" + ("*" if value == top else " ")
            for value, top in zip(pair, best, strict=True)
        )

    return [text(pair) if pair else "-" for pair in pairs]


def _grouped(results: Sequence[Result], without: Sequence[str]) -> list[list[Result]]:
    """Results that agree in all that is swept but the fields `without`, in order of appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        rest = {name: value for name, value in result.swept.items() if name not in without}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(result)
    return list(groups.values())


def _curve(name: str, parameter: str, results: Sequence[Result]) -> Curve:
    """The results in order, one for each value: a run that is given twice counts once."""
    found = {result.swept[parameter]: result for result in reversed(results)}
    return Curve(name, parameter, [found[value] for value in sorted(found)])


def _name(field: str, swept: dict[str, Any]) -> str:
    if field == "p_uncond":
        return f"p_uncond = {swept['p_uncond']:g}"
    return f"T = {swept['num_steps']}" + (f" ({swept['respacing']})" if swept["respacing"] else "")


def _older_name(parameter: str, swept: dict[str, Any]) -> str:
    name = parameter.replace("_", " ")
    if parameter == "classifier_w":
        name = "classifier" + (" (ADM's form)" if swept["classifier_form"] == "adm" else "")
    return f"{name}, w = {swept['w']:g}, {_name('num_steps', swept)}"
