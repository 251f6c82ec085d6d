"""Self-contained HTML report of a sweep.

The page shows verdicts on the paper's claims, the frontier, tables, samples, losses, protocol and
config. It has no external resources, and every part can be read without its script. `report.html`
is its template, in which every text is escaped.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cfg_jax.config.validate import flatten
from cfg_jax.evaluation.result import Result, short_title
from cfg_jax.io import images
from cfg_jax.io.files import save_text
from cfg_jax.io.text import printable
from cfg_jax.study import claims, seeds
from cfg_jax.study.figures import Plot
from cfg_jax.study.svg import COLORS, svg
from cfg_jax.study.tables import tables
from cfg_jax.study.tiles import Tiles

CAPTIONS = {
    "frontier_w": "Score against distance, w beside the points that have room for it, one curve "
    "per p_uncond (figure 4 of the paper). Up and to the left is better. A star marks the lowest "
    "distance.",
    "frontier_T": "The same with one curve per number of steps T (figure 5 of the paper).",
    "frontier_sampler": "The same with one curve per solver and kind of guidance.",
    "calls": "Distance against the number of network calls, one curve per solver and kind of "
    "guidance.",
    "frontier_ways": "Classifier-free guidance beside baselines that trade variety for fidelity.",
    "loss": "Training loss, averaged since the previous logged step.",
    "table_w": "By p_uncond",
    "table_T": "By number of steps",
    "table_sampler": "By solver and kind of guidance",
    "table_calls": "By number of network calls",
    "table_cells": "All cells",
}
_SMALL = 128  # pixels; a smaller tile is shown without smoothing
_HERE = Path(__file__).parent
_VERDICTS = (claims.HOLDS, claims.IN_PART, claims.FAILS, claims.NOT_MEASURED)


def write_report(
    path: Path,
    results: Sequence[Result],
    *,
    plots: Mapping[str, Plot],
    strips: Mapping[str, Tiles],
    losses: Plot | None = None,
) -> None:
    """Writes the HTML page at `path`; raises ValueError as `check_claims`.

    `plots` are from `plots.frontiers`, `losses` from `plots.loss_curves`, `strips` from
    `strip.tiles`, by run name.
    """
    protocol = results[0].protocol
    script = (_HERE / "report.js").read_text("utf-8")
    differing, config = _configs(results)
    found = {
        "title": f"Guidance: {short_title('is', protocol)} against {short_title('fid', protocol)}",
        "about": f"{len(results)} cells of {protocol['num_samples']} samples each, from the "
        f"checkpoint of {_steps(results)}, compared with {protocol['reference']} by features of "
        f"{protocol['network']}. The claims and the layout of the tables are from Ho & Salimans "
        "2022, Classifier-Free Diffusion Guidance; w = 0 is the conditional model.",
        "claims": (verdicts := claims.check_claims(results)),
        "tally": _tally(verdicts),
        "plots": [_plot(name, plot) for name, plot in plots.items()],
        "tables": [(CAPTIONS.get(name, name), table) for name, table in tables(results).items()],
        "strips": [_strip(name, tiles) for name, tiles in strips.items()],
        "losses": _plot("loss", losses) if losses else None,
        "cautions": claims.cautions(results),
        "protocol": _texts(_shared(results)),
        "differing": differing,
        "config": config,
    }
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        found, colors=COLORS, script=script, policy=_policy(script)
    )
    save_text(path, printable(page))


def _steps(results: Sequence[Result]) -> str:
    """Training steps of the checkpoints, "step 900"."""
    found = sorted({result.swept["checkpoint"] for result in results})
    return f"step{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"


def _policy(script: str) -> str:
    """A content security policy: the page loads nothing, and runs no script but its own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def _tally(verdicts: Sequence[claims.Claim]) -> str:
    """Number of claims per verdict, "holds: 3"."""
    counts = Counter(claim.verdict for claim in verdicts)
    return ", ".join(f"{name}: {counts[name]}" for name in _VERDICTS if counts[name])


def _plot(name: str, plot: Plot) -> dict[str, str]:
    caption = CAPTIONS.get(name, name)
    return {
        "finding": plot.finding.replace(" = ", "\u00a0=\u00a0"),  # kept on one line
        "caption": caption,
        "svg": svg(plot.figure, name, f"{plot.finding}. {caption}"),
    }


def _strip(name: str, tiles: Tiles) -> dict[str, Any]:
    """The tiles of a strip by weight, as addresses of pictures."""
    columns = [
        {
            "name": caption,
            "tiles": [
                {"name": row, "source": _address(image)}
                for row, image in zip(tiles.names, tiles.images[:, i], strict=True)
            ],
        }
        for i, caption in enumerate(tiles.captions)
    ]
    return {"name": name, "columns": columns, "small": tiles.images.shape[3] <= _SMALL}


def _address(image: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(images.png(image)).decode()}"


def _shared(results: Sequence[Result]) -> dict[str, Any]:
    """Fields that all results share."""
    fields = dict(results[0].protocol)
    for name, value in results[0].swept.items():
        if all(result.swept[name] == value for result in results):
            fields[name] = value
    firsts = sorted({result.record["seed"] for result in results})
    most = max(map(seeds.count, results))
    fields |= {"seed": firsts[0] if len(firsts) == 1 else firsts, "num_seeds": most}
    return fields | results[0].record["versions"]


def _configs(results: Sequence[Result]) -> tuple[list, list]:
    """Fields of the config, those that differ between the runs and all, with every value."""
    runs = {result.swept["model"]: dict(flatten(result.record["config"])) for result in results}
    found, differing = {}, {}
    for field in dict.fromkeys(name for config in runs.values() for name in config):
        values = [json.dumps(config.get(field)) for config in runs.values()]
        found[field] = values[0]
        if len(set(values)) > 1:
            found[field] = differing[field] = " | ".join(values)
    return list(differing.items()), list(found.items())


def _texts(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values; values other than strings as JSON."""
    return [(k, v if isinstance(v, str) else json.dumps(v)) for k, v in fields.items()]
