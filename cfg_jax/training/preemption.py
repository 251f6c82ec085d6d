"""Stopping on SIGTERM, SIGHUP or Ctrl-C, after the same step in every process.

A scheduler sends SIGTERM some seconds before it kills a process, a closed terminal SIGHUP. Without
`jax.distributed` this module's handler records the signal. With `jax.distributed` JAX's handler
records SIGTERM, and all processes agree on a step; SIGHUP is passed on as SIGTERM. Only one handler
of a signal is used, because the one installed later replaces the other.

    exit code 75    stopped on request, all work saved; the same command resumes (EX_TEMPFAIL)
    exit code 130   the same after Ctrl-C; a second one ends the process at once
"""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75
OF_CTRL_C = 130


class Interrupted(SystemExit):
    """Stop on request after the saved step `step`; if not caught, exits with the code."""

    def __init__(self, step: int, code: int = EXIT_CODE):
        super().__init__(code)
        self.step = step


@contextlib.contextmanager
def watched() -> Iterator[Callable[[], bool]]:
    """Yields `asked_to_stop() -> bool`; a signal that is watched does not end the process.

    Every process calls `asked_to_stop` once after every step. The result turns True in all
    processes at the same call and stays True. The result is False outside the main thread, which
    alone may handle signals, and in connected processes with `jax_enable_preemption_service` off.
    SIGHUP stays ignored where it is, as under `nohup`. SIGINT is watched if the program has a
    handler of its own; elsewhere, as in a notebook, it raises KeyboardInterrupt.
    """
    connected = jax.distributed.is_initialized()
    options: Any = jax.config  # jax adds its options as attributes at run time
    if connected and options.jax_enable_preemption_service:
        # Counts from 1 in a resumed run too: after an early signal the processes agree on 1.
        questions = itertools.count(1)
        with _handled({signal.SIGHUP}, lambda *_: os.kill(os.getpid(), signal.SIGTERM)):
            yield lambda: multihost_utils.reached_preemption_sync_point(next(questions))
        return
    if connected or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signals = []  # not threading.Event: the interrupted code may hold its lock
    record = lambda number, frame: signals.append(number)  # noqa: E731
    try:
        with _handled({signal.SIGTERM, signal.SIGHUP}, record), _first_ctrl_c(record):
            yield lambda: bool(signals)
    except Interrupted as stop:
        stop.code = OF_CTRL_C if signals == [signal.SIGINT] else stop.code
        raise


@contextlib.contextmanager
def _first_ctrl_c(record: Callable[..., None]) -> Iterator[None]:
    """Context in which `record` handles the first SIGINT, if a program handles that signal."""
    program = signal.getsignal(signal.SIGINT)
    if program in (None, signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler):
        yield
        return

    def handler(number: int, frame: Any) -> None:
        record(number, frame)
        signal.signal(signal.SIGINT, program)
        # Not print: the interrupted code may be printing.
        os.write(2, b"\nsaving the step; Ctrl-C once more ends at once, without it\n")

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, program)


@contextlib.contextmanager
def _handled(numbers: set[signal.Signals], handler: Callable[..., None]) -> Iterator[None]:
    """Context in which `handler` handles these signals, SIGHUP unless it is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers = numbers - {signal.SIGHUP}
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
