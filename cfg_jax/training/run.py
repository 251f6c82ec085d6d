"""How is a model trained, from a config to checkpoints?

Checks the config, opens the data, restores or creates the state and builds the pmapped step. What
happens between two steps is `loop`'s.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.config.validate import check_same_run, to_json, validate
from cfg_jax.core import keys as keys_lib
from cfg_jax.core.losses import classifier_loss, diffusion_loss
from cfg_jax.core.types import Array
from cfg_jax.io import images
from cfg_jax.io.files import check_writable, folder
from cfg_jax.runtime import devices, processes
from cfg_jax.storage.checkpoint import Checkpoints
from cfg_jax.training import preemption, watchdog
from cfg_jax.training.loop import Loop, Run
from cfg_jax.training.step import (
    LossFn,
    TrainState,
    Weighted,
    create_optimizer,
    create_train_state,
    make_train_step,
)

# Near the quartiles of logsnr when u is uniform over +-20: 22.5, 27.5, 27.5 and 22.5 per cent.
LOGSNR_EDGES = (-2.0, 0.0, 2.0)


def train(config: ConfigDict, workdir: str | Path) -> None:
    """Trains up to config.train.num_steps, from the newest checkpoint in `workdir` if there is one.

    Writes `checkpoints/`, `metrics.jsonl`, `events/` and `previews/` there. Every process of a run
    calls it, with a `workdir` that all of them see; it may be in a bucket, gs://bucket/folder.

    Raises:
      ValueError: a config that cannot be run, a workdir that cannot be written or holds another
        run, data that is not there; before anything is compiled.
      FloatingPointError: too many steps in a row with a loss or gradient that is not finite.
      SaveError: the last checkpoint could not be written, or one that several processes write.
      interruption.Interrupted: SIGTERM came, and the step that was under way is saved.
    """
    check_writable(workdir, "--workdir")
    validate(config, devices.num_devices_of_all())
    with (
        watchdog.armed(config.train.hang_seconds) as feed,
        preemption.watched() as asked_to_stop,
    ):
        _train(_open(config, folder(workdir)), feed, asked_to_stop)


def _train(run: Run, feed: Callable[[bool], None], asked_to_stop: Callable[[], bool]) -> None:
    config = run.config
    optimizer = make_optimizer(config)
    create = make_create(config, run.experiment, optimizer)
    abstract = jax.eval_shape(create)
    keep = config.checkpoint
    with Checkpoints(
        run.workdir / "checkpoints",
        keep_latest=keep.keep_latest,
        keep_every=keep.keep_every or None,
        keep_best=keep.keep_best,
    ) as checkpoints:
        state = _restore(run, checkpoints, abstract)
        if state is None:
            state = devices.replicate(jax.jit(create)())
        step_fn = devices.pmap_step(make_step(run.experiment, optimizer, config))
        watched = {"feed": feed, "asked_to_stop": asked_to_stop}
        Loop(run, checkpoints, int(state.step), **watched)(state, step_fn)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of `config`."""
    return create_optimizer(
        **{name: value for name, value in config.optim.items() if name != "ema_decay"}
    )


def make_create(
    config: ConfigDict,
    exp: build.Experiment | build.ClassifierExperiment,
    optimizer: optax.GradientTransformation,
) -> Callable[[], TrainState]:
    """A function that gives the state before the first step of `config`."""
    return lambda: create_train_state(exp.init(jax.random.key(config.seed)), optimizer)


def make_step(
    exp: build.Experiment | build.ClassifierExperiment,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
):
    """The training step of `config` for one device of a pmap."""
    if isinstance(exp, build.ClassifierExperiment):
        loss_fn = classifier_loss_fn(exp)
    else:
        diffusion = config.diffusion
        loss_fn = diffusion_loss_fn(
            exp,
            p_uncond=diffusion.p_uncond,
            weighting=diffusion.weighting,
            vlb_weight=diffusion.vlb_weight if diffusion.learned_variance else 0.0,
            vlb_steps=diffusion.vlb_steps,
        )
    return make_train_step(
        loss_fn,
        optimizer,
        seed=config.seed,
        ema_decay=config.optim.ema_decay,
        num_microbatches=config.train.num_microbatches,
        axis_name=devices.AXIS,
    )


