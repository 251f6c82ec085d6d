"""A watchdog that ends a stuck process.

The training loop calls `feed` after every step. If no call comes within the timeout, the watchdog
prints all thread stacks to standard error and exits with code 1. Other processes then miss the
heartbeats of this process and exit too. Heartbeats alone do not detect a hung process, because it
still sends them.

    timeout = PATIENCE * seconds    before the first step, and while any process may compile,
                                    save or draw
    timeout = seconds               otherwise

The watchdog is a C thread, which runs even if a Python thread never releases the interpreter lock.
"""

import contextlib
import faulthandler
import sys
from collections.abc import Callable, Iterator

PATIENCE = 10


@contextlib.contextmanager
def armed(seconds: float) -> Iterator[Callable[[bool], None]]:
    """Yields `feed(patient)`, to call after every step; 0 seconds disables the watchdog.

    The timeout until the next call is PATIENCE * seconds if `patient`, else `seconds`.
    """

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
