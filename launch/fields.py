"""--config on the command line: configs by name, and fields that a config lacks."""

import difflib
import heapq
import os
import re
import runpy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

NEAREST = 3


def has_config_file() -> bool:
    """Whether --config of this program is a config file of fields that are flags."""
    return "config" in flags.FLAGS and hasattr(type(flags.FLAGS["config"]), "config_filename")


def with_config_path(argv: list[str]) -> list[str]:
    """The arguments with --config=NAME, or --config NAME, replaced by --config=PATH.

    NAME:ARGUMENT becomes PATH:ARGUMENT. Raises flags.Error if there is neither a config of that
    name nor a file.
    """
    import configs

    paths = {path.stem: path for path in sorted(Path(configs.__path__[0]).glob("[!_]*.py"))}
    found, rest = [], iter(argv)
    for argument in rest:
        if argument.partition("=")[0] in ("--config", "-config"):
            name = argument.partition("=")[2] if "=" in argument else next(rest, "")
            name, colon, value = name.partition(":")
            argument = f"--config={paths.get(name, name)}{colon}{value}"
            if name not in paths and not os.path.exists(name):
                raise flags.Error(f"{argument}: give a file or one of {', '.join(paths)}")
        found.append(argument)
    return found


def without_traceback(error: flags.Error) -> str:
    """The text of a flag error; of an exception in a config file only its own message."""
    text = str(error).strip()
    return re.sub(r"^\w+: ", "", text.splitlines()[-1]) if "Traceback" in text else text


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
