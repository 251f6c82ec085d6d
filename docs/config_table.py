"""Writes docs/config.md from the table of fields in cfg_jax/config/fields.py.

python docs/config_table.py
"""

from pathlib import Path

from cfg_jax.config.fields import FIELDS

HEAD = """\
# Config fields

Every field is a flag of `cfg-jax train`, for example `--config.optim.learning_rate=2e-4`, and a
field of the config in `train(config, workdir)`. `cfg-jax train --config=NAME --help` shows the
values of a config. A value out of range is an error of one line before anything is compiled.

`python docs/config_table.py` makes this page from `cfg_jax/config/fields.py`. The defaults are
those of the CFG paper (Ho & Salimans 2022) if it gives them for all its models, and those of ADM
(Dhariwal & Nichol 2021) if the CFG paper refers to it. The section `model` is that of the U-Net;
another network has some of its fields. A data set may have further fields in `data`.

| field | default | meaning | allowed |
| --- | --- | --- | --- |
"""


def page() -> str:
    """The page as Markdown."""
    rows = [
        f"| `{name}` | `{field.default!r}` | {field.meaning} | {field.range.allowed} |"
        for name, field in FIELDS.items()
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(page(), "utf-8")
