"""Standard streams of a program: closed, full or broken ones do not end it."""

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Any

from absl import logging

# Control characters in a name could change the terminal, and lone surrogates cannot be written; a
# tab and the ends of lines stay. As in cfg_jax.io.text, whose package would import JAX.
_SHOWN = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CURSOR_UP = "\x1b[A"
for _kept in "\t\n\r":
    del _SHOWN[ord(_kept)]
_DIRECTION = (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_SHOWN |= {code: f"\\u{code:04x}" for code in (*_DIRECTION, *range(0xD800, 0xE000))}


class Stream:
    """A standard stream whose write errors are kept instead of raised.

    Control characters are written as "\\x1b", those of direction as "\\u202e".

    Attributes:
      failed: the last error of a write, or None.
    """

    def __init__(self, stream: Any, on_failure: Any = None):
        self._stream, self._on_failure = stream, on_failure
        self.failed: OSError | None = None

    def write(self, text: str) -> int:
        # tqdm moves the cursor for a second bar.
        parts = [part.translate(_SHOWN) for part in text.split(_CURSOR_UP)]
        self._try(lambda: self._stream.write(_CURSOR_UP.join(parts)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Any) -> None:
        try:
            act()
        except OSError as error:
            first, self.failed = self.failed is None, error
            if first and self._on_failure:
                self._on_failure(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect() -> None:
    """Replaces stdout and stderr, and connects any closed stream to the null device.

    Otherwise the next file that is opened would have the number of the closed stream, and libraries
    would write messages into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))
    sys.stderr = Stream(sys.stderr)
    # It took the old stream when absl was imported, and file names are logged too.
    logging.get_absl_handler().python_handler.setStream(sys.stderr)

    def tell(error: OSError) -> None:
        print(
            f"warning: standard output cannot be written ({error.strerror}): going on without it",
            file=sys.stderr,
        )

    sys.stdout = Stream(sys.stdout, tell)


def finish() -> OSError | None:
    """Flushes standard output; returns its last error, or None if all was written."""
    sys.stdout.flush()
    failed = getattr(sys.stdout, "failed", None)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(getattr(sys, name), "failed", None):
            # What is still in a buffer would fail again when Python exits.
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, number)
    return failed
