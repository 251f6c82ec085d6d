"""--config on the command line: configs by name, and fields that a config lacks."""

import os
import re
import runpy
import textwrap
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict


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
    from cfg_jax.config.nearest import nearest
    from cfg_jax.config.validate import flatten

    given = _given(arguments)
    fields = [field for field, _ in flatten(_config(given["config"]).to_dict())]
    sections = {field.rpartition(".")[0] for field in fields}
    for name in given:
        field = name.removeprefix("config.")
        if name != field and field not in fields and field not in sections:
            found = " or ".join(f"--config.{other}" for other in nearest(field, fields))
            return f"--{name} is not a field of the config: did you mean {found}?"
    return None


def described(arguments: Sequence[str]) -> str:
    """The fields of the file of --config as flags, with value, meaning and range; "" without one.

    `arguments` have --config=PATH.
    """
    from cfg_jax.config.fields import fields_of
    from cfg_jax.config.validate import flatten

    place = _given(arguments).get("config", "")
    if not place:
        return ""
    try:
        values = dict(flatten(_config(place).to_dict()))
    except Exception as error:  # a config file is code
        return f"\n{place} cannot be read: {error}"
    fields = fields_of(values["network"])
    lines = [f"\nfields of {place}:"]
    for name in sorted(values, key=list(fields | values).index):
        lines.append(f"  --config.{name}={values[name]!r}")
        if name in fields:
            about = f"{fields[name].meaning} ({fields[name].range.allowed})"
            lines += textwrap.wrap(about, 80, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return "\n".join(lines)


def _given(arguments: Sequence[str]) -> dict[str, str]:
    """{name: value} of arguments --name=value."""
    return dict(argument.lstrip("-").partition("=")[::2] for argument in arguments)


def _config(place: str) -> ConfigDict:
    """The config of --config=PATH or PATH:ARGUMENT."""
    path, _, option = place.partition(":")
    return runpy.run_path(path)["get_config"](*[option] * bool(option))
