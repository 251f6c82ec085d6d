"""Tables of a sweep, as the paper prints them.

Tables call a result a cell: one model sampled with one setting.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cfg_jax.evaluation.result import Result, check_comparable, shown, title
from cfg_jax.study import seeds
from cfg_jax.study.curves import Curve, describe, families, grouped, lowest
from cfg_jax.study.paper_tables import published


class Table(NamedTuple):
    """Rows of text; `head` names the columns, `caption` says what the numbers are.

    `best` is the index of the row with the lowest distance.
    """

    caption: str
    head: list[str]
    rows: list[list[str]]
    best: int

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
    head = ["w", *(name for _, name in columns)]
    return Table(_pair_caption(every), head, rows, weights.index(lowest(every).swept["w"]))


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
    best = [lowest(every) in curve.results for curve in curves].index(True)
    return Table(caption, ["solver", *(f"T = {count}" for count in counts)], rows, best)


def _pair_text(result: Result) -> tuple[str, ...]:
    return tuple(seeds.text(result, name, 3) for name in ("fid", "is"))


def _pair_caption(results: Sequence[Result]) -> str:
    protocol = results[0].protocol
    return (
        f"{title('fid', protocol)} / {title('is', protocol)}, of {protocol['num_samples']} samples "
        f"each{_over_seeds(results)}; * marks the lowest distance and highest score of a column"
    )


def _cell_table(results: Sequence[Result]) -> Table:
    """One row per result, with all its metrics; in ascending T and w where only these differ."""
    protocol = results[0].protocol
    results = [
        result
        for group in grouped(results, ["num_steps", "w"])
        for result in sorted(group, key=lambda each: (each.swept["num_steps"], each.swept["w"]))
    ]
    names = list(dict.fromkeys(name for result in results for name in shown(result)))
    rows = [
        [describe(result.swept)]
        + [seeds.text(result, name, 4) if name in result.metrics else "-" for name in names]
        for result in results
    ]
    caption = f"All cells, {protocol['num_samples']} samples each{_over_seeds(results)}"
    head = ["cell", *(title(name, protocol) for name in names)]
    return Table(caption, head, rows, results.index(lowest(results)))


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
