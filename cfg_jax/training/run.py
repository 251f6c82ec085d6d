"""Training of a model, from a config to checkpoints.

Validates the config, opens the data, restores or creates the state and pmaps the step for `loop`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import optax
from absl import logging
from ml_collections import ConfigDict

from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.config.by_path import by_path
from cfg_jax.config.validate import check_same_run, to_json, validate
from cfg_jax.io.files import check_writable, folder, in_bucket, local
from cfg_jax.runtime import devices, processes
from cfg_jax.sampling.checks import check
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.storage.checkpoint import Checkpoints
from cfg_jax.storage.manifest import FOLDER, MismatchError
from cfg_jax.training import earlier, journal, preemption, profile, size, watchdog
from cfg_jax.training.loop import Loop, Run
from cfg_jax.training.objectives import classifier_loss_fn, diffusion_loss_fn
from cfg_jax.training.placement import Placement, Replicated, Sharded
from cfg_jax.training.step import (
    TrainState,
    create_optimizer,
    create_train_state,
    make_train_step,
    rate_schedule,
)


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    source: data.Source | None = None,
    profile_steps: profile.Steps | None = None,
) -> None:
    """Trains up to config.train.num_steps, from the newest checkpoint in `workdir` if there is one.

    Writes `checkpoints/`, `metrics.jsonl`, `events/` and `previews/` in `workdir`, a local folder
    or gs://bucket/folder. Every process of a run makes this call with the same shared `workdir`.

    Args:
      config: every setting. With `source`, config.data counts for random_flip, min_crop and
        num_threads alone.
      workdir: folder of the run.
      source: examples to train on in place of the data set that the config names. Checkpoints call
        the data "source:NAME"; the run resumes with a source of the same fingerprint.
      profile_steps: first and last step, counted from 1, to trace into `profile/` in `workdir`;
        nothing is traced, with a warning, if the run resumes after the first of them.

    Raises ValueError, before anything is compiled, if the config or `profile_steps` is invalid,
    data is missing or invalid, or `workdir` is not writable or holds another run. Raises
    FloatingPointError after too many steps in a row with a loss, gradient or update that is not
    finite. Raises SaveError if the last checkpoint, or any checkpoint of several processes, could
    not be saved. Raises preemption.Interrupted after SIGTERM, SIGHUP or Ctrl-C (see `preemption`),
    once the current step is saved.
    """
    check_writable(workdir, "workdir")
    check_writable(f"{workdir}/{FOLDER}", "the folder of checkpoints")
    if source is not None:
        config = _with_data(config, name=data.OWN + source.name)
    elif config.data.data_dir and not in_bucket(config.data.data_dir):
        # The checkpoint says where the data is, also to a program in another folder.
        config = _with_data(config, data_dir=str(local(config.data.data_dir).absolute()))
    validate(config, devices.num_devices_of_all())
    profile.check(profile_steps, config.train.num_steps)
    journal.destination(config)
    hang_seconds = config.train.hang_seconds
    with watchdog.armed(hang_seconds) as feed, preemption.watched() as asked_to_stop:
        run = _open(config, folder(workdir), source)
        _train(run, profile_steps, feed=feed, asked_to_stop=asked_to_stop)


def _train(run: Run, profile_steps: profile.Steps | None, **watched: Callable) -> None:
    """Restores or creates the state and makes the steps; `watched` are arguments of `Loop`."""
    config = run.config
    optimizer = make_optimizer(config)
    create = make_create(config, run.task, optimizer)
    abstract = jax.eval_shape(create)
    place = make_placement(config, abstract, optimizer, devices.num_devices_of_all())
    sizes = size.checked(place.of_device, run.source.shape, config.train.batch_size)
    _warn_of_a_short_run(config)
    keep = dict(config.checkpoint, keep_every=config.checkpoint.keep_every or None)
    with Checkpoints(run.workdir / FOLDER, **keep) as checkpoints:
        if processes.is_first():
            print(_described(run), f"devices: {devices.described()}; {sizes}", sep="\n", flush=True)
        state = _restore(run, checkpoints, place)
        if state is None:
            state = place.create(create)
        step_fn = devices.pmap_step(make_step(run.task, optimizer, config), axes=place.axes)
        start = int(state.step)
        steps = profile.still_ahead(profile_steps, start)
        loop = Loop(run, checkpoints, start, placement=place, profile_steps=steps, **watched)
        loop(state, step_fn)


def _described(run: Run) -> str:
    """One line on the data, and on how many of its examples the steps see."""
    source, train = run.source, run.config.train
    kind = "images" if len(source.shape) == 3 else "points"
    classes = f"{source.num_classes:,} class{'' if source.num_classes == 1 else 'es'}"
    size, seen = " x ".join(map(str, source.shape)), train.num_steps * train.batch_size
    return (
        f"data: {len(source):,} {kind} of {size} in {classes}, split {source.split}; each is seen "
        f"{seen / len(source):,.1f} times in {train.num_steps:,} steps of {train.batch_size:,}"
    )


def _warn_of_a_short_run(config: ConfigDict) -> None:
    """Warns if the average of the parameters, which samples use, stays near their first values."""
    steps, decay = config.train.num_steps, config.optim.ema_decay
    if processes.is_first() and steps * (1 - decay) < 1:
        logging.warning(
            "train.num_steps=%d is short for optim.ema_decay=%g, an average over about %.0f steps: "
            "it stays near the first parameters, and samples near noise; try a decay of %.2g",
            *(steps, decay, 1 / (1 - decay), max(1 - 5 / steps, 0)),
        )


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of config.optim."""
    settings = {name: value for name, value in config.optim.items() if name != "ema_decay"}
    return create_optimizer(**settings)


