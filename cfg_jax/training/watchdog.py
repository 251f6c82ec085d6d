"""Is this process stuck?

A process blocked on a hung peer blocks forever, because the hung peer still sends heartbeats. So a
watchdog that is not fed in time prints the stacks of all threads to standard error and ends the
process with code 1; its peers then miss its heartbeats.

    patience    `seconds` from one feeding to the next, PATIENCE times that where compiling, saving
                or drawing lies between, here or in a peer

It is a thread outside Python, which works even where a thread never releases the interpreter.
"""

import contextlib
import faulthandler
import sys
from collections.abc import Callable, Iterator

PATIENCE = 10


@contextlib.contextmanager
def armed(seconds: float) -> Iterator[Callable[[bool], None]]:
    """Gives `feed(patient)`, to be called after every step; no watchdog where seconds is 0.

    The first wait is a patient one.
    """

    def feed(patient: bool) -> None:
        if seconds:
            # Not sys.stderr: a notebook's has no file behind it.
            faulthandler.dump_traceback_later(
                seconds * PATIENCE if patient else seconds, exit=True, file=sys.__stderr__
            )

    feed(True)
    try:
        yield feed
    finally:
        if seconds:
            faulthandler.cancel_dump_traceback_later()
