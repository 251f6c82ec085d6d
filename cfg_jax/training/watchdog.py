"""A watchdog that ends a stuck process.

A process blocked on a hung peer blocks forever, because the hung peer still sends heartbeats. A
watchdog that is not fed in time prints the stacks of all threads to standard error and exits with
code 1; the peers then miss the heartbeats of this process.

    timeout = seconds, times PATIENCE at first and if this process or a peer may compile, save, draw

It is a C thread, which runs even if a Python thread never releases the interpreter lock.
"""

import contextlib
import faulthandler
import sys
from collections.abc import Callable, Iterator

PATIENCE = 10


@contextlib.contextmanager
def armed(seconds: float) -> Iterator[Callable[[bool], None]]:
    """Yields `feed(patient)`, to call after every step; 0 seconds disables the watchdog."""

    def feed(patient: bool) -> None:
        if seconds:
            # sys.stderr has no file descriptor in a notebook.
            file = sys.__stderr__ or sys.stderr
            timeout = seconds * PATIENCE if patient else seconds
            faulthandler.dump_traceback_later(timeout, exit=True, file=file)

    feed(True)
    try:
        yield feed
    finally:
        if seconds:
            faulthandler.cancel_dump_traceback_later()
