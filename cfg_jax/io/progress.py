"""Progress of a loop: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0

_T = TypeVar("_T")


class Progress:
    """Counts up to a total. A context manager.

    Args:
      start, total: count at the start and at the end.
      unit: name of the counted item, such as "image".
      lines: whether to print rate and time left without a terminal, every 10 s and at the end.
    """

    def __init__(self, start: int, total: int, unit: str = "step", *, lines: bool = False):
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            initial=start, total=total, unit=unit, dynamic_ncols=True, disable=not self._terminal
        )
        self._start, self._done, self._total, self._unit = start, start, total, unit
        self._lines = lines and not self._terminal
        self._begun = self._printed = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Adds `count`."""
        self._bar.update(count)
        self._done += count
        if not self._lines:
            return
        now = time.monotonic()
        if now - self._printed > SECONDS_BETWEEN_LINES or self._done == self._total:
            self._printed = now
            rate = (self._done - self._start) / max(now - self._begun, 1e-9)
            left = (self._total - self._done) / rate
            self.report(f"{rate:.1f} {self._unit}s/s  {left:.0f} s left")

    def report(self, text: str) -> None:
        """Shows `text` beside the bar, or prints a line with the count and `text`."""
        if self._terminal:
            self._bar.set_postfix_str(text)
        else:
            print(f"{self._unit} {self._done}/{self._total}  {text}", flush=True)


def track(items: Sequence[_T], unit: str) -> Iterator[_T]:
    """Iterates over the items, with a bar on a terminal."""
    with Progress(0, len(items), unit) as progress:
        for item in items:
            yield item
            progress.advance()
