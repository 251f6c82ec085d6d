"""Comparison of two recorded runs; exits with 1 if a program became slower.

    python benchmarks/compare.py OLD.json NEW.json [--allowed=0.1]

Where a run timed a rival, the ratio ours / rival is compared, so files of different machines may be
compared. Seconds of a program without a rival are compared only between runs of one machine. If a
file is not a record, or if nothing can be compared, the exit code is 2.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.recording import OURS, TIMES, read  # noqa: E402

Record = Mapping[str, Any]


class Change(NamedTuple):
    """A program in both files: its cost against `rival`, or alone if that is ""."""

    program: str
    rival: str
    old: float
    new: float

    @property
    def ratio(self) -> float:
        """Above 1 if the program got slower."""
        return self.new / self.old

    def line(self, measure: str) -> str:
        what = f"{self.program}: ours / {self.rival}" if self.rival else self.program
        return f"{what}, {measure}: {self.old:.4g} -> {self.new:.4g}, times {self.ratio:.2f}"


def changes(old: Record, new: Record) -> Iterator[Change]:
    """A change for each program and rival in both records.

    Raises ValueError if the records are of different benchmarks, settings or measures.
    """
    for field in ("name", "settings", "compared"):
        if old[field] != new[field]:
            raise ValueError(
                f"files of different {field}, {old[field]} and {new[field]}: give two runs of one "
                "benchmark with the same settings"
            )
    measure = old["compared"]
    for program, rows in old["measurements"].items():
        fresh = new["measurements"].get(program, {})
        both = [name for name in rows if name in fresh]
        if OURS not in both:
            continue
        before, after = rows[OURS][measure], fresh[OURS][measure]
        rivals = [name for name in both if name != OURS]
        for rival in rivals:
            yield Change(
                program, rival, before / rows[rival][measure], after / fresh[rival][measure]
            )
        if not rivals and (measure not in TIMES or old["machine"] == new["machine"]):
            yield Change(program, "", before, after)


def differences(old: Record, new: Record) -> Iterator[str]:
    """Lines about what else may explain a change, and about what is not compared."""
    for name in sorted({*old["versions"], *new["versions"]}):
        before, after = (record["versions"].get(name, "none") for record in (old, new))
        if before != after:
            yield f"{name}: {before} -> {after}"
    for field in ("machine", "xla_flags"):
        if old[field] != new[field]:
            yield f"{field}: {old[field]!r} -> {new[field]!r}"
    compared = {(change.program, change.rival) for change in changes(old, new)}
    for program, rows in old["measurements"].items():
        for rival in [name for name in rows if name != OURS] or [""]:
            if (program, rival) not in compared:
                against = f" against {rival}" if rival else ""
                yield f"not compared: {program}{against}"


def slower(found: list[Change], allowed: float) -> list[Change]:
    """Changes by more than the allowed fraction, largest first."""
    return sorted((c for c in found if c.ratio > 1 + allowed), key=lambda c: -c.ratio)


def fraction(text: str) -> float:
    """The type of --allowed."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: need a finite number of at least 0")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", help="JSON file of the earlier run")
    parser.add_argument("new", help="JSON file of the later run")
    parser.add_argument(
        "--allowed", type=fraction, default=0.1, help="fraction by which a ratio may rise"
    )
    given = parser.parse_args()
    try:
        old, new = read(given.old), read(given.new)
        found = list(changes(old, new))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for line in differences(old, new):
        print(line)
    if not found:
        print("error: nothing to compare in these files", file=sys.stderr)
        sys.exit(2)
    worse = slower(found, given.allowed)
    for change in worse:
        print(f"slower: {change.line(old['compared'])}")
    print(f"{len(worse)} of {len(found)} comparisons slower by more than {given.allowed:.0%}")
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
