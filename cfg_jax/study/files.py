"""Which files does a sweep write?

    results.json   every `Result`, for `read_results`
    results.csv    one line per cell: swept fields, metrics with standard errors, protocol, seed
    table_w.txt, table_T.txt, table_sampler.txt, table_calls.txt, table_cells.txt
    frontier_w.png, frontier_T.png, frontier_sampler.png, frontier_ways.png, calls.png

Every file is written atomically.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cfg_jax.core.telemetry import Telemetry
from cfg_jax.evaluation.result import Result, from_fields
from cfg_jax.io.files import save_npz, save_text
from cfg_jax.io.images import rendered, save_png
from cfg_jax.io.reading import read_json
from cfg_jax.io.text import one_line, printable
from cfg_jax.study import seeds
from cfg_jax.study.figures import Plot, telemetry
from cfg_jax.study.tables import tables

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def write(folder: Path, results: Sequence[Result], plots: Mapping[str, Plot]) -> None:
    """Writes results, tables and named plots; raises ValueError as `tables`."""
    write_numbers(folder, results)
    for name, table in tables(results).items():
        save_text(folder / f"{name}.txt", printable(table.text()))
    for name, plot in plots.items():
        save_png(folder / f"{name}.png", rendered(plot.figure))


def write_telemetry(found: Mapping[str, Telemetry], archive: Path) -> tuple[Path, Path]:
    """Writes telemetry by column beside the archive of a strip, and a plot; returns both paths.

    The .npz holds the fields of `Telemetry`, [columns, T, samples] ([columns, T] for logsnr), and
    `columns`, their captions.
    """
    path = archive.with_name(f"{archive.stem}_telemetry.npz")
    stacked = {
        name: np.stack([getattr(t, name) for t in found.values()]) for name in Telemetry._fields
    }
    save_npz(path, columns=np.asarray(list(found)), **stacked)
    picture = path.with_suffix(".png")
    save_png(picture, telemetry(found))
    return path, picture


def collect(results: Iterable[Result], folder: Path | None) -> list[Result]:
    """All results; after each one, writes those so far to `folder`, unless it is None."""
    found = []
    for result in results:
        found.append(result)
        if folder is not None:
            write_numbers(folder, found)
    return found


def write_numbers(folder: Path, results: Sequence[Result]) -> None:
    """Writes results.json and results.csv, also for a sweep that is not finished."""
    every = [result._asdict() | {"path": str(result.path)} for result in results]
    save_text(folder / "results.json", json.dumps(every, indent=1) + "\n")
    save_text(folder / "results.csv", _csv(results))


def read_results(path: str | Path) -> list[Result]:
    """Loads a `results.json`; raises ValueError if `write` did not write it."""
    try:
        every = [dict(fields) for fields in read_json(Path(path))]
        return [from_fields(fields, Path(fields.pop("path"))) for fields in every]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} does not hold sweep results ({type(error).__name__}): give a results.json of "
            "cfg-jax sweep"
        ) from error


def _csv(results: Sequence[Result]) -> str:
    rows = [
        result.swept
        | result.metrics
        | result.protocol
        | {"seed": result.record["seed"], "num_seeds": seeds.count(result)}
        | {f"{name}_error": error for name, error in seeds.errors(result).items()}
        | {"path": str(result.path)}
        for result in results
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """A value of a cell; a text that a spreadsheet would take for a formula begins with "'"."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA) else "") + one_line(value)