def diffusion_loss_fn(exp: build.Experiment, **options) -> LossFn:
    """The loss of `diffusion_loss` with what is logged of it.

    Metrics, as (values [b], weights [b]): `eps_mse`; the loss of examples with and without their
    label; the share without; the loss in four bands of logsnr; `vlb`, where the variance is
    learned, in bits per dimension.

    Args:
      exp: the network, and what its output means.
      **options: of `diffusion_loss`: p_uncond, weighting, vlb_weight, vlb_steps.
    """

    def loss_fn(params, keys, batch):
        loss_keys, dropout_keys = keys_lib.split(keys)
        low_res = images.area_mean(batch["x"], exp.low_res_size) if exp.low_res_size else None
        loss, aux = diffusion_loss(
            loss_keys,
            exp.predict(params, dropout_keys, low_res),
            batch["x"],
            batch["labels"],
            schedule=exp.schedule,
            null_label=exp.null_label,
            **options,
        )
        dropped = aux["dropped"].astype(loss.dtype)
        metrics = {
            "loss_conditional": (loss, 1 - dropped),
            "loss_unconditional": (loss, dropped),
            "drop_rate": (dropped, jnp.ones_like(loss)),
        }
        every = {name: aux[name] for name in ("eps_mse", "vlb") if name in aux}
        metrics |= {name: (values, jnp.ones_like(loss)) for name, values in every.items()}
        return loss, metrics | _by_band("loss", loss, aux["logsnr"])

    return loss_fn


def classifier_loss_fn(exp: build.ClassifierExperiment) -> LossFn:
    """The loss of `classifier_loss` with what is logged of it.

    Metrics, as (values [b], weights [b]): `accuracy`, over all noise levels and in four bands of
    logsnr.
    """

    def loss_fn(params, keys, batch):
        loss_keys, dropout_keys = keys_lib.split(keys)
        loss, aux = classifier_loss(
            loss_keys,
            exp.log_probs(params, dropout_keys),
            batch["x"],
            batch["labels"],
            schedule=exp.schedule,
        )
        correct = aux["correct"].astype(loss.dtype)
        metrics = {"accuracy": (correct, jnp.ones_like(loss))}
        return loss, metrics | _by_band("accuracy", correct, aux["logsnr"])

    return loss_fn


def _by_band(name: str, values: Array, logsnr: Array) -> dict[str, Weighted]:
    """`values` of each band of logsnr."""
    bands = {}
    for low, high in itertools.pairwise((-np.inf, *LOGSNR_EDGES, np.inf)):
        inside = (logsnr >= low) & (logsnr < high)
        bands[f"{name}_logsnr_{low:g}_to_{high:g}"] = (values, inside.astype(values.dtype))
    return bands


def _open(config: ConfigDict, workdir: Path) -> Run:
    """The data and the experiment of a config."""
    source = data.open_source(split=config.data.split, **build.data_arguments(config))
    order = data.batches(
        source,
        seed=config.seed,
        batch_size=config.train.batch_size,
        random_flip=config.data.random_flip,
        min_crop=config.data.min_crop,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    exp = build.assemble(config, source.shape, source.num_classes)
    return Run(config, workdir, source, order, exp)


def _restore(run: Run, checkpoints: Checkpoints, abstract: TrainState) -> TrainState | None:
    """The state of the newest readable checkpoint; None where there is none."""
    target = devices.replicated_like(abstract)
    restored = checkpoints.restore_latest(target.replace(ema_params=None), target.ema_params)
    if restored is None:
        return None
    if not run.config.train.allow_config_change:
        check_same_run(
            {**to_json(run.config), "meta": run.meta()},
            {**restored.config, "meta": {"data": restored.meta["data"]}},
            str(run.workdir),
        )
    if processes.is_first():
        print(f"resuming from step {restored.step}")
    return devices.as_local(restored.state.replace(ema_params=restored.ema))
