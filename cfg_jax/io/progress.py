"""Progress of a loop: one bar at the bottom of a terminal, plain lines elsewhere.

While the bar is shown, sys.stdout, sys.stderr and absl's log write whole lines above it. A loop
inside another one shows its count at the end of the outer bar instead of a second bar.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from absl import logging
from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
SECONDS_WITHOUT_LEFT = 3.0
"""Time in which the rate is too uncertain: the first steps are queued faster than they are made."""

_T = TypeVar("_T")


class Progress:
    """Counts up to a total. A context manager.

    Rate and time left are those since the end of the first item, which may include compilation.

    Args:
      start, total: count at the start and at the end.
      unit: name of the counted item, such as "image".
      lines: whether to print a line every 10 s without a terminal, and a last one after others.
      first: text shown during the first item, such as "compiling".
    """

    _shown: "list[Progress]" = []
    """Active loops on the terminal, outermost first."""

    def __init__(
        self, start: int, total: int, unit: str = "step", *, lines: bool = True, first: str = ""
    ):
        self._done, self._total, self._unit = start, total, unit
        self._said, self._note, self._lines = first, "", lines
        self._counted = False  # whether the first item is finished
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> "Progress":
        self._began = self._printed = time.monotonic()
        self._start, self._any_line = self._done, False
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm | None = None
        if self._terminal:
            self._shown.append(self)
            self._resources.callback(self._shown.remove, self)
            if len(self._shown) == 1:
                self._bar = self._resources.enter_context(_bar(self._done, self._total, self._unit))
            self._show()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._resources.close()
        if self._terminal and self._shown:
            self._shown[0]._set_note("")

    def advance(self, count: int = 1) -> None:
        """Adds `count`."""
        self._done += count
        if not self._counted:
            self._counted, self._said = True, ""
            self._start, self._began = self._done, time.monotonic()
        if self._bar:
            self._bar.desc = self._text()
            self._bar.update(count)
        elif self._terminal:
            self._show()
        elif self._lines:
            self._print_if_due()

    def report(self, text: str) -> None:
        """Shows `text` and the time left beside the bar, or prints a line with the count, too."""
        self._said = text
        if self._terminal:
            self._show()
        else:
            print(f"{self._unit} {self._done}/{self._total}  {self._text()}".rstrip(), flush=True)

    def _print_if_due(self) -> None:
        now = time.monotonic()
        waited = now - self._printed > SECONDS_BETWEEN_LINES
        if self._any_line if self._done == self._total else waited:
            self._printed, self._any_line = now, True
            self.report("")

    def _show(self) -> None:
        if self._bar:
            self._bar.set_description_str(self._text())
        else:
            self._shown[0]._set_note(
                f"{self._unit} {self._done}/{self._total} {self._said}".rstrip()
            )

    def _set_note(self, note: str) -> None:
        self._note = note
        self._show()

    def _text(self) -> str:
        seconds = time.monotonic() - self._began
        rate = (self._done - self._start) / max(seconds, 1e-9)
        said = self._said or (_speed(rate, self._unit) if rate else "")
        rest = self._total - self._done
        told = rate and rest > 0 and seconds > SECONDS_WITHOUT_LEFT
        left = f"{duration(rest / rate)} left" if told else ""
        note = f"[{self._note}]" if self._note else ""
        return "  ".join(filter(None, (said, left, note)))


def track(items: Sequence[_T], unit: str, first: str = "compiling") -> Iterator[_T]:
    """Iterates over the items with `Progress`."""
    with Progress(0, len(items), unit, first=first) as progress:
        for item in items:
            yield item
            progress.advance()


def _speed(rate: float, unit: str) -> str:
    if rate < 1:
        return f"{1 / rate:.1f} s/{unit}"
    return f"{rate:.1f} {unit}{'es' if unit.endswith('ch') else 's'}/s"


def duration(seconds: float) -> str:
    """A duration in the largest unit of which it has at least two."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.{int(seconds < 10 * size)}f} {unit}"
    return f"{seconds:.0f} s"


class _Above:
    """A standard stream whose lines appear above a bar, each once it is complete."""

    def __init__(self, stream: Any, bar: tqdm):
        self._stream, self._bar, self._held = stream, bar, ""

    def write(self, text: str) -> int:
        with self._bar.get_lock():
            lines, newline, self._held = (self._held + text).rpartition("\n")
            if newline:
                self._bar.clear(nolock=True)
                self._stream.write(lines + newline)
                self._stream.flush()
                self._bar.refresh(nolock=True)
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Nothing, since complete lines are flushed."""

    def finish(self) -> None:
        """Writes an incomplete line."""
        if self._held:
            self.write("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _columns() -> int:
    """Width of the terminal of standard error; 0 if the terminal does not know it."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # a stream without a file
        return 80


@contextlib.contextmanager
def _bar(start: int, total: int, unit: str) -> Iterator[tqdm]:
    """A bar, above which the standard streams write inside the context."""
    own = {"out": sys.stdout, "err": sys.stderr}
    handler = logging.get_absl_handler().python_handler
    columns = _columns()
    width = 24 if columns >= 100 else 10
    # Without a width tqdm draws nothing.
    bar = tqdm(
        initial=start,
        total=total,
        unit=unit,
        **({"dynamic_ncols": True} if columns else {"ncols": 80, "nrows": 24}),
        bar_format="{unit} {n_fmt}/{total_fmt} {percentage:3.0f}%|{bar:"
        + str(width)
        + "}|  {desc}",
    )
    above = {name: _Above(stream, bar) for name, stream in own.items()}
    logs_to = handler.stream
    sys.stdout, sys.stderr = above["out"], above["err"]
    if logs_to in own.values():
        handler.setStream(above["err" if logs_to is own["err"] else "out"])
    try:
        yield bar
    finally:
        handler.setStream(logs_to)
        for stream in above.values():
            stream.finish()
        sys.stdout, sys.stderr = own["out"], own["err"]
        bar.close()
