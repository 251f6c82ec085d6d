"""How are very many samples drawn into files, so that being killed costs little and spoils nothing?

    shard k:  samples_{k S}_{min((k + 1) S, N)}.npz,   images uint8 [n, H, W, C], labels int32 [n]

Samples 0..N - 1 lie in shards of S, each one whole file named by its first index and the one after
its last. Sample i depends on the settings, the seed and i alone (`samples`). A shard is
drawn by the same calls whatever is there already, so that however often it was killed, and for any
number of processes that their devices are divided among, a folder comes to hold the same samples
bit for bit; another batch size or number of devices rounds differently, by a grey level in some
pixel. Process p of P draws the shards k with k % P = p on its own devices. `manifest.json` says
which settings a folder is of.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from cfg_jax.config.validate import to_json
from cfg_jax.io import files
from cfg_jax.io.progress import Progress
from cfg_jax.io.ranges import Range, RangeFiles
from cfg_jax.runtime import devices, processes
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.samples import check_samples, samples_at, swept_fields
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.storage import manifest
from cfg_jax.storage.lock import hold_beside

MANIFEST = "manifest.json"


def sample_to_files(
    model: Model,
    folder: Path,
    *,
    num_samples: int,
    label_plan: str = "balanced",
    seed: int = 0,
    sampling: SamplingSettings = SamplingSettings(),  # noqa: B008  (a constant)
    classifier: NoisyClassifier | None = None,
    batch_size: int = 256,
    shard_size: int = 1000,
) -> list[Path]:
    """Draws what is missing of samples 0..num_samples - 1; returns the paths of all, in order.

    A shard that is there and whole is not drawn again; a damaged one is. Memory holds one. Every
    process of a run calls this, and returns once all are done. Meanwhile the first holds a lock
    beside the folder, `<folder>.lock`; buckets have none.

    Args:
      model: of images, no upsampler.
      folder: of these samples alone, one that all processes see; made if it is not there.
      num_samples: N.
      label_plan: "balanced", sample i has label i mod K; "random", each drawn from the seed.
      seed: of noise and random labels.
      sampling: guidance and sampler.
      classifier: that guides with sampling.classifier_w.
      batch_size: samples at a time, of all processes together; no part of the settings.
      shard_size: S, samples in a file.

    Raises:
      ValueError: what `check_samples` and `Model.sample_x` refuse, sizes below 1, a folder of other
        settings or of unknown ones, that another program writes to, or that a process cannot see.
      FloatingPointError: samples not finite.
      OSError: a folder that cannot be written, that has files which are not of these samples, or
        that lacks samples when all are done.
    """
    check_samples(model, num_samples, label_plan)
    for name, size in (("batch_size", batch_size), ("shard_size", shard_size)):
        if size < 1:
            raise ValueError(f"{name}={size}: need 1 or more")
    settings = {
        "num_samples": num_samples,
        "label_plan": label_plan,
        "seed": seed,
        "shard_size": shard_size,
        "image_shape": list(model.shape),
    } | swept_fields(model, sampling, classifier)
    starts = range(0, num_samples, shard_size)
    every = [Range(start, min(start + shard_size, num_samples)) for start in starts]
    drawn = RangeFiles(folder, "samples")
    with contextlib.ExitStack() as held:
        processes.by_first(lambda: _claim(drawn, settings, model, held))
        _check_seen(folder)
        _check_settings(folder, settings)
        _check_strays(drawn, every)
        draw = samples_at(model, sampling, classifier, label_plan, seed)
        own = every[jax.process_index() :: jax.process_count()]
        batch_size = devices.even_batch(_count(every[:1]), batch_size)
        _draw_missing(draw, own, drawn, model.shape, batch_size)
        processes.wait_for_all("all samples are drawn")
        if processes.is_first():  # a shared disk may show the others files of this moment late
            _check_complete(drawn, every)
    return [drawn.path(shard) for shard in every]


def _check_complete(drawn: RangeFiles, every: Sequence[Range]) -> None:
    """Every sample is in one file by name, and in one only.

    Raises:
      OSError: with the file, or the first sample, of which that does not hold.
    """
    _check_strays(drawn, every)
    num_samples = every[-1].stop
    reached = drawn.reached(num_samples)
    if reached < num_samples:
        raise OSError(
            f"sample {reached} of {num_samples} is in no file of {drawn.folder}: start again to "
            "draw it; several processes need a folder that all of them see"
        )


def _count(some: Sequence[Range]) -> int:
    return sum(shard.stop - shard.start for shard in some)


def _claim(
    drawn: RangeFiles, settings: dict[str, Any], model: Model, held: contextlib.ExitStack
) -> None:
    """Takes the lock of a folder, and writes the manifest of one that has no samples yet."""
    held.callback(hold_beside(drawn.folder))
    if any(drawn.paths()):
        return
    described = {
        "settings": settings,
        "sha256": manifest.sha256_json(settings),
        "label_names": list(model.label_names),
        "config": to_json(model.config),
        "versions": manifest.versions(),
    }
    files.save_text(drawn.folder / MANIFEST, json.dumps(described, indent=1))


def _check_seen(folder: Path) -> None:
    """Refuses a folder that the first process sees and another one does not."""
    seen = processes.of_each((folder / MANIFEST).exists())
    if seen[0] and not all(seen):
        raise ValueError(
            f"process {seen.index(0)} does not see {folder}, which the first one does: give a "
            "folder that all of them share"
        )


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuses a folder of other settings, or of which they cannot be read."""
    path = folder / MANIFEST
    if not path.exists():
        raise ValueError(f"{folder} holds samples, and no {MANIFEST} says of what: give another")
    try:
        described = json.loads(path.read_text())
        theirs = dict(described["settings"])
        whole = manifest.sha256_json(theirs) == described["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path} cannot be read, or was altered: give another folder")
    ours = json.loads(json.dumps(settings))
    # Digests come last: that the checkpoint is of another step says more to a person.
    for field in sorted(ours | theirs, key=lambda field: field in ("model", "classifier")):
        their, our = (json.dumps(values.get(field)) for values in (theirs, ours))  # NaN equals NaN
        if our != their:
            raise ValueError(
                f"{folder} holds samples of {field}={theirs.get(field)}, not "
                f"{ours.get(field)}: ask for the same, or give another folder"
            )


