"""Profiler trace of some training steps, for Perfetto and XProf.

    trace = profile.Trace(workdir / "profile", (10, 20))

Process 0 alone is traced, with all its devices. A failed trace logs a warning; the run
continues.
"""

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
from absl import logging

from cfg_jax.core.arguments import whole
from cfg_jax.io.files import in_bucket
from cfg_jax.runtime import processes

_P = ParamSpec("_P")
_T = TypeVar("_T")

STEP = "train"
"""Name of the annotation around each step; `step_num` is the step."""

Steps = tuple[int, int]
"""First and last traced step, counted from 1."""

MAX_STEPS = 100
"""Largest number of traced steps, since a trace is kept in memory until it is written."""


def check(steps: Steps | None, num_steps: int) -> None:
    """Raises ValueError unless `steps` is None or at most MAX_STEPS steps of a run."""
    if steps is None:
        return
    first, last = (whole("profile_steps", step) for step in steps)
    if not 1 <= first <= last <= num_steps:
        raise ValueError(
            f"profile_steps={first}:{last}: give FIRST:LAST with 1 <= FIRST <= LAST <= {num_steps},"
            " the last step of the run"
        )
    if last - first >= MAX_STEPS:
        raise ValueError(
            f"profile_steps={first}:{last}: give at most {MAX_STEPS} steps, since the trace is kept"
            " in memory until it is written"
        )


def still_ahead(steps: Steps | None, start: int) -> Steps | None:
    """`steps`, or None with a warning if the run resumes after the first of them.

    A warning and no error, because the same command has to resume an interrupted run.
    """
    if steps is None or steps[0] > start:
        return steps
    if processes.is_first():
        logging.warning(
            "profile_steps=%d:%d: no step is traced, since the run resumes from step %d",
            *(*steps, start),
        )
    return None


def shown_as(name: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorator of a function whose calls a trace shows as `name`."""
    return functools.partial(jax.profiler.annotate_function, name=name)


def annotated(items: Iterable[_T], name: str) -> Iterator[_T]:
    """The items; a trace shows the time spent waiting for each item as `name`."""
    iterator, end = iter(items), object()
    following: Callable[[], Any] = shown_as(name)(lambda: next(iterator, end))
    # An array has no single answer to `==`, which iter(following, end) would ask for.
    while (item := following()) is not end:
        yield item


class Trace:
    """Trace of the steps first..last, which `step` surrounds. A context manager.

    `folder` gets `plugins/profile/TIME/` with `perfetto_trace.json.gz` and `*.xplane.pb`. Leaving
    the context ends a trace that is still running, and writes it.
    """

    def __init__(self, folder: Path, steps: Steps | None):
        self._folder, self._steps = folder, steps
        self._running = contextlib.ExitStack()

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def ends_at(self, step: int) -> bool:
        """Whether `step` is the last traced step; the same in every process."""
        return self._steps is not None and step == self._steps[1]

    def step(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """Context for the calls of `step`; starts the trace before its first step."""
        if self._steps is not None and step == self._steps[0] and processes.is_first():
            with _costs_a_warning():
                self._running.enter_context(_traced(self._folder))
        return jax.profiler.StepTraceAnnotation(STEP, step_num=step)

    def end(self) -> None:
        """Writes the trace if one is running; call this once its last step has finished."""
        with _costs_a_warning():
            self._running.close()


@contextlib.contextmanager
def _traced(folder: Path) -> Iterator[None]:
    """Context that is traced; the files are in `folder` afterwards."""
    with contextlib.ExitStack() as held:
        # The profiler cannot write to buckets.
        apart = in_bucket(folder)
        local = Path(held.enter_context(tempfile.TemporaryDirectory())) if apart else folder
        options = jax.profiler.ProfileOptions()
        # Recording every Python call would slow down the host, whose gaps the trace is to show.
        options.python_tracer_level = 0
        with jax.profiler.trace(str(local), create_perfetto_trace=True, profiler_options=options):
            yield
        for path in local.rglob("*") if apart else ():
            if path.is_file():
                copy = folder / path.relative_to(local).as_posix()
                copy.parent.mkdir(parents=True, exist_ok=True)
                with path.open("rb") as read, copy.open("wb") as write:
                    shutil.copyfileobj(read, write)
    print(f"trace written to {folder}", flush=True)


@contextlib.contextmanager
def _costs_a_warning() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # profilers of backends, disks and buckets raise many types
        logging.warning("no trace of steps: %s", error)
