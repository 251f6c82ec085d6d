"""Ctrl-C: one line and exit code 130 at any time, never a traceback.

SIGINT ends the process at once, without an exception, until a program works: Python prints or
swallows a KeyboardInterrupt that is raised while modules are imported or while it exits. Inside
`cleaned_up` it is raised, so that unfinished files are removed; a second SIGINT ends at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 130


def at_once() -> None:
    """Makes SIGINT end this process at once; leaves it ignored where it is, as in a background."""
    _handle(signal.getsignal(signal.SIGINT), _end)


@contextlib.contextmanager
def cleaned_up() -> Iterator[None]:
    """Context in which the first SIGINT raises KeyboardInterrupt, unless modules are imported."""
    previous = signal.getsignal(signal.SIGINT)
    _handle(previous, _raise)
    try:
        yield
    finally:
        _handle(signal.getsignal(signal.SIGINT), previous)


def _handle(now: object, handler: object) -> None:
    """Installs a handler where one of Python or of this module is, in the main thread."""
    ours = (signal.default_int_handler, _end, _raise)
    if now in ours and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    if _imports(frame):
        _end(number, frame)
    signal.signal(signal.SIGINT, _end)
    raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported in this frame or one that called it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, b"error: interrupted\n")
    os._exit(EXIT_CODE)
