"""Writes docs/config.md from the table of fields in cfg_jax/config/fields.py.

python docs/config_table.py
"""

from collections.abc import Iterable
from pathlib import Path

from cfg_jax.config.fields import FIELDS, TRANSFORMER_FIELDS, Field

HEAD = """\
# Config fields

Every field is a flag of `cfg-jax train`, for example `--config.optim.learning_rate=2e-4`, and a
field of the config in `train(config, workdir)`. `cfg-jax train --config=NAME --help` shows the
values of a config. A value out of range is an error of one line before anything is compiled.

`python docs/config_table.py` makes this page from `cfg_jax/config/fields.py`. The defaults are
those of the CFG paper (Ho & Salimans 2022) if it gives them for all its models, and those of ADM
(Dhariwal & Nichol 2021) if the CFG paper refers to it.
"""
COLUMNS = """\
| field | default | meaning | allowed |
| --- | --- | --- | --- |
"""
# Heading and first sentence of each section.
SECTIONS = {
    "": ("Seed and network", ""),
    "data": ("Data", "A data set may have further fields."),
    "model": ("Model", 'The fields of a U-Net, of which "mlp" and "classifier" have some.'),
    "transformer": (
        "Model of a transformer",
        "Made by `config.model = fields.transformer(patch=2)`, with the defaults of JiT-B/16.",
    ),
    "diffusion": ("Diffusion", ""),
    "optim": ("Optimization", ""),
    "train": ("Training", ""),
    "checkpoint": ("Checkpoints", ""),
    "log": ("Logging", ""),
    "sampling": (
        "Sampling",
        "The defaults of the programs that sample, and of previews in training.",
    ),
}


def table(fields: Iterable[tuple[str, Field]]) -> str:
    """The fields as a table in Markdown."""
    rows = [
        f"| `{name}` | `{field.default!r}` | {field.meaning} | {field.range.allowed} |\n"
        for name, field in fields
    ]
    return COLUMNS + "".join(rows)


def page() -> str:
    """The page as Markdown, with a table for each section of a config."""
    tables: dict[str, list[tuple[str, Field]]] = {name: [] for name in SECTIONS}
    for name, field in FIELDS.items():
        tables[name.rpartition(".")[0]].append((name, field))
    tables["transformer"] = list(TRANSFORMER_FIELDS.items())
    parts = [HEAD]
    for name, (heading, introduction) in SECTIONS.items():
        parts += [
            f"## {heading}\n",
            f"{introduction}\n" if introduction else "",
            table(tables[name]),
        ]
    return "\n".join(part for part in parts if part)


if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(page(), "utf-8")
