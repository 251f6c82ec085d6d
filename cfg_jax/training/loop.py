"""The training loop: steps, and the metrics, checkpoints and previews between them.

Batch and noise of step k are functions of (seed, k), so a resumed run makes the same steps as an
uninterrupted one. Every process runs the loop; process 0 alone logs, prints and draws previews.
"""

import collections
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.config.validate import to_json
from cfg_jax.runtime import devices, processes
from cfg_jax.sampling import strips
from cfg_jax.sampling.model import Model
from cfg_jax.storage.checkpoint import Checkpoints, SaveError
from cfg_jax.training import journal, preemption, profile
from cfg_jax.training.placement import Placement
from cfg_jax.training.step import TrainState

# Number of steps whose metrics stay on the devices: waiting for each step would leave them idle.
STEPS_IN_FLIGHT = 2


class Run(NamedTuple):
    """The constants of a run; `order[k]` is the batch of step k + 1."""

    config: ConfigDict
    workdir: Path
    source: data.Source
    order: Any
    task: build.Experiment | build.ClassifierExperiment
    class_counts: tuple[int, ...] | None

    def meta(self) -> dict[str, Any]:
        """Metadata of the data for a checkpoint, as JSON values."""
        return {"data": self.form() | {"fingerprint": self.source.fingerprint()}}

    def form(self) -> dict[str, Any]:
        """Shape, class names and class sizes of the data, as a `Model` takes them."""
        return {
            "shape": self.source.shape,
            "label_names": self.source.label_names,
            "class_counts": self.class_counts,
        }


class Due(NamedTuple):
    """Actions due between a step and the next one.

    first: the step was the first since the start and included compilation.
    log, save, preview: log metrics, save a checkpoint, draw a preview.
    end: make no further step.
    stop: make no further step although some are left.
    """

    first: bool
    log: bool
    save: bool
    preview: bool
    end: bool
    stop: bool


def due_after(step: int, *, start: int, train: ConfigDict, asked_to_stop: bool, draws: bool) -> Due:
    """Actions due after `step`.

    The run began at or resumed from `start`; `train` is config.train. `asked_to_stop` requests a
    stop with a checkpoint and without a preview; `draws` allows previews.
    """
    last = step == train.num_steps
    stop = asked_to_stop and not last
    end = last or stop
    preview = draws and train.preview_every > 0 and not stop
    return Due(
        first=step == start + 1,
        log=end or step % train.log_every == 0,
        save=end or step % train.checkpoint_every == 0,
        preview=preview and (last or step % train.preview_every == 0),
        end=end,
        stop=stop,
    )


