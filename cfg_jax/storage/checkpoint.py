"""Checkpoints of a run, verified by digests when they are restored.

A step is a directory `<directory>/<step>` with four items: `state` and `ema` (trees of arrays),
`config` and `meta` (JSON, described in `manifest.py`).

Orbax writes, commits and removes steps. It does not detect flipped bytes, casts dtypes silently and
trusts the newest step. This module verifies restored items and falls back to older steps.
"""

import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from cfg_jax.io.files import in_bucket
from cfg_jax.runtime import processes
from cfg_jax.storage import manifest
from cfg_jax.storage.lock import check_shared, hold_beside


class Restored(NamedTuple):
    """A restored step; `state` is None if only the EMA parameters were read."""

    step: int
    state: Any
    ema: Any
    config: dict[str, Any]
    meta: dict[str, Any]


class SaveError(OSError):
    """A step could not be written; earlier steps are unchanged."""

    def __init__(self, step: int | None, directory: epath.Path, error: Exception):
        super().__init__(
            f"step {step} was not written to {directory}, earlier ones are unchanged "
            f"({manifest.reason(error)}): check for a full disk or missing permissions, then save "
            "again."
        )
        self.step = step


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of one run, written in the background. A context manager.

    A directory has one writer. All processes of a run call the same methods; process 0 holds the
    lock `<directory>.lock`, removes partial steps and moves damaged ones to `<directory>.corrupt/`.

    A step is kept if it is one of the `keep_latest` newest, divisible by `keep_every` (if not
    None), or one of the `keep_best` with the lowest finite loss. Other steps are deleted once a
    newer one is on disk.

    Raises ValueError if `directory` is a file, if another process writes to it, if the disk is
    full, or if a number is out of range.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_latest: int = 2,
        keep_every: int | None = None,
        keep_best: int = 0,
    ):
        if min(keep_latest, keep_best + 1, 1 if keep_every is None else keep_every) < 1:
            raise ValueError(
                f"{keep_latest=}, {keep_every=}, {keep_best=}: need 1 or more; keep_every may be "
                "None, keep_best may be 0."
            )
        self._losses: dict[int, float] = {}
        policies = ocp.checkpoint_managers
        rules = [policies.LatestN(keep_latest), _LowestLoss(keep_best, self._losses)]
        rules += [] if keep_every is None else [policies.EveryNSteps(keep_every)]
        kept = policies.AnyPreservationPolicy(rules)
        path = _path(directory)
        with contextlib.ExitStack() as held:
            processes.by_first(lambda: held.callback(hold_beside(path)))
            check_shared(path.parent / f"{path.name}.lock")
            self._manager = _open(directory, preservation_policy=kept)
            self._held = held.pop_all()
        _remove_partial(self._manager.directory)
        if keep_best:
            self._losses |= {step: self._read_loss(step) for step in self._manager.all_steps()}

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def latest_step(self) -> int | None:
        """The newest step written or being written; None if there is none."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: Any,
        ema: Any,
        *,
        config: Mapping[str, Any],
        meta: Mapping[str, Any],
        loss: float,
    ) -> None:
        """Starts writing one step; the arrays may be donated once this returns.

        Args:
          step: training step, larger than `latest_step()`.
          state, ema: trees of replicated or NumPy arrays, without typed PRNG keys.
          config, meta: JSON values; tuples become lists, `meta` gains the keys of `manifest.py`.
          loss: scalar loss at this step, lower is better.

        Raises ValueError if `step` is too small, or if `config` or `meta` is not JSON-serialisable.
        Raises SaveError if step `error.step` could not be written; if that is an earlier step, the
        save of `step` is running.
        """
        failure = self._settle()
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(
                f"step {step} cannot be saved: it must be above the latest step, {latest}; compare "
                "with latest_step(), or save to another directory."
            ) from failure
        trees = {"state": state, "ema": ema}
        config, meta = manifest.describe(trees, config, meta, loss)
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items |= {"config": ocp.args.JsonSave(config), "meta": ocp.args.JsonSave(meta)}
        self._losses[step] = meta["loss"]
        try:
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:
            if failure:
                logging.error("%s", failure)
            raise SaveError(step, self._manager.directory, error) from error
        if failure:
            raise failure

    def restore_latest(self, state: Any, ema: Any, *, forms: Sequence[Any] = ()) -> Restored | None:
        """Restores the newest valid step; returns None if there are no steps.

        A step is invalid if reading fails, an item is missing or a digest differs. Newer invalid
        steps are moved to `<directory>.corrupt/` with a warning, once a step has been restored.

        Args:
          state, ema: trees of arrays or `jax.ShapeDtypeStruct` with the structure, shapes, dtypes
            and shardings to restore; a leaf without sharding goes to the first local device, and a
            NumPy array stands for one of the host.
          forms: other trees that the state may have; that of the step is restored.

        Raises manifest.MismatchError (a ValueError) if the shape or dtype of a leaf differs, and
        ValueError if no step can be restored; neither moves a step. Raises SaveError if the running
        save failed.
        """
        self.wait()
        # The disk may show other processes a newer step. Of many steps the oldest are not needed.
        steps = processes.of_first(self._manager.all_steps()[-50:])
        if not steps:
            return None
        where = self._manager.directory
        targets = [{"state": form, "ema": ema} for form in (state, *forms)]
        restored, damaged = manifest.newest_whole(
            where,
            steps,
            read=lambda step: _read(self._manager, step, targets),
            agree=lambda whole: all(processes.of_each(whole)),
        )
        for step in damaged if processes.is_first() else ():
            _move_aside(where, step)
        processes.wait_for_all("damaged checkpoints are set aside")
        self._manager.reload()
        return restored

    def wait(self) -> None:
        """Blocks until the running save is on disk. Raises SaveError if it failed."""
        if failure := self._settle():
            raise failure

    def close(self) -> None:
        """Waits for the save and releases all resources. Raises SaveError if the save failed."""
        try:
            self.wait()
        finally:
            with self._held:
                self._manager.close()

    def _settle(self) -> SaveError | None:
        failure, step = None, self.latest_step()
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            # Orbax has already removed from its list the steps that this save would replace.
            self._manager.reload()
            failure = SaveError(step, self._manager.directory, error)
        # Without a failure too: threads of an earlier failed save may have written since.
        _remove_partial(self._manager.directory)
        return failure

    def _read_loss(self, step: int) -> float:
        try:
            return float(_read_json(self._manager, step)[1]["loss"])
        except Exception:  # never among the best; restoring reports the fault
            return math.inf


def load_ema(directory: str | os.PathLike[str], step: int | None = None) -> Restored:
    """Restores the EMA parameters of a run: a nested dict on the first local device.

    Needs neither model nor optimizer, writes nothing, and may be called during training. Without a
    `step` the newest valid one is restored, with a warning for each newer one.

    Raises ValueError if the step is missing, unreadable or not written by cfg_jax.
    """
    listed: list[list[int]] = []
    while True:
        try:
            return _load_ema(directory, step, listed)
        except manifest.MismatchError:
            raise
        except ValueError:
            # A trainer beside may have removed a step while it was read, and saved another.
            if step is not None or listed[-1] in listed[:-1]:
                raise


def _load_ema(
    directory: str | os.PathLike[str], step: int | None, listed: list[list[int]]
) -> Restored:
    """One try of `load_ema`; appends the steps that it finds to `listed`."""
    listed.append([])
    with _open(directory, create=False) as manager:
        steps = listed[-1] = manager.all_steps()
        if not steps:
            raise ValueError(
                f"no checkpoint in {directory}: expected a directory of checkpoints as "
                "`cfg-jax train --workdir=...` writes them."
            )
        if step is not None and step not in steps:
            raise ValueError(f"no step {step} in {directory}: choose one of {steps}.")
        chosen = steps if step is None else [step]
        return manifest.newest_whole(directory, chosen, lambda step: _read(manager, step))[0]


@dataclasses.dataclass
class _LowestLoss:
    """Keeps the n lowest losses. Orbax's policy needs a file that, if damaged, stops the run."""

    n: int
    losses: Mapping[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        losses = {c.step: self.losses.get(c.step, math.inf) for c in checkpoints}
        finite = [step for step, loss in losses.items() if math.isfinite(loss)]
        best = sorted(finite, key=losses.__getitem__)[: self.n]
        return [c.step in best for c in checkpoints]


def _path(directory: str | os.PathLike[str]) -> epath.Path:
    name = os.fspath(directory)
    path = epath.Path(name if in_bucket(name) else os.path.abspath(os.path.expanduser(name)))
    if path.exists() and not path.is_dir():
        raise ValueError(f"{directory} is a file: expected a directory of checkpoints.")
    return path


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        # Orbax uses the result only for a log, and the query would reset `preemption`'s count.
        return False


def _open(directory: str | os.PathLike[str], **options: Any) -> ocp.CheckpointManager:
    path = _path(directory)
    # If a directory cannot be created in the background, the waiting threads delay the exit of the
    # process by 20 minutes.
    at_once = ocp.AsyncOptions(create_directories_asynchronously=False)
    options = ocp.CheckpointManagerOptions(async_options=at_once, **options)
    return _Manager(path, options=options)


def _read(
    manager: ocp.CheckpointManager, step: int, targets: Sequence[Mapping[str, Any]] = ()
) -> Restored:
    """Restores a step with valid digests: the trees of a target that fits, or the EMA as saved.

    Raises MismatchError, as for the first target, if none fits.
    """
    config, meta = _read_json(manager, step)
    handler, place = ocp.StandardCheckpointHandler(), manager.directory / str(step)
    items = targets[0] if targets else ["ema"]
    saved = {item: handler.metadata(place / item).tree for item in items}
    target = next((each for each in targets if manifest.same_leaves(saved, each)), None)
    if targets and target is None:
        manifest.check_leaves(saved, targets[0], config, meta)
    arrays = _read_arrays(manager, step, target or saved, meta)
    return Restored(step, arrays.get("state"), arrays["ema"], config, meta)


def _read_json(manager: ocp.CheckpointManager, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    items = ocp.args.Composite(config=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore())
    path = manager.directory / str(step)
    if absent := [item for item in ("config", "ema", "meta") if not (path / item).exists()]:
        raise ValueError(f"{' and '.join(absent)} missing, damaged or of another program")
    restored = manager.restore(step, args=items)
    manifest.check_json(restored["config"], restored["meta"])
    return restored["config"], restored["meta"]


def _read_arrays(
    manager: ocp.CheckpointManager, step: int, target: Mapping[str, Any], meta: dict[str, Any]
) -> Mapping[str, Any]:
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def placed(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return leaf
        sharding = getattr(leaf, "sharding", None)
        here = isinstance(sharding, jax.sharding.Sharding)  # metadata has the devices of the save
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding if here else default)

    items = {item: ocp.args.StandardRestore(jax.tree.map(placed, target[item])) for item in target}
    arrays = manager.restore(step, args=ocp.args.Composite(**items))
    manifest.check_digests(arrays, meta)
    return arrays


def _remove_partial(directory: epath.Path) -> None:
    """Deletes saves that failed or were killed; the next one may need the space."""
    if not processes.is_first():
        return
    with contextlib.suppress(OSError):
        for partial in ocp.utils.tmp_checkpoints(directory):
            partial.get().rmtree()


def _move_aside(directory: epath.Path, step: int) -> None:
    aside = epath.Path(f"{directory}.corrupt")
    aside.mkdir(parents=True, exist_ok=True)
    names = (f"{step}.{n}" if n else f"{step}" for n in itertools.count())
    free = next(aside / name for name in names if not (aside / name).exists())
    (directory / str(step)).rename(free)
    logging.warning("checkpoint %d could not be read and was moved to %s", step, free)
