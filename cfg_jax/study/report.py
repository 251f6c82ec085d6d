"""Self-contained HTML report of a sweep.

The page shows verdicts on the paper's claims, the frontier, tables, samples, losses, protocol and
config. Pictures are embedded as base64; there are no scripts and no external resources.
"""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cfg_jax.config.validate import flatten
from cfg_jax.evaluation.result import Result, title
from cfg_jax.io.files import save_text
from cfg_jax.io.images import Picture
from cfg_jax.io.text import printable
from cfg_jax.study import seeds
from cfg_jax.study.claims import Claim, check_claims
from cfg_jax.study.curves import Table, tables

CAPTIONS = {
    "frontier_w": "Score against distance, w beside the points, one curve per p_uncond (figure 4 "
    "of the paper). Up and to the left is better.",
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
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 0.88rem; margin: 0.6rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.8rem; text-align: right;
  font-variant-numeric: tabular-nums; white-space: pre; }
th { white-space: normal; }
table.words td, table.words th { text-align: left; white-space: normal; vertical-align: top;
  overflow-wrap: anywhere; }
figure { margin: 1rem 0; } img { max-width: 100%; image-rendering: auto; }
figcaption, .small { color: #555; font-size: 0.88rem; }
.verdict { font-weight: 600; white-space: nowrap; }
"""


def write_report(
    path: Path,
    results: Sequence[Result],
    *,
    pictures: Mapping[str, Picture],
    strips: Mapping[str, Picture],
    losses: Picture | None = None,
) -> None:
    """Writes the HTML page at `path`; raises ValueError as `check_claims`.

    `pictures` are from `plots.frontiers`, `losses` from `plots.loss_curves`; `strips` by run name.
    """
    protocol = results[0].protocol
    name = escape(f"Guidance: {title('is', protocol)} against {title('fid', protocol)}")
    parts = [
        f"<h1>{name}</h1>",
        _paragraph(
            f"{len(results)} cells of {protocol['num_samples']} samples each, compared with "
            f"{protocol['reference']}. The claims and the layout of the tables are from Ho & "
            "Salimans 2022, Classifier-Free Diffusion Guidance; w = 0 is the conditional model."
        ),
        _section("Which of the paper's claims hold here", [_claims(check_claims(results))]),
        _section("Frontier", [_figure(p, CAPTIONS.get(n, n)) for n, p in pictures.items()]),
        _section("Tables", [_captioned(n, table) for n, table in tables(results).items()]),
        _section("Samples", [_figure(picture, n) for n, picture in strips.items()]),
        _section("Training", [_figure(losses, CAPTIONS["loss"])] if losses else []),
        _section("Protocol", _protocol(results)),
        _section("Configuration", [_configuration(results)]),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{name}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    save_text(path, printable(page))


def _claims(claims: Sequence[Claim]) -> str:
    rows = [
        [
            escape(claim),
            f'<span class="verdict">{verdict}</span>',
            "<br>".join(map(escape, numbers)),
        ]
        for claim, verdict, numbers in claims
    ]
    return _table(rows, ["claim", "verdict", "numbers"], "words")


def _captioned(name: str, table: Table) -> str:
    rows = [map(escape, row) for row in table.rows]
    return (
        f"<h3>{escape(CAPTIONS.get(name, name))}</h3>{_paragraph(table.caption, 'small')}"
        f"{_table(rows, map(escape, table.head))}"
    )


def _protocol(results: Sequence[Result]) -> list[str]:
    """Fields that all results share, and all warnings."""
    fields = dict(results[0].protocol)
    for name, value in results[0].swept.items():
        if all(result.swept[name] == value for result in results):
            fields[name] = value
    firsts = sorted({result.record["seed"] for result in results})
    most = max(map(seeds.count, results))
    fields |= {"seed": firsts[0] if len(firsts) == 1 else firsts, "num_seeds": most}
    fields |= results[0].record["versions"]
    parts = [_pairs(fields)]
    said = dict.fromkeys(line for result in results for line in result.record["warnings"])
    return parts + [_paragraph(f"Warning: {line}") for line in said]


def _configuration(results: Sequence[Result]) -> str:
    """Every field of the config, with the values of all runs if they differ."""
    runs = {result.swept["model"]: dict(flatten(result.record["config"])) for result in results}
    found, differing = {}, {}
    for field in dict.fromkeys(name for config in runs.values() for name in config):
        values = [json.dumps(config.get(field)) for config in runs.values()]
        found[field] = values[0]
        if len(set(values)) > 1:
            found[field] = differing[field] = " | ".join(values)
    above = _pairs(differing) if differing else ""
    return f"{above}<details><summary>all fields</summary>{_pairs(found)}</details>"


def _pairs(fields: Mapping[str, Any]) -> str:
    """A table of names and values; values other than strings are shown as JSON."""
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
    return _table([map(escape, pair) for pair in texts.items()], kind="words")


def _table(rows: Iterable[Iterable[str]], head: Iterable[str] = (), kind: str = "") -> str:
    """An HTML table."""
    lines = [("th", head), *(("td", row) for row in rows)]
    cells = ["".join(f"<{tag}>{cell}</{tag}>" for cell in row) for tag, row in lines]
    return f'<table class="{kind}">{"".join(f"<tr>{row}</tr>" for row in cells if row)}</table>'


def _section(heading: str, parts: Sequence[str]) -> str:
    return f"<h2>{escape(heading)}</h2>" + "\n".join(parts) if parts else ""


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>'


def _figure(picture: Picture, caption: str) -> str:
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    inlined = base64.b64encode(stream.getvalue()).decode()
    said = escape(caption, quote=True)
    return (
        f'<figure><img alt="{said}" src="data:image/png;base64,{inlined}">'
        f"<figcaption>{said}</figcaption></figure>"
    )
