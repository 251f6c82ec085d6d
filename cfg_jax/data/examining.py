"""Examples that cannot be read: found by reading all once, then reported or left out."""

import collections
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from absl import logging

from cfg_jax.data.sources import ImageSource, Source
from cfg_jax.io.progress import Progress
from cfg_jax.io.text import one_line

ON_ERROR = ("raise", "skip")
_MOST_NAMED = 5
_AT_ONCE = 256  # items that wait in the threads' queue

_T = TypeVar("_T")
_R = TypeVar("_R")


class Report(NamedTuple):
    """All examples of a source, each read once.

    counts: number of readable examples of every class.
    bad: {index: reason} of the others.
    """

    counts: dict[str, int]
    bad: dict[int, str]

    def __str__(self) -> str:
        width = max(map(len, self.counts))
        lines = [f"  {name:{width}}  {count:>9,}" for name, count in self.counts.items()]
        total = sum(self.counts.values())
        lines.insert(0, f"{total:,} examples in {len(self.counts)} classes can be read")
        if empty := [name for name, count in self.counts.items() if not count]:
            lines.append(f"without an example: {', '.join(empty)}")
        lines.append(f"{len(self.bad):,} cannot be read")
        return "\n".join([*lines, *(f"  {reason}" for reason in self.bad.values())])


def read_all(function: Callable[[_T], _R], items: Sequence[_T], unit: str) -> list[_R]:
    """function(item) of every item, in threads and with a progress bar."""
    found: list[_R] = []
    with ThreadPoolExecutor() as threads, Progress(0, len(items), unit) as progress:
        for start in range(0, len(items), _AT_ONCE):
            found += threads.map(function, items[start : start + _AT_ONCE])
            progress.advance(len(found) - start)
    return found


def examine(source: Source) -> Report:
    """Reads every example of a source once."""

    def label(index: int) -> int | str:
        try:
            return int(source[index]["label"])
        except Exception as error:  # a source of the caller's raises anything
            return f"example {index}: {one_line(error.__cause__ or error)}"

    found = read_all(label, range(len(source)), "example")
    labels = collections.Counter(result for result in found if isinstance(result, int))
    return Report(
        counts={name: labels[k] for k, name in enumerate(source.label_names)},
        bad={i: result for i, result in enumerate(found) if isinstance(result, str)},
    )


def readable(source: ImageSource, bad: Mapping[int, str], on_error: str) -> ImageSource:
    """The source without its bad examples, {index: reason}.

    `on_error` is "raise" for a ValueError or "skip" for a warning that counts and names them; at
    least one example must be left.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}: give one of {', '.join(ON_ERROR)}")
    if not bad:
        return source
    text = f"{len(bad)} of {len(source)} examples of {source.name} {source.split} cannot be read"
    text += f" ({some(list(bad.values()))})"
    if on_error == "raise" or len(bad) == len(source):
        raise ValueError(f"{text}: replace them, or leave them out with config.data.on_error=skip")
    logging.warning("%s and are left out", text)
    return source.without(bad)


def some(items: Sequence[str]) -> str:
    """The first items, and the number of the others."""
    rest = len(items) - _MOST_NAMED
    return "; ".join(items[:_MOST_NAMED]) + (f"; and {rest} more" if rest > 0 else "")
