"""Text of --help, and advice for flags that a program does not have."""

import difflib
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from absl import flags

_HEADINGS = {
    "flags": "samples",
    "solver": "solver and guidance",
    "upsampler": "upsampler",
    "baselines": "baselines",
    "features": "features and reference",
    "given": "samples of another program",
    "examples": "likelihood and accuracy",
    "program": "start",
}
"""Names of the groups of flags that modules of this package define."""

_CLUSTER = ("distributed", "coordinator_address", "num_processes", "process_id")
_ALSO = (
    "also: --flagfile=FILE reads flags from a file, -v=1 shows the traceback of an error, "
    "--helpfull lists the flags of libraries"
)

_OTHERS = {
    "output_dir": "workdir",
    "max_train_steps": "config.train.num_steps",
    "num_train_epochs": "config.train.num_steps",
    "epochs": "config.train.num_steps",
    "resume_from_checkpoint": "workdir",
    "train_data_dir": "config.data.data_dir",
    "data": "config.data.data_dir",
    "model": "workdir",
}
"""Flags of other programs, with those of these programs."""


def asked(arguments: Iterable[str]) -> bool:
    """Whether the arguments ask for help."""
    return any(each in ("--help", "-help", "-h", "--h", "-?") for each in arguments)


def page(program: str, hidden: Iterable[str] = ()) -> str:
    """The docstring of `program`, sys.argv[0], and all its flags but those `hidden`, in groups."""
    lines = [(sys.modules["__main__"].__doc__ or "").strip()]
    for heading, shown in _groups(program, hidden):
        lines.append(f"\n{heading}:")
        for flag in sorted(shown, key=lambda flag: flag.name):
            lines += entry(*_described(flag))
    return "\n".join([*lines, "", *textwrap.wrap(_ALSO, 80)])


def entry(head: str, text: str) -> list[str]:
    """Lines of one flag."""
    return [
        f"  --{head}",
        *textwrap.wrap(
            text,
            80,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
            break_on_hyphens=False,
        ),
    ]


def known(program: str, hidden: Iterable[str] = ()) -> list[str]:
    """Names of the flags on the `page`."""
    return [flag.name for _, shown in _groups(program, hidden) for flag in shown]


def unknown(error: flags.UnrecognizedFlagError, names: Sequence[str]) -> str:
    """One line on a flag that is none of `names`, with the one that was probably meant."""
    from cfg_jax.config.nearest import close
    from cfg_jax.sampling.keywords import meant

    given, value = error.flagname, str(error.flagvalue or "").partition("=")[2]
    said = f"--{given}{value and f'={value}'} is not a flag of this program"
    word, of_ours = meant(given, value)
    word = _OTHERS.get(given, word)
    alike = (name for name in names if word in (name, name.rpartition(".")[2]))
    own = min(alike, key=_section, default="")
    if own:
        return f"{said}: use --{own}{'' if of_ours is None else f'={of_ours:g}'}"
    near = close(given, names)
    return f"{said}: did you mean {' or '.join(f'--{name}' for name in near)}?" if near else said


def _section(name: str) -> tuple[bool, bool]:
    """Order of flags and fields of the same name: flags first, then the fields of training."""
    return "." in name, ".train." not in name


def program_meant(given: str, programs: Sequence[str]) -> str:
    """Advice on an unknown program."""
    near = difflib.get_close_matches(given, programs, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(programs)}"


def _groups(program: str, hidden: Iterable[str]) -> Iterator[tuple[str, list[flags.Flag]]]:
    """(heading, flags to show) of the program and of each module of this package that has some."""
    defined, out = flags.FLAGS.flags_by_module_dict(), {*hidden, *_pointless()}
    headings = {f"{__package__}.{module}": heading for module, heading in _HEADINGS.items()}
    for module, heading in ({program: "flags"} | headings).items():
        if shown := [flag for flag in defined.get(module, []) if flag.name not in out]:
            yield heading, shown


def _pointless() -> list[str]:
    """Flags of connected processes and of compilation, in a program that has none of them."""
    alone = [*_CLUSTER] if flags.FLAGS["distributed"].default == "off" else []
    kept = flags.FLAGS["compilation_cache"].default != "off"
    return alone if kept else [*alone, "compilation_cache"]


def _described(flag: flags.Flag) -> tuple[str, str]:
    """Head and text of a flag: its name and default, its help and what it allows."""
    text = " ".join((flag.help or "").split())
    choices = re.match(r"<(?P<names>[\w|]+)>: (?P<rest>.*)", text)
    allowed = flag.parser.syntactic_help
    if choices:
        text, allowed = choices["rest"], f"one of {choices['names'].replace('|', ', ')}"
    if isinstance(flag, flags.MultiFlag) or flag.boolean or "comma separated" in allowed:
        allowed = ""
    default = (flag.default_as_str or "").strip("'")
    default = "" if default == "None" else default  # of config files
    if flag.boolean:
        head = f"[no]{flag.name}"
        text += f" Default: {default}." if flag.default is not None else ""
    else:
        head = f"{flag.name}={default}" if default else flag.name
    return head, f"{text} ({allowed})" if allowed else text
