"""Writes docs/config.md from the table of fields in cfg_jax/config/fields.py.

python docs/config_table.py
"""

from pathlib import Path

from cfg_jax.config.fields import FIELDS, TRANSFORMER_FIELDS

HEAD = """\
# Config fields

Every field is a flag of `cfg-jax train`, for example `--config.optim.learning_rate=2e-4`, and a
field of the config in `train(config, workdir)`. `cfg-jax train --config=NAME --help` shows the
values of a config. A value out of range is an error of one line before anything is compiled.

`python docs/config_table.py` makes this page from `cfg_jax/config/fields.py`. The defaults are
those of the CFG paper (Ho & Salimans 2022) if it gives them for all its models, and those of ADM
(Dhariwal & Nichol 2021) if the CFG paper refers to it. The section `model` is that of the U-Net,
of which "mlp" and "classifier" have some fields; a transformer's is the table below. A data set may
have further fields in `data`.

"""
COLUMNS = """\
| field | default | meaning | allowed |
| --- | --- | --- | --- |
"""
TRANSFORMER = """
## Model section of a transformer

`config.model = fields.transformer(patch=2, depth=6)` makes it. The defaults are those of JiT-B/16.

"""


def page() -> str:
    """The page as Markdown."""
    tables = []
    for fields in (FIELDS, TRANSFORMER_FIELDS):
        rows = [
            f"| `{name}` | `{field.default!r}` | {field.meaning} | {field.range.allowed} |\n"
            for name, field in fields.items()
        ]
        tables.append(COLUMNS + "".join(rows))
    return HEAD + tables[0] + TRANSFORMER + tables[1]


if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(page(), "utf-8")
