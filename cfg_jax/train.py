"""How is a model trained, from a config to checkpoints?

The program around one pmapped step: open the data, restore or create the state, feed batches, log,
save, draw previews. Batch and noise of step k are functions of (seed, k), so a run that is
resumed makes the same steps as one that never stopped.
"""

import collections
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from ml_collections import ConfigDict

from cfg_jax import configuration, data, experiment, generate, parallel
from cfg_jax import keys as keys_lib
from cfg_jax.checkpoint import Checkpoints, SaveError
from cfg_jax.losses import diffusion_loss
from cfg_jax.metric_log import MetricLog, Progress
from cfg_jax.model import Model
from cfg_jax.train_state import (
    LossFn,
    TrainState,
    create_optimizer,
    create_train_state,
    make_train_step,
)

# Near the quartiles of logsnr when u is uniform over +-20: 22.5, 27.5, 27.5 and 22.5 per cent.
LOGSNR_EDGES = (-2.0, 0.0, 2.0)

# Steps whose metrics may still be on the devices: reading one waits for it, and a host that waits
# for every step leaves the devices idle in between.
STEPS_IN_FLIGHT = 2


class Run(NamedTuple):
    """What stays the same during training."""

    config: ConfigDict
    workdir: Path
    source: data.Source
    experiment: experiment.Experiment


def train(config: ConfigDict, workdir: str | Path) -> None:
    """Trains up to config.train.num_steps, from the newest checkpoint in `workdir` if there is one.

    Writes `checkpoints/`, `metrics.jsonl`, `events/` and `previews/` there.

    Raises:
      ValueError: a config that cannot be run, a workdir that cannot be written or holds another
        run, data that is not there; before anything is compiled.
      FloatingPointError: too many steps in a row with a loss or gradient that is not finite.
      SaveError: the last checkpoint could not be written.
    """
    configuration.validate(config, parallel.num_devices())
    run = _open(config, Path(workdir).expanduser())
    optimizer = create_optimizer(
        **{name: value for name, value in config.optim.items() if name != "ema_decay"}
    )

    def create() -> TrainState:
        return create_train_state(run.experiment.init(jax.random.key(config.seed)), optimizer)

    abstract = jax.eval_shape(create)
    _check_writable(run.workdir)
    keep = config.checkpoint
    with Checkpoints(
        run.workdir / "checkpoints",
        keep_latest=keep.keep_latest,
        keep_every=keep.keep_every or None,
        keep_best=keep.keep_best,
    ) as checkpoints:
        state = _restore(run, checkpoints, abstract)
        if state is None:
            state = parallel.replicate(jax.jit(create)())
        step_fn = parallel.pmap_step(make_step(run.experiment, optimizer, config))
        _Loop(run, checkpoints, int(state.step))(state, step_fn)


def make_step(exp: experiment.Experiment, optimizer: optax.GradientTransformation, config):
    """The training step of `config` for one device of a pmap."""
    return make_train_step(
        diffusion_loss_fn(
            exp, p_uncond=config.diffusion.p_uncond, weighting=config.diffusion.weighting
        ),
        optimizer,
        seed=config.seed,
        ema_decay=config.optim.ema_decay,
        num_microbatches=config.train.num_microbatches,
        axis_name=parallel.AXIS,
    )


def diffusion_loss_fn(exp: experiment.Experiment, *, p_uncond: float, weighting: str) -> LossFn:
    """The loss of `diffusion_loss` with what is logged of it.

    Metrics, as (values [b], weights [b]): `eps_mse`; the loss of examples with and without their
    label; the share without; the loss in four bands of logsnr.
    """

    def loss_fn(params, keys, batch):
        loss_keys, dropout_keys = keys_lib.split(keys)
        loss, aux = diffusion_loss(
            loss_keys,
            exp.predict(params, dropout_keys),
            batch["x"],
            batch["labels"],
            schedule=exp.schedule,
            p_uncond=p_uncond,
            null_label=exp.null_label,
            weighting=weighting,
        )
        dropped = aux["dropped"].astype(loss.dtype)
        metrics = {
            "eps_mse": (aux["eps_mse"], jnp.ones_like(loss)),
            "loss_conditional": (loss, 1 - dropped),
            "loss_unconditional": (loss, dropped),
            "drop_rate": (dropped, jnp.ones_like(loss)),
        }
        edges = (-np.inf, *LOGSNR_EDGES, np.inf)
        for low, high in itertools.pairwise(edges):
            inside = (aux["logsnr"] >= low) & (aux["logsnr"] < high)
            metrics[f"loss_logsnr_{low:g}_to_{high:g}"] = (loss, inside.astype(loss.dtype))
        return loss, metrics

    return loss_fn


def _open(config: ConfigDict, workdir: Path) -> Run:
    """The data and the experiment of a config."""
    own = ("name", "split", "data_dir", "image_size", "random_flip", "num_threads")
    options = {name: value for name, value in config.data.items() if name not in own}
    source = data.open_source(
        config.data.name,
        config.data.split,
        data_dir=config.data.data_dir or None,
        image_size=config.data.image_size or None,
        **options,
    )
    exp = experiment.assemble(config, source.shape, source.num_classes)
    return Run(config, workdir, source, exp)


def _meta(run: Run) -> dict[str, Any]:
    """What a checkpoint says of its data."""
    return {
        "data": {
            "shape": run.source.shape,
            "label_names": run.source.label_names,
            "fingerprint": run.source.fingerprint(),
        }
    }


def _check_writable(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"--workdir={workdir} cannot be written ({error.strerror}): give another folder"
        ) from error