class Loop:
    """All steps from `start` to config.train.num_steps, and the work between them.

    `placement` is that of the state. `watchdog.armed` yields `feed`; `preemption.watched` yields
    `asked_to_stop`, called once after every step. `profile_steps` are the first and the last step
    of a trace, or None. Raises FloatingPointError, SaveError and preemption.Interrupted as
    `run.train`.
    """

    def __init__(
        self,
        run: Run,
        checkpoints: Checkpoints,
        start: int,
        *,
        placement: Placement,
        feed: Callable[[bool], None],
        asked_to_stop: Callable[[], bool],
        profile_steps: profile.Steps | None = None,
    ):
        self.run, self.checkpoints, self.start = run, checkpoints, start
        self.placement = placement
        self.feed, self.asked_to_stop = feed, asked_to_stop
        self.trace = profile.Trace(run.workdir / "profile", profile_steps)
        self.total = run.config.train.num_steps
        self.in_flight: collections.deque[tuple[int, dict]] = collections.deque()
        self.logged = _Window()
        self.since_checkpoint = _Window()
        self.skipped_in_row = 0
        self.slow = start
        self.seconds_at_peak = 0.0
        self.model: Model | None = None

    def __call__(self, state: TrainState, step_fn: Callable) -> None:
        threads = self.run.config.data.num_threads
        ahead = data.iterate(self.run.order, self.start, num_threads=threads)
        batches = devices.prefetch(itertools.islice(ahead, max(self.total - self.start, 0)))
        batches = profile.annotated(batches, "next batch")
        step = self.start
        config, workdir = self.run.config, self.run.workdir
        with self.trace, journal.opened(config, workdir, self.start) as self.journal:
            self.feed(True)
            for step, batch in enumerate(batches, self.start + 1):
                with self.trace.step(step):
                    state, metrics = step_fn(state, batch)
                due = self._between(step, metrics)
                if due.first:
                    self._write_first(step_fn, state, batch)
                if due.log:
                    self._write_log(step)
                with self.logged.paused():
                    if self.trace.ends_at(step):
                        self.trace.end()
                    if due.save:
                        self._save(step, state, due.end)
                    if due.preview:
                        self._preview(step, state)
                if due.stop:
                    break
        if step < self.total:
            self.journal.print(
                f"stop requested: step {step} of {self.total} saved, start again to resume"
            )
            raise preemption.Interrupted(step)
        self.journal.print(f"step {step} of {self.total} done, in {self.run.workdir}")

    def _between(self, step: int, metrics: dict) -> Due:
        """Queues the metrics of `step`, feeds the watchdog and returns the actions due."""
        task = self.run.task
        due = due_after(
            step,
            start=self.start,
            train=self.run.config.train,
            asked_to_stop=self.asked_to_stop(),
            # An upsampler would need a small image.
            draws=task.draws and not task.low_res_size,
        )
        traced = self.trace.ends_at(step)
        if due.first or due.save or due.preview or traced:
            self.slow = step
        # Slow work of a peer blocks this process only when it reads the results of a later step.
        self.feed(step <= self.slow + STEPS_IN_FLIGHT + 1)
        self.in_flight.append((step, metrics))
        # Waits for the steps whose results are needed now, or belong to the trace.
        self._account(0 if due.first or due.log or due.save or traced else STEPS_IN_FLIGHT)
        self.journal.advance()
        return due

    @profile.shown_as("metrics of finished steps")
    def _account(self, keep_in_flight: int) -> None:
        """Adds up metrics of finished steps; raises after too many non-finite steps in a row."""
        limit = self.run.config.train.max_skipped_in_row
        while len(self.in_flight) > keep_in_flight:
            step, metrics = self.in_flight.popleft()
            metrics = jax.device_get(metrics)
            self.logged.add(metrics)
            self.since_checkpoint.add(metrics)
            self.skipped_in_row = self.skipped_in_row + 1 if metrics["skipped"][0] else 0
            if self.skipped_in_row >= limit:
                saved = self.checkpoints.latest_step()
                kept = "no step is saved yet" if saved is None else f"step {saved} is saved"
                raise FloatingPointError(
                    f"loss, gradient or update not finite in steps {step - limit + 1} to {step}, "
                    f"{limit} in a row; {kept}: lower config.optim.learning_rate or check the data"
                )

    def _write_first(self, step_fn: Callable, state: TrainState, batch: Any) -> None:
        seconds = self.logged.seconds()
        self.journal.print(f"first step, including compilation: {seconds:.1f} s")
        train = self.run.config.train
        if processes.is_first() and not train.shard_state:
            parts = train.num_microbatches  # in a loop, whose body counts once
            self.seconds_at_peak = parts * (devices.seconds_at_peak(step_fn, state, batch) or 0.0)
        self.logged.restart_clock()

    @profile.shown_as("log")
    def _write_log(self, step: int) -> None:
        scalars = self.logged.means()
        if rate := self.logged.steps_per_second():
            scalars["images_per_second"] = rate * self.run.config.train.batch_size
            if self.seconds_at_peak:
                scalars["flop_utilisation"] = rate * self.seconds_at_peak
        self.logged.clear()
        self.journal.metrics(step, scalars)

    @profile.shown_as("save")
    def _save(self, step: int, state: TrainState, is_last: bool) -> None:
        loss = self.since_checkpoint.means().get("loss", float("nan"))
        self.since_checkpoint.clear()
        state = self.placement.whole(state)
        try:
            self.checkpoints.save(
                step,
                state.replace(ema_params=None),
                state.ema_params,
                config=to_json(self.run.config),
                meta=self.run.meta(),
                loss=loss,
            )
        except SaveError as error:
            # If several processes write a checkpoint, the others wait for this one's part.
            if jax.process_count() > 1 or (is_last and error.step == step):
                raise
            logging.error("%s", error)
        else:
            self.journal.print(f"saving step {step}")
        if is_last:
            self.checkpoints.wait()

    @profile.shown_as("preview")
    def _preview(self, step: int, state: TrainState) -> None:
        params = self.placement.average(state)
        if not processes.is_first():
            return
        if self.model is None:
            self.model = Model(self.run.config, params, step=step, **self.run.form())
        else:
            self.model = self.model.with_params(params, step)
        weights = self.run.config.train.preview_w if self.model.has_null_label else (0.0,)
        try:
            path = strips.preview(self.model, weights, self.run.workdir / "previews")
            self.journal.preview(step, path)
        except (OSError, FloatingPointError) as error:
            logging.warning("no preview of step %d: %s", step, error)
        self.model = self.model.with_params({}, step)  # frees the memory of the copy


class _Window:
    """Sums of metrics over some steps, and their duration."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Any] | None = None
        self.restart_clock()

    def add(self, metrics: dict) -> None:
        self.sums = metrics if self.sums is None else jax.tree.map(np.add, self.sums, metrics)
        self._steps += 1

    def means(self) -> dict[str, float]:
        """Weighted means; omits a name whose weights are all 0."""
        pairs = (self.sums or {}).items()
        return {name: float(total / weight) for name, (total, weight) in pairs if weight > 0}

    def restart_clock(self) -> None:
        self._steps, self._since = 0, time.monotonic()

    def seconds(self) -> float:
        """Seconds since the last restart, without pauses."""
        return time.monotonic() - self._since

    def steps_per_second(self) -> float:
        """Steps per second; 0 if no step was timed."""
        return self._steps / max(self.seconds(), 1e-9)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock inside."""
        elapsed = self.seconds()
        yield
        self._since = time.monotonic() - elapsed
