"""What does a sweep leave on disk?

    results.json   every `Result`, to be read back
    results.csv    a line for each cell: what is swept, the numbers, the protocol, the seed
    table_w.txt, table_T.txt, table_cells.txt, frontier_w.png, frontier_T.png, frontier_ways.png

A reader never sees half a file.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cfg_jax.evaluation.result import Result
from cfg_jax.io.files import save_text
from cfg_jax.io.images import Picture, save_png
from cfg_jax.study.curves import tables


def write(folder: Path, results: Sequence[Result], pictures: Mapping[str, Picture]) -> None:
    """Writes results, tables, and pictures by their names; ValueError as `tables`."""
    texts = {f"{name}.txt": table.text() for name, table in tables(results).items()}
    every = [result._asdict() | {"path": str(result.path)} for result in results]
    texts |= {"results.json": json.dumps(every, indent=1) + "\n", "results.csv": _csv(results)}
    for name, text in texts.items():
        save_text(folder / name, text)
    for name, picture in pictures.items():
        save_png(folder / f"{name}.png", picture)


def read_results(path: str | Path) -> list[Result]:
    """The results in a `results.json`; ValueError where `write` did not write it."""
    try:
        every = json.loads(Path(path).read_text())
        return [Result(**(fields | {"path": Path(fields["path"])})) for fields in every]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} holds no results of a sweep ({type(error).__name__}): give a results.json of "
            "python -m launch.sweep"
        ) from error


def _csv(results: Sequence[Result]) -> str:
    rows = [
        result.swept
        | result.metrics
        | {name: _plain(value) for name, value in result.protocol.items()}
        | {"seed": result.record["seed"], "path": str(result.path)}
        for result in results
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