def make_create(
    config: ConfigDict, task: build.Task, optimizer: optax.GradientTransformation
) -> Callable[[], TrainState]:
    """A function () -> state before the first step of `config`."""
    return lambda: create_train_state(task.init(jax.random.key(config.seed)), optimizer)


def make_placement(
    config: ConfigDict, abstract: TrainState, optimizer: optax.GradientTransformation, count: int
) -> Placement:
    """The placement of a state of these shapes on `count` devices, those of all processes."""
    if config.train.shard_state:
        return Sharded(abstract, optimizer, count)
    return Replicated(abstract)


def make_step(
    task: build.Experiment | build.ClassifierExperiment,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> Callable:
    """The training step of `config` for one device of a pmap."""
    diffusion, optim = config.diffusion, config.optim
    if task.draws:
        loss_fn = diffusion_loss_fn(
            task,
            p_uncond=diffusion.p_uncond,
            weighting=diffusion.weighting,
            vlb_weight=diffusion.vlb_weight if diffusion.learned_variance else 0.0,
            vlb_steps=diffusion.vlb_steps,
            t_eps=diffusion.t_eps,
        )
    else:
        loss_fn = classifier_loss_fn(task)
    return make_train_step(
        loss_fn,
        optimizer,
        seed=config.seed,
        ema_decay=config.optim.ema_decay,
        num_microbatches=config.train.num_microbatches,
        axis_name=devices.AXIS,
        shard_state=config.train.shard_state,
        learning_rate=rate_schedule(optim.learning_rate, optim.warmup_steps, optim.anneal_steps),
    )


def _with_data(config: ConfigDict, **fields: str) -> ConfigDict:
    """The config with other fields of config.data."""
    config = config.copy_and_resolve_references()
    config.data.update(fields)
    return config


def _check_json(source: data.Source) -> None:
    try:
        json.dumps(source.fingerprint())
    except TypeError as error:
        raise ValueError(f"{source.name}: fingerprint() must be JSON values, {error}") from error


def _open(config: ConfigDict, workdir: Path, source: data.Source | None) -> Run:
    """Opens the data, if there is no source, and assembles the task of a config."""
    if source is None:
        source = data.open_source(split=config.data.split, **build.data_arguments(config))
    _check_json(source)
    data.check_source(source)
    class_counts = data.class_counts(source)
    _name_empty_classes(source, class_counts or ())
    order = data.batches(
        source,
        seed=config.seed,
        batch_size=config.train.batch_size,
        random_flip=config.data.random_flip,
        min_crop=config.data.min_crop,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    task = build.assemble(config, source.shape, source.num_classes)
    if task.draws:  # the previews sample with these settings
        with by_path("sampling", config.sampling):
            filled = SamplingSettings().filled(config.sampling, source.label_names)
            for w in config.train.preview_w if task.label_input == "with_null" else (0.0,):
                check(filled.replace(w=float(w)), task, guided_by_classifier=False)
    return Run(config, workdir, source, order, task, class_counts)


def _name_empty_classes(source: data.Source, counts: Sequence[int]) -> None:
    names = [name for name, count in zip(source.label_names, counts, strict=False) if not count]
    if names:
        logging.warning(
            "%s has no example of %s in split %s: samples of that class mean nothing",
            *(source.name, data.some(names), source.split),
        )


def _restore(run: Run, checkpoints: Checkpoints, place: Placement) -> TrainState | None:
    """The state of the newest readable checkpoint, or None."""
    target = place.target()
    state = target.replace(ema_params=None)
    try:
        restored = checkpoints.restore_latest(state, target.ema_params, forms=earlier.forms(state))
    except MismatchError as error:
        _name_another_network(run, error.config or {})
        raise
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
    return place.placed(earlier.today(restored.state).replace(ema_params=restored.ema))


def _name_another_network(run: Run, before: Mapping) -> None:
    """Raises ValueError for a field that changes the shapes of the network's arrays."""
    now = to_json(run.config)
    sections = [name for name in ("data", "network", "model", "diffusion") if name in before]
    check_same_run(
        {name: now[name] for name in sections},
        {name: before[name] for name in sections},
        str(run.workdir),
        advice="use that value or another workdir, since its checkpoints have another shape",
    )