def _restore(run: Run, checkpoints: Checkpoints, abstract: TrainState) -> TrainState | None:
    """The state of the newest readable checkpoint; None where there is none."""
    target = parallel.replicated_like(abstract)
    restored = checkpoints.restore_latest(target.replace(ema_params=None), target.ema_params)
    if restored is None:
        return None
    if not run.config.train.allow_config_change:
        configuration.check_same_run(
            {**configuration.to_json(run.config), "meta": _meta(run)},
            {**restored.config, "meta": {"data": restored.meta["data"]}},
            str(run.workdir),
        )
    logging.info("resuming from step %d", restored.step)
    return restored.state.replace(ema_params=restored.ema)


class _Loop:
    """Steps, and what happens between them."""

    def __init__(self, run: Run, checkpoints: Checkpoints, start: int):
        self.run, self.checkpoints, self.start = run, checkpoints, start
        self.total = run.config.train.num_steps
        self.in_flight = collections.deque()
        self.logged = _Window()
        self.since_checkpoint = _Window()
        self.skipped_in_row = 0
        self.model: Model | None = None

    def __call__(self, state: TrainState, step_fn: Callable) -> None:
        config = self.run.config
        order = data.batches(
            self.run.source,
            seed=config.seed,
            batch_size=config.train.batch_size,
            random_flip=config.data.random_flip,
        )
        ahead = data.iterate(order, self.start, num_threads=config.data.num_threads)
        batches = parallel.prefetch(itertools.islice(ahead, max(self.total - self.start, 0)))
        self.log = MetricLog(self.run.workdir, self.start)
        self.progress = Progress(self.start, self.total)
        try:
            for step, batch in enumerate(batches, self.start + 1):
                state, metrics = step_fn(state, batch)
                self._between(step, state, metrics)
        finally:
            self.progress.close()
            self.log.close()

    def _between(self, step: int, state: TrainState, metrics: dict) -> None:
        every, last = self.run.config.train, step == self.total
        self.in_flight.append((step, metrics))
        saving = last or step % every.checkpoint_every == 0
        logging_now = last or step % every.log_every == 0
        first = step == self.start + 1
        self._account(0 if saving or logging_now or first else STEPS_IN_FLIGHT)
        self.progress.advance()
        if first:
            seconds = self.logged.restart_clock()
            logging.info("first step, with compiling: %.1f s", seconds)
        if logging_now:
            self._write_log(step)
        if saving:
            self._save(step, state, last)
        if every.preview_every and (last or step % every.preview_every == 0):
            self._preview(step, state)

    def _account(self, keep_in_flight: int) -> None:
        """Adds up the metrics of finished steps; stops a run of steps that are not finite."""
        limit = self.run.config.train.max_skipped_in_row
        while len(self.in_flight) > keep_in_flight:
            step, metrics = self.in_flight.popleft()
            metrics = jax.device_get(metrics)
            self.logged.add(metrics)
            self.since_checkpoint.add(metrics)
            self.skipped_in_row = self.skipped_in_row + 1 if metrics["skipped"][0] else 0
            if self.skipped_in_row >= limit:
                raise FloatingPointError(
                    f"loss or gradient not finite in steps {step - limit + 1} to {step}, "
                    f"{limit} in a row: the checkpoint of step {self.checkpoints.latest_step()} "
                    "is the last good one; lower config.optim.learning_rate or look at the data"
                )

    def _write_log(self, step: int) -> None:
        scalars = self.logged.means()
        rate = self.logged.steps / max(self.logged.restart_clock(), 1e-9)
        scalars["images_per_second"] = rate * self.run.config.train.batch_size
        self.logged.clear()
        self.log.write(step, scalars)
        left = (self.total - step) / max(rate, 1e-9)
        self.progress.report(
            step,
            f"loss {scalars.get('loss', float('nan')):.4f}  "
            f"{scalars['images_per_second']:.0f} images/s  {left:.0f} s left",
        )

    def _save(self, step: int, state: TrainState, last: bool) -> None:
        loss = self.since_checkpoint.means().get("loss", float("nan"))
        self.since_checkpoint.clear()
        try:
            self.checkpoints.save(
                step,
                state.replace(ema_params=None),
                state.ema_params,
                config=configuration.to_json(self.run.config),
                meta=_meta(self.run),
                loss=loss,
            )
            if last:
                self.checkpoints.wait()
        except SaveError as error:
            if last:
                raise
            logging.error("%s", error)

    def _preview(self, step: int, state: TrainState) -> None:
        if self.model is None:
            source = self.run.source
            self.model = Model(
                self.run.config,
                state.ema_params,
                step=step,
                shape=source.shape,
                label_names=source.label_names,
            )
        generate.preview(
            self.model.with_params(state.ema_params, step),
            self.run.config.train.preview_w,
            self.run.workdir / "previews",
        )


class _Window:
    """Sums of metrics over some steps, and the time they took."""

    def __init__(self):
        self.clear()
        self._since = time.monotonic()

    def clear(self) -> None:
        self.sums, self.steps = None, 0

    def add(self, metrics: dict) -> None:
        self.sums = metrics if self.sums is None else jax.tree.map(np.add, self.sums, metrics)
        self.steps += 1

    def means(self) -> dict[str, float]:
        """Weighted means; a name that no example counted for is left out."""
        pairs = (self.sums or {}).items()
        return {name: float(total / weight) for name, (total, weight) in pairs if weight > 0}

    def restart_clock(self) -> float:
        """Seconds since the last call."""
        since, self._since = self._since, time.monotonic()
        return self._since - since
