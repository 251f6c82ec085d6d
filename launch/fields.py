"""Overrides of config fields on the command line: which one does the config lack?"""

import difflib
import heapq
import runpy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NEAREST = 3


def unknown(arguments: Sequence[str]) -> str | None:
    """One line on the first `--config.FIELD` that the file of `--config` lacks, or None.

    `arguments` have --config=PATH; the line names the field and those most like it.
    """
    given = dict(argument.lstrip("-").partition("=")[::2] for argument in arguments)
    path, _, option = given.get("config", "").partition(":")
    config = runpy.run_path(path)["get_config"](*[option] * bool(option))
    fields = list(_fields(config))
    sections = {field.rpartition(".")[0] for field in fields}
    for name in given:
        field = name.removeprefix("config.")
        if name != field and field not in fields and field not in sections:
            found = " or ".join(f"--config.{other}" for other in nearest(field, fields))
            return f"--{name} is not a field of the config: did you mean {found}?"
    return None


def nearest(field: str, fields: Sequence[str]) -> list[str]:
    """The NEAREST of `fields` most like `field`, best first; `lr` is like `learning_rate`."""

    def likeness(other: str) -> float:
        last, leaf = field.rpartition(".")[2], other.rpartition(".")[2]
        initials = "".join(word[:1] for word in leaf.split("_"))
        alike = [_alike(last, leaf), _alike(field, leaf), float(last == initials)]
        return max(alike) + _alike(field, other)

    return heapq.nlargest(NEAREST, fields, key=likeness)


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _fields(config: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """Yields "section.field" for every field of a config."""
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from _fields(value, f"{section}{name}.")
        else:
            yield section + name
