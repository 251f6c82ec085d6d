"""Resumable accumulation of statistics over many images.

Every SAVE_SECONDS process 0 writes n and the sums of the first n images to one file, `state.npz`.
Before that, it writes the features and images since the last save to separate files. A resumed run
continues at n and removes the files beyond n that an interrupted run left; no image counts twice.

Each process evaluates its part of a batch, and all gather the outputs of the complete batch. A
resumed run may therefore have a different number of processes.
"""

import collections
import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from cfg_jax.evaluation.networks import FeatureNetwork, Outputs
from cfg_jax.evaluation.sums import Sums
from cfg_jax.io.files import remove_unfinished, whole_file
from cfg_jax.io.progress import Progress
from cfg_jax.io.ranges import Range, RangeFiles, tile
from cfg_jax.io.reading import UNREADABLE, open_npz, parse_json
from cfg_jax.io.text import one_line
from cfg_jax.runtime import devices, processes

SAVE_SECONDS = 20.0

# A device executes programs in the order of calls, so the features of batch i come after the images
# of batch i + 1. With batch i + 2 requested too, the device draws while the host adds up batch i.
AHEAD = 2

STATE = "state.npz"


class Accumulated(NamedTuple):
    """Sums over all images, and their features float32 [N, D] in order or None if not kept."""

    sums: Sums
    rows: np.ndarray | None


def accumulate(
    images_at: Callable[[np.ndarray], np.ndarray],
    total: int,
    network: FeatureNetwork,
    folder: Path,
    *,
    identity: dict[str, Any],
    batch_size: int,
    keep_rows: bool = False,
    keep_images: bool = False,
) -> Accumulated:
    """Feature sums over images 0, ..., total - 1. Resumes from the state in `folder`.

    Memory does not depend on `total` unless keep_rows is set. The state on disk has the size of the
    sums, 70 MB for Inception. Every process of the run must make this call.

    Args:
      images_at: (index [n]) -> uint8 images [n, H, W, C], each a function of its index alone;
        called from a background thread, AHEAD batches in advance.
      total: number of images N, at least 1.
      network: network whose outputs are summed.
      folder: folder of the state, visible to all processes and used by no other call; created if
        missing.
      identity: JSON description of images and network; a state with a different identity is
        discarded.
      batch_size: number of images per batch over all processes; changes results by rounding only.
      keep_rows: also keep the features.
      keep_images: also keep the images, in files `images_*.npz`.
    """
    work = _Work(folder, identity, {"rows": keep_rows, "images": keep_images})
    start = work.position
    with Progress(start, total, "image", first="compiling") as progress:
        for index, images in _ahead(images_at, start, total, min(batch_size, total)):
            outputs = processes.gather(network.function(images), len(index))
            work.add(index, outputs, processes.gather(images, len(index)) if keep_images else None)
            progress.advance(len(index))
            work.save(last=work.position == total)
    processes.wait_for_all("all images are looked at")
    return Accumulated(work.sums, work.read_rows() if keep_rows else None)


