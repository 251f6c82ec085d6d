"""--config on the command line: configs by name, and fields that a config lacks."""

import os
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from .help import entry

_EXAMPLE = "begin with a copy of configs/digits.py"


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


def is_given(arguments: Sequence[str]) -> bool:
    """Whether the arguments have a value of --config."""
    return bool(_given(arguments).get("config"))


def check_type(config: object, path: str) -> None:
    """Raises ValueError unless `config`, from the file `path`, is a ConfigDict."""
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"get_config() of {path} returns {type(config).__name__}, not a ConfigDict: {_EXAMPLE}"
        )


def fault(arguments: Sequence[str], error: Exception) -> str | None:
    """One line on an error of the file of --config, or of its fields as flags; None for another.

    `arguments` have --config=PATH. An error in the file is found by running it again.
    """
    place = _given(arguments).get("config")
    # absl quotes a traceback, or calls the flag missing where the file returns None.
    of_file = any(sign in str(error) for sign in ("Traceback", "flag --config=None"))
    if not place or (isinstance(error, flags.Error) and not of_file):
        return None
    try:
        _config(place)
    except ValueError as found:
        return str(found)
    if name := unknown(arguments):
        return f"{name} (--config=NAME --help lists the fields)"
    return f"{place}: {' '.join(str(error).split())}"


def unknown(arguments: Sequence[str]) -> str | None:
    """One line on the first `--config.FIELD` that the file of `--config` lacks, or None.

    `arguments` have --config=PATH; the line names the field and those most like it.
    """
    from cfg_jax.config.nearest import nearest

    given, fields = _given(arguments), names(arguments)
    sections = {field.rpartition(".")[0] for field in fields}
    for name in given:
        field = name.removeprefix("config.")
        if name != field and field not in fields and field not in sections:
            found = " or ".join(f"--config.{other}" for other in nearest(field, fields))
            return f"--{name} is not a field of the config: did you mean {found}?"
    return None


def names(arguments: Sequence[str]) -> list[str]:
    """The fields of the file of --config, SECTION.FIELD; [] without a file that makes a config."""
    from cfg_jax.config.validate import flatten

    try:
        place = _given(arguments).get("config", "")
        return [name for name, _ in flatten(_config(place).to_dict())] if place else []
    except ValueError:
        return []


def described(arguments: Sequence[str]) -> str:
    """The fields of the file of --config as flags, with value, meaning and range; "" without one.

    `arguments` have --config=PATH. Raises ValueError for a file that makes no config.
    """
    from cfg_jax.config.fields import fields_of
    from cfg_jax.config.validate import flatten

    place = _given(arguments).get("config", "")
    if not place:
        return ""
    values = dict(flatten(_config(place).to_dict()))
    fields = fields_of(values["network"])
    lines = [f"\nfields of --config={_named(place)}:"]
    for name in sorted(values, key=list(fields | values).index):
        known = fields.get(name)
        about = f"{known.meaning} ({known.range.allowed})" if known else ""
        lines += entry(f"config.{name}={values[name]!r}", about)
    return "\n".join(lines)


def _named(place: str) -> str:
    """PATH:ARGUMENT of a config as a user gives it: NAME:ARGUMENT for those of this package."""
    path, colon, option = place.partition(":")
    return f"{Path(path).stem if _is_ours(path) else path}{colon}{option}"


def _is_ours(path: str) -> bool:
    """Whether a config file is one of this package."""
    import configs

    return os.path.realpath(os.path.dirname(path)) == os.path.realpath(configs.__path__[0])


def _given(arguments: Sequence[str]) -> dict[str, str]:
    """{name: value} of arguments --name=value."""
    return dict(argument.lstrip("-").partition("=")[::2] for argument in arguments)


def _config(place: str) -> ConfigDict:
    """The config of --config=PATH or PATH:ARGUMENT; ValueError if the file does not make one."""
    path, colon, option = place.partition(":")
    if os.path.isdir(path):
        raise ValueError(
            f"--config={path} is a folder: give a file or the name of a config, or for pictures in "
            f"it --config=folder:{path}"
        )
    try:
        made = runpy.run_path(path).get("get_config")
        if callable(made):
            config = made(option) if colon else made()
    except (Exception, SystemExit) as error:  # a config file is code
        raise ValueError(_said(path, error)) from error
    if not callable(made):
        raise ValueError(f"{path} has no function get_config: {_EXAMPLE}")
    check_type(config, path)
    return config


def _said(path: str, error: BaseException) -> str:
    """One line on an error of a config file: the line in the file, the kind, and the message."""
    if isinstance(error, OSError):
        return f"{path} cannot be read ({error.strerror}): give a file or the name of a config"
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ValueError) and (frames[-1].filename != path or _is_ours(path)):
        return str(error)  # of this package, for the user
    lines = [frame.lineno for frame in frames if frame.filename == path]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    place = f", line {lines[-1]}" if lines and lines[-1] else ""
    cause: object = error.msg if isinstance(error, SyntaxError) else error
    while isinstance(cause, BaseException) and cause.args:  # ConfigDict wraps a KeyError
        cause = cause.args[0]
    return f"{path}{place}: {type(error).__name__}: {' '.join(str(cause).split())}"
