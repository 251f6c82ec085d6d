"""Was this run asked to stop?

A scheduler that wants its machine back sends SIGTERM and waits a little before it kills. Without
`jax.distributed` a handler of our own notes the signal. With it JAX's notes it, and all processes
agree on the step to stop at, whichever of them got the signal. Never both: a handler installed
after JAX's takes the signal from it, one installed before is replaced.

    exit code 75    stopped when asked, all work saved; the same command goes on (EX_TEMPFAIL)
"""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75


class Interrupted(SystemExit):
    """A run that stopped because it was asked to; uncaught, it ends the process with EXIT_CODE.

    step: the last one done, which is saved.
    """

    def __init__(self, step: int):
        super().__init__(EXIT_CODE)
        self.step = step


@contextlib.contextmanager
def watched() -> Iterator[Callable[[], bool]]:
    """Gives `asked_to_stop() -> bool`; inside, SIGTERM no longer ends the process by itself.

    Every process calls it once after every step. It turns True on all of them at the same call, and
    stays so. Outside the main thread, which alone may handle signals, and in connected processes
    whose `jax_enable_preemption_service` is off, the answer is always False.
    """
    connected = jax.distributed.is_initialized()
    if connected and jax.config.jax_enable_preemption_service:
        # After an early signal the processes agree on question 1: a resumed run counts from 1 too.
        questions = itertools.count(1)
        yield lambda: multihost_utils.reached_preemption_sync_point(next(questions))
        return
    if connected or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signals = []  # a lock, as in threading.Event, could be held by the code that is interrupted
    previous = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    try:
        yield lambda: bool(signals)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)