class _Work:
    """Sums of the first `position` images; raises ValueError if processes see other states."""

    position: int
    sums: Sums | None

    def __init__(self, folder: Path, identity: dict[str, Any], keeps: dict[str, bool]):
        self._folder = folder
        self._described = json.loads(json.dumps({"identity": identity, "keeps": keeps}))
        processes.by_first(self._clear)
        self.position, self.sums, _ = self._read()
        found = processes.of_each(self.position if folder.is_dir() else -1)
        if len(set(found)) > 1:
            raise ValueError(
                f"the processes find {found} images in {folder}, -1 if it does not exist: give a "
                "folder that all of them share"
            )
        self._pending: dict[str, list] = {name: [] for name, kept in keeps.items() if kept}
        self._saved, self._saved_at = self.position, time.monotonic()

    def add(self, index: np.ndarray, outputs: Outputs, images: np.ndarray | None) -> None:
        """Adds the next images, numbered `index`."""
        seen = Sums.of(outputs, index)
        self.sums = seen if self.sums is None else self.sums.merge(seen)
        self.position += len(index)
        if processes.is_first():
            for name, parts in self._pending.items():
                parts.append({"rows": outputs.features, "images": images}[name])

    def save(self, *, last: bool) -> None:
        """Writes the state if SAVE_SECONDS have passed or this is the last batch."""
        due = last or time.monotonic() - self._saved_at >= SAVE_SECONDS
        if not due or not processes.is_first():
            return
        for name, parts in self._pending.items():
            path = RangeFiles(self._folder, name).path(Range(self._saved, self.position))
            _write(path, {name: np.concatenate(parts)})
            parts.clear()
        described = json.dumps(self._described, sort_keys=True)
        state = {"described": described, "position": self.position, **self.sums.arrays()}
        _write(self._folder / STATE, state)
        self._saved, self._saved_at = self.position, time.monotonic()

    def read_rows(self) -> np.ndarray:
        """Features of all images, in order; OSError unless the files hold each once."""
        files, parts = RangeFiles(self._folder, "rows"), []
        if not tile(files.found(), self.position):
            raise OSError(
                f"{self._folder} has not the features of {self.position} images, each once: "
                "delete it to compute them again"
            )
        try:
            for items in files.found():
                with open_npz(files.path(items)) as file:
                    parts.append(file["rows"])
            return np.concatenate(parts)
        except (KeyError, *UNREADABLE) as error:
            raise OSError(
                f"{self._folder} has damaged features ({one_line(error)}): delete it to compute "
                "them again"
            ) from error

    def _read(self) -> tuple[int, Sums | None, dict[str, Any]]:
        """Position, sums and description of the state in the folder."""
        path = self._folder / STATE
        if not path.exists():
            return 0, None, {}
        try:
            with open_npz(path) as file:
                named = dict(file)
            described = parse_json(str(named["described"]))
            return int(named["position"]), Sums.from_arrays(named), described
        except Exception as error:  # a damaged file raises many types
            logging.warning("%s cannot be read (%s): starting again", path, type(error).__name__)
            return 0, None, {}

    def _tile(self, name: str, position: int) -> bool:
        """Whether the files that are not beyond `position` hold the items before it, each once."""
        found = RangeFiles(self._folder, name).found()
        return tile([items for items in found if items.start < position], position)

    def _clear(self) -> None:
        """Removes the state of other work, and files beyond the state's position."""
        folder, wanted = self._folder, self._described
        if jax.process_count() > 1:
            folder.mkdir(parents=True, exist_ok=True)
        position, sums, described = self._read()
        kept = [name for name, keep in described.get("keeps", {}).items() if keep]
        lacking = [name for name, keep in wanted["keeps"].items() if keep and name not in kept]
        complete = all(self._tile(name, position) for name in kept)
        same = described.get("identity") == wanted["identity"]
        if sums is not None and (lacking or not same or not complete):
            missing = f" without {' and '.join(lacking)}" if lacking else ""
            logging.warning("%s holds another state%s: starting again", folder, missing)
            position = 0
        if position == 0:
            (folder / STATE).unlink(missing_ok=True)
        for name in wanted["keeps"]:
            files = RangeFiles(folder, name)
            for items in files.found():
                if items.start >= position:
                    files.path(items).unlink()
        remove_unfinished(folder)


def _ahead(
    images_at: Callable[[np.ndarray], np.ndarray], start: int, total: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (index [n], this process's part of images [batch_size]), AHEAD batches in advance."""
    thread = ThreadPoolExecutor(1)
    batches = (
        (index[:count], thread.submit(images_at, processes.share(index)))
        for index, count in devices.index_batches(start, total, batch_size)
    )
    try:
        waiting = collections.deque(itertools.islice(batches, AHEAD))
        while waiting:
            waiting.extend(itertools.islice(batches, 1))
            index, images = waiting.popleft()
            yield index, images.result()
    finally:
        thread.shutdown(cancel_futures=True)


def _write(path: Path, arrays: dict[str, Any]) -> None:
    with whole_file(path) as file:
        np.savez(file, **arrays)
