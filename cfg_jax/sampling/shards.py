"""Sharded, resumable sampling to disk.

    shard k:  samples_{k S}_{min((k + 1) S, N)}.npz,   images uint8 [n, H, W, C], labels int32 [n]

Samples 0..N - 1 are split into shards of S samples; a file name holds the shard's first index and
the index after its last. Sample i depends only on the settings, the seed and i (`samples`). Files
are bit-identical after any interruption, and for any division of the devices among processes.
Another batch size or number of devices rounds differently, by a grey level in some pixels. Process
p of P draws the shards k with k % P = p on its own devices. `manifest.json` records the settings.
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
from cfg_jax.core.arguments import whole
from cfg_jax.io import files, reading
from cfg_jax.io.progress import Progress
from cfg_jax.io.ranges import Range, RangeFiles
from cfg_jax.runtime import devices, processes
from cfg_jax.sampling.identity import upgraded
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.samples import Samples
from cfg_jax.storage import manifest
from cfg_jax.storage.lock import check_shared, hold_inside

MANIFEST = "manifest.json"


def sample_to_files(
    samples: Samples, folder: Path, *, batch_size: int = 256, shard_size: int = 1000
) -> list[Path]:
    """Draws the samples missing in `folder`; returns the paths of all shards, in order.

    Complete shards are kept, damaged shards are drawn again. At most one shard is in memory. Call
    this in every process of the run; each call returns when all processes are done. Until then
    process 0 holds the lock `<folder>/cfg_jax.lock`; a bucket has no lock.

    Args:
      samples: the N = samples.num_samples samples to draw, with model, settings and seed.
      folder: local folder or gs://bucket/folder with no other contents, visible to all processes;
        created if missing.
      batch_size: number of samples per batch over all processes. Changes samples by rounding only,
        so the manifest does not record it.
      shard_size: S, number of samples per file.

    Raises ValueError if `samples.check` does, if a size is below 1, if `folder` holds samples of
    other or unknown settings, if another process writes to `folder`, or if a process cannot see
    `folder`. Raises FloatingPointError if samples are not finite. Raises OSError if `folder` is not
    writable, has files of other samples, or lacks samples at the end.
    """
    for name, size in (("batch_size", batch_size), ("shard_size", shard_size)):
        whole(name, size, 1)
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
        if processes.is_first():  # other processes may see new files late on a shared disk
            _check_complete(place, shards)
    return [place.path(shard) for shard in shards]


def _count(shards: Sequence[Range]) -> int:
    return sum(shard.stop - shard.start for shard in shards)


def _claim(
    place: RangeFiles, settings: dict[str, Any], model: Model, held: contextlib.ExitStack
) -> None:
    """Acquires the lock of a folder; writes the manifest if there are no samples yet."""
    held.callback(hold_inside(place.folder))
    files.remove_unfinished(place.folder)
    if any(place.paths()):
        return
    described = {"settings": settings, "sha256": manifest.sha256_json(settings)}
    described |= {"label_names": list(model.label_names), "config": to_json(model.config)}
    described |= {"versions": manifest.versions()}
    files.save_text(place.folder / MANIFEST, json.dumps(described, indent=1))


def _check_settings(folder: Path, ours: dict[str, Any]) -> None:
    """Raises ValueError if settings are different or unknown, or a process cannot see `folder`."""
    path = folder / MANIFEST
    check_shared(path)
    if not path.exists():
        raise ValueError(f"{folder} holds samples but no {MANIFEST}: give another folder")
    try:
        described = reading.read_json(path)
        theirs = dict(described["settings"])
        intact = manifest.sha256_json(theirs) == described["sha256"]
        theirs = upgraded(theirs)
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise ValueError(
            f"{path}, the settings of the samples in this folder, is unreadable or was edited: "
            "give another folder"
        )
    # Digests come last, because another checkpoint step is more informative.
    for field in sorted(ours | theirs, key=lambda field: field in ("model", "classifier")):
        their, our = theirs.get(field), ours.get(field)
        if json.dumps(our) != json.dumps(their):  # NaN equals NaN
            raise ValueError(
                f"{folder} holds samples with {field}={their}, not {our}: use that value or "
                "another folder"
            )


def _check_strays(place: RangeFiles, shards: Sequence[Range]) -> None:
    """Raises OSError if a file is named like a shard but is not one of `shards`."""
    for shard in sorted(set(place.found()).difference(shards)):
        raise OSError(
            f"{place.path(shard)} overlaps another file, or exceeds the {shards[-1].stop} "
            "requested samples: remove it, or use another folder"
        )


def _check_complete(place: RangeFiles, shards: Sequence[Range]) -> None:
    """Raises OSError naming a file that is not one of `shards`, or the first missing sample."""
    _check_strays(place, shards)
    reached, num_samples = place.reached(shards[-1].stop), shards[-1].stop
    if reached < num_samples:
        raise OSError(
            f"sample {reached} of {num_samples} is missing from {place.folder}: run again to draw "
            "it, with a folder that all processes share"
        )


def _is_complete(path: Path, count: int, shape: tuple[int, ...]) -> bool:
    """Whether a file exists and holds `count` samples, all of them readable."""
    if not path.exists():
        return False
    try:
        # Reading an array verifies its checksum in the archive.
        with reading.open_npz(path) as file:
            drawn, labels = file["images"], file["labels"]
        if drawn.shape == (count, *shape) and drawn.dtype == np.uint8 and labels.shape == (count,):
            return True
        why = f"images of {drawn.shape}"
    except Exception as error:  # a damaged file raises many types
        why = manifest.reason(error)
    logging.warning("%s is damaged (%s): drawing its samples again", path, why)
    return False


def _draw_missing(
    samples: Samples, own: Sequence[Range], place: RangeFiles, batch_size: int
) -> None:
    """Writes the shards of this process that are missing or damaged."""
    shape, total = samples.model.shape, _count(own)
    missing = [s for s in own if not _is_complete(place.path(s), _count([s]), shape)]
    with Progress(total - _count(missing), total, "image", first="compiling") as progress:
        for shard in missing:
            batches = []
            for index, num_new in devices.index_batches(*shard, batch_size):
                batches.append([values[:num_new] for values in samples.draw(index)])
                progress.advance(num_new)
            drawn, labels = map(np.concatenate, zip(*batches, strict=True))
            files.save_npz(place.path(shard), images=drawn, labels=labels)
