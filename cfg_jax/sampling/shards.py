"""Sharded, resumable sampling to disk.

    shard k:  samples_{k S}_{min((k + 1) S, N)}.npz,   images uint8 [n, H, W, C], labels int32 [n]

Samples 0..N - 1 lie in shards of S, each one complete file named by its first index and the one
after its last. Sample i depends on the settings, the seed and i alone (`samples`). Files are
bit-identical whatever interrupted the run, and for any number of processes that its devices are
divided among; another batch size or number of devices rounds differently, by a grey level in some
pixel. Process p of P draws the shards k with k % P = p on its own devices. `manifest.json` records
the settings.
"""

import contextlib
import json
from collections.abc import Sequence
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
from cfg_jax.sampling.samples import Samples
from cfg_jax.storage import manifest
from cfg_jax.storage.lock import hold_beside

MANIFEST = "manifest.json"


def sample_to_files(
    samples: Samples, folder: Path, *, batch_size: int = 256, shard_size: int = 1000
) -> list[Path]:
    """Draws the samples that no file in `folder` has; returns the paths of all shards, in order.

    A complete shard is not drawn again; a damaged one is. Memory holds one shard. Every process of
    a run calls this, and returns once all are done. Meanwhile process 0 holds a lock beside the
    folder, `<folder>.lock`; buckets have none.

    Args:
      folder: of these samples alone, seen by all processes; made if it is not there.
      batch_size: samples at a time, of all processes together; not recorded.
      shard_size: S, samples in a file.

    Raises:
      ValueError: what `Samples.check` refuses, sizes below 1, a folder of other settings or of
        unknown ones, that another program writes to, or that a process cannot see.
      FloatingPointError: samples not finite.
      OSError: a folder that cannot be written, that has files which are not of these samples, or
        that lacks samples when all are done.
    """
    for name, size in (("batch_size", batch_size), ("shard_size", shard_size)):
        if size < 1:
            raise ValueError(f"{name}={size}: need 1 or more")
    settings = samples.protocol() | {"seed": samples.seed, "shard_size": shard_size}
    settings |= samples.swept()
    starts, total = range(0, samples.num_samples, shard_size), samples.num_samples
    shards = [Range(start, min(start + shard_size, total)) for start in starts]
    place = RangeFiles(folder, "samples")
    with contextlib.ExitStack() as held:
        processes.by_first(lambda: _claim(place, settings, samples.model, held))
        _check_settings(folder, settings)
        _check_strays(place, shards)
        own = shards[jax.process_index() :: jax.process_count()]
        _draw_missing(samples, own, place, devices.even_batch(_count(shards[:1]), batch_size))
        processes.wait_for_all("all samples are drawn")
        if processes.is_first():  # a shared disk may show the others files of this moment late
            _check_complete(place, shards)
    return [place.path(shard) for shard in shards]


def _count(shards: Sequence[Range]) -> int:
    return sum(shard.stop - shard.start for shard in shards)


def _claim(
    place: RangeFiles, settings: dict[str, Any], model: Model, held: contextlib.ExitStack
) -> None:
    """Takes the lock of a folder, and writes the manifest of one that has no samples yet."""
    held.callback(hold_beside(place.folder))
    if any(place.paths()):
        return
    described = {"settings": settings, "sha256": manifest.sha256_json(settings)}
    described |= {"label_names": list(model.label_names), "config": to_json(model.config)}
    described |= {"versions": manifest.versions()}
    files.save_text(place.folder / MANIFEST, json.dumps(described, indent=1))


def _check_settings(folder: Path, ours: dict[str, Any]) -> None:
    """Refuses a folder of other or unknown settings, or one that a process does not see."""
    path = folder / MANIFEST
    seen = processes.of_each(path.exists())
    if seen[0] and not all(seen):
        raise ValueError(
            f"process {seen.index(0)} does not see {folder}, which the first one does: give a "
            "folder that all of them share"
        )
    if not path.exists():
        raise ValueError(f"{folder} holds samples, and no {MANIFEST} says of what: give another")
    try:
        described = json.loads(path.read_text())
        theirs = dict(described["settings"])
        intact = manifest.sha256_json(theirs) == described["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise ValueError(f"{path} cannot be read, or was altered: give another folder")
    # Digests come last: another step of the checkpoint says more to a reader.
    for field in sorted(ours | theirs, key=lambda field: field in ("model", "classifier")):
        their, our = theirs.get(field), ours.get(field)
        if json.dumps(our) != json.dumps(their):  # NaN equals NaN
            raise ValueError(
                f"{folder} holds samples of {field}={their}, not {our}: ask for the same, or give "
                "another folder"
            )


def _check_strays(place: RangeFiles, shards: Sequence[Range]) -> None:
    """Refuses a folder with a file that is named as samples are and is none of `shards`."""
    for shard in sorted(set(place.found()).difference(shards)):
        raise OSError(
            f"{place.path(shard)} holds samples that another file holds as well, or that are "
            f"beyond the {shards[-1].stop} asked for: remove what is not of this folder"
        )


def _check_complete(place: RangeFiles, shards: Sequence[Range]) -> None:
    """Refuses, by name, a file that is none of `shards` and a sample that is in no file."""
    _check_strays(place, shards)
    reached, num_samples = place.reached(shards[-1].stop), shards[-1].stop
    if reached < num_samples:
        raise OSError(
            f"sample {reached} of {num_samples} is in no file of {place.folder}: start again to "
            "draw it; several processes need a folder that all of them see"
        )


def _is_complete(path: Path, count: int, shape: tuple[int, ...]) -> bool:
    """Whether a file is there and holds `count` samples, every byte of them readable."""
    if not path.exists():
        return False
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
    samples: Samples, own: Sequence[Range], place: RangeFiles, batch_size: int
) -> None:
    """Writes those of this process's shards that are absent or damaged."""
    shape, total = samples.model.shape, _count(own)
    missing = [s for s in own if not _is_complete(place.path(s), _count([s]), shape)]
    with Progress(total - _count(missing), total, "image", lines=True) as progress:
        for shard in missing:
            batches = []
            for index, num_new in devices.index_batches(*shard, batch_size):
                batches.append([values[:num_new] for values in samples.draw(index)])
                progress.advance(num_new)
            drawn, labels = map(np.concatenate, zip(*batches, strict=True))
            files.save_npz(place.path(shard), images=drawn, labels=labels)