def _check_strays(drawn: RangeFiles, every: Sequence[Range]) -> None:
    """Refuses a folder in which a file named as samples are is none of `every`."""
    known = set(every)
    for shard in drawn.found():
        if shard not in known:
            raise OSError(
                f"{drawn.path(shard)} holds samples that another file holds as well, or that are "
                f"beyond the {every[-1].stop} asked for: remove what is not of this folder"
            )


def _is_whole(path: Path, shard: Range, shape: tuple[int, ...]) -> bool:
    """Whether the shard's file is there and can be read, every byte of it."""
    if not path.exists():
        return False
    count = shard.stop - shard.start
    try:
        # Reading an array compares it with the checksum that the archive has of it.
        with files.open_npz(path) as file:
            drawn, labels = file["images"], file["labels"]
        if drawn.shape == (count, *shape) and drawn.dtype == np.uint8 and labels.shape == (count,):
            return True
        why = f"images of {drawn.shape}"
    except Exception as error:  # a damaged file raises many types
        why = manifest.reason(error)
    logging.warning("%s is damaged (%s): its samples are drawn again", path, why)
    return False


def _draw_missing(
    draw: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    own: Sequence[Range],
    place: RangeFiles,
    shape: tuple[int, ...],
    batch_size: int,
) -> None:
    """Writes those of this process's shards that are not there and whole."""
    missing = [shard for shard in own if not _is_whole(place.path(shard), shard, shape)]
    total = _count(own)
    with Progress(total - _count(missing), total, "image", lines=True) as progress:
        for shard in missing:
            drawn, labels = _drawn(draw, shard, batch_size, progress.advance)
            files.save_npz(place.path(shard), images=drawn, labels=labels)


def _drawn(
    draw: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    shard: Range,
    batch_size: int,
    advance: Callable[[int], None],
) -> list[np.ndarray]:
    """Images and labels of a shard."""
    batches = []
    for index, num_new in devices.index_batches(shard.start, shard.stop, batch_size):
        batches.append([values[:num_new] for values in draw(index)])
        advance(num_new)
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]
