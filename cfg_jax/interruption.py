"""Was this run asked to stop?

A scheduler that wants its machine back sends SIGTERM and waits a little before it kills. Without
`jax.distributed` a handler of our own notes the signal. With it JAX's notes it, and all processes
agree on the step to stop at, whichever of them was told. One of the two is at work and never both:
a handler installed after JAX's takes the signal from it, one installed before is replaced.

    exit code 75    stopped when asked, all work saved; the same command goes on (EX_TEMPFAIL)

What a stop saves is `training_loop`'s.
"""

import contextlib
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
def watched() -> Iterator[Callable[[int], bool]]:
    """Gives `asked_to_stop(step) -> bool`; inside, SIGTERM no longer ends the process by itself.

    Every process calls it once after every step, with the same steps. It turns True on all of them
    at the same step, and stays so however often the signal comes. Outside the main thread, which
    alone may handle signals, nothing is watched and the answer is False.
    """
    if jax.distributed.is_initialized():
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    signals = []  # a lock, as in threading.Event, could be held by the code that is interrupted
    previous = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    try:
        yield lambda step: bool(signals)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)
