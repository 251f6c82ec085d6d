"""Runs a program by its name.

cfg-jax NAME --flag=value ...      the same as `python -m launch.NAME` in a checkout
cfg-jax NAME --help                lists the program's flags
cfg-jax --version                  prints the version
"""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from . import help, interrupts, streams

PROGRAMS = (
    *("train", "sample", "explore", "evaluate", "neighbours", "sweep", "judge", "mixture"),
    *("exactness", "prepare", "import_openai", "import_jit", "import_inception", "preflight"),
)


def main() -> None:
    """Runs the program that the first argument names with the other arguments.

    Exits with 2 for an unknown name, and with 0 after a list of programs, for --help or no
    argument, and after --version.
    """
    interrupts.at_once()
    given = sys.argv[1:] or ["--help"]
    name = given[0].replace("-", "_")
    if name in PROGRAMS:
        _run(name, given[1:])
        return
    streams.protect()
    is_known = True
    if given[0] in ("--help", "-h", "help"):
        print(_overview())
    elif given[0] == "--version":
        from cfg_jax import __version__

        print("cfg_jax", __version__)
    else:
        is_known = False
        advice = help.program_meant(name, PROGRAMS)
        print(f"error: program {given[0]!r} is unknown: {advice}", file=sys.stderr)
    lost = streams.finish()
    sys.exit(2 if not is_known else 1 if lost else 0)


def _run(name: str, arguments: list[str]) -> None:
    """Executes a program's module as `__main__`, with a command that can be typed as argv[0]."""
    spec = importlib.util.find_spec(f"{__package__}.{name}")
    module = ModuleType("__main__")
    module.__dict__.update(__spec__=spec, __package__=__package__, __file__=spec.origin)
    sys.modules["__main__"] = module
    sys.argv[:] = [f"cfg-jax {name}", *arguments]
    exec(spec.loader.get_code(spec.name), module.__dict__)


def _overview() -> str:
    """The usage, and the first line of each program's docstring."""
    lines = [__doc__.rstrip(), ""]
    for name in PROGRAMS:
        source = Path(__file__).with_name(f"{name}.py").read_text("utf-8")
        lines.append(f"  {name:18}{ast.get_docstring(ast.parse(source)).splitlines()[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
