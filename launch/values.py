"""Values of flags: numbers in a text, and flags that may not be given."""

import contextlib
import math
import re
from collections.abc import Iterable

from absl import flags

PLACES = ("checkpoint", "config", "dataset", "inception", "name", "out", "reference")
"""Flags of files, folders and names, beside those that end in "dir": no value of them is empty."""

_NUMBERS = {
    "invalid literal for int": "an integer",
    "could not convert string to float": "a number",
}


def flag_error(error: flags.Error) -> str:
    """The text of an error of absl, with what a number flag allows."""
    text = str(error)
    if missing := re.match(r"flag (--\w+)=None", text):
        return f"{missing[1]} is missing"
    for library, allowed in _NUMBERS.items():
        if found := re.match(rf"flag (--[\w.]+=.*): {library}", text, re.DOTALL):
            return f"{found[1]}: need {allowed}"
    return text


def refuse_empty() -> None:
    """Raises flags.Error if a flag of a file, folder or name was given without a value."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if flag.present and (name in PLACES or name.endswith("dir")) and flag.value in ("", []):
            raise flags.Error(f"--{name}= is empty: give a value, or leave the flag out")


def refuse(names: Iterable[str], why: str) -> None:
    """Raises ValueError if one of these flags was given, which would have no effect."""
    for name in names:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} {why}")


def adapt(name: str, default: object = None, also: str = "") -> None:
    """Gives a shared flag a default of this program, and its help one more sentence."""
    if default is not None:
        flags.FLAGS.set_default(name, default)
    flags.FLAGS[name].help = f"{flags.FLAGS[name].help} {also}".strip()


def numbers(name: str, part: str | None = None) -> list[float]:
    """The numbers of a comma-separated flag, or of a part of it; [] if unset.

    Raises ValueError unless all are finite.
    """
    text = flags.FLAGS[name].value if part is None else part
    with contextlib.suppress(ValueError):
        found = [float(part) for part in text.split(",")] if text else []
        if all(map(math.isfinite, found)):
            return found
    raise ValueError(f"--{name}={text}: need finite numbers, separated by commas")


def whole_numbers(name: str) -> list[int]:
    """As `numbers`, but integers."""
    found = numbers(name)
    if not all(number.is_integer() for number in found):
        raise ValueError(f"--{name}={flags.FLAGS[name].value}: need integers")
    return [int(number) for number in found]


def one_number(name: str) -> float:
    """The number of a flag; ValueError for none or several."""
    found = numbers(name)
    if len(found) != 1:
        raise ValueError(f"--{name}={flags.FLAGS[name].value}: give one number")
    return found[0]


def profile_steps(text: str | None) -> tuple[int, int] | None:
    """First and last step of a value of --profile_steps; ValueError unless it has that form."""
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        first, last = map(int, text.split(":"))
        if 1 <= first <= last:
            return first, last
    raise ValueError(f"--profile_steps={text}: give FIRST:LAST, such as 10:20 for steps 10 to 20")
