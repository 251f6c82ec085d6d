"""How are many images looked at, so that the work survives being killed?

Images 0, 1, ... come in batches, and every so often all that is known of the first n of them is
written as one whole file `state.npz`, n with it. What grows with n, features or the images
themselves, is written before that as a file of its own since the last time; files from beyond n are
left by a run that was killed, and removed. So nothing is counted twice, and nothing is missed.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from cfg_jax.evaluation.sums import Sums
from cfg_jax.features import FeatureNetwork
from cfg_jax.images import whole_file
from cfg_jax.metric_log import Pace

SAVE_SECONDS = 20.0
STATE = "state.npz"


class Accumulated(NamedTuple):
    """sums: of all images. rows: their features float32 [N, D] in order, None if not kept."""

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
    """The sums of images 0..total - 1, continued from what is in `folder`.

    The result differs by rounding only from one batch size to another. Memory does not depend on
    `total` unless rows are kept; on disk the state is that of the sums, 70 MB for Inception.

    Args:
      images_at: (index [batch_size]) -> uint8 images [batch_size, H, W, C], each a function of its
        index alone; called from another thread, a batch ahead.
      total: N, 1 or more.
      network: to see them through.
      folder: of this work alone.
      identity: what the images and the network are, as JSON; a state of others is not continued.
      batch_size: images at a time; the last batch is filled up.
      keep_rows: also keep the features.
      keep_images: also keep the images, in files `images_*.npz`.
    """
    keeps = {"rows": keep_rows, "images": keep_images}
    position, sums = _resume(folder, {"identity": identity, "keeps": keeps})
    described = json.dumps({"identity": identity, "keeps": keeps}, sort_keys=True)
    pending: dict[str, list[np.ndarray]] = {name: [] for name in keeps if keeps[name]}
    saved_at, pending_from = time.monotonic(), position
    pace = Pace(position, total, "image")
    try:
        for index, images in _ahead(images_at, position, total, min(batch_size, total)):
            outputs = network.function(images)
            count = len(index)
            outputs = type(outputs)(*(None if a is None else a[:count] for a in outputs))
            seen = Sums.of(outputs, index)
            sums = seen if sums is None else sums.merge(seen)
            for name, values in (("rows", outputs.features), ("images", images[:count])):
                if name in pending:
                    pending[name].append(values)
            position += count
            pace.advance(count)
            if position == total or time.monotonic() - saved_at >= SAVE_SECONDS:
                for name, parts in pending.items():
                    _write(
                        folder / f"{name}_{pending_from:08d}_{position:08d}.npz",
                        {name: np.concatenate(parts)},
                    )
                    parts.clear()
                state = {"described": described, "position": position, **sums.arrays()}
                _write(folder / STATE, state)
                saved_at, pending_from = time.monotonic(), position
    finally:
        pace.close()
    return Accumulated(sums, _read_rows(folder) if keep_rows else None)


def _ahead(
    images_at: Callable[[np.ndarray], np.ndarray], start: int, total: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(index [n], images [batch_size]) from `start` on, the next batch made while one is used."""
    with ThreadPoolExecutor(1) as thread:
        ahead = None
        for first in [*range(start, total, batch_size), None]:
            current = ahead
            if first is not None:
                # The last batch is filled up, so that one shape is compiled.
                filled = np.minimum(np.arange(first, first + batch_size), total - 1)
                index = filled[: total - first]
                ahead = index, thread.submit(images_at, filled)
            if current is not None:
                yield current[0], current[1].result()


def _resume(folder: Path, wanted: dict[str, Any]) -> tuple[int, Sums | None]:
    """How many images are done, and their sums; clears away what belongs to another run."""
    position, sums, described = _read_state(folder)
    keeps = described.get("keeps", {})
    lacking = [name for name, kept in wanted["keeps"].items() if kept and not keeps.get(name)]
    same = described.get("identity") == json.loads(json.dumps(wanted["identity"]))
    whole = all(_covers(folder, name, position) for name, kept in keeps.items() if kept)
    if sums is not None and (lacking or not same or not whole):
        missing = f" without {' and '.join(lacking)}" if lacking else ""
        logging.warning("%s holds another state%s: starting anew", folder, missing)
        position, sums = 0, None
        (folder / STATE).unlink()
    for name in wanted["keeps"]:
        for path in folder.glob(f"{name}_*.npz"):
            if _place(path)[0] >= position:
                path.unlink()
    for path in folder.glob("*.unfinished"):
        path.unlink()
    return position, sums


def _read_state(folder: Path) -> tuple[int, Sums | None, dict[str, Any]]:
    path = folder / STATE
    if not path.exists():
        return 0, None, {}
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            named = dict(file)
        described = json.loads(str(named["described"]))
        return int(named["position"]), Sums.from_arrays(named), described
    except Exception as error:  # a damaged file raises many types
        logging.warning("%s cannot be read (%s): starting anew", path, type(error).__name__)
        return 0, None, {}


def _covers(folder: Path, name: str, position: int) -> bool:
    """Whether the files of `name` hold all of 0..position - 1."""
    places = sorted(_place(path) for path in folder.glob(f"{name}_*.npz"))
    reached = 0
    for start, stop in places:
        if start == reached and stop <= position:
            reached = stop
    return reached == position


def _place(path: Path) -> tuple[int, int]:
    """(start, stop) of the images in a file."""
    _, start, stop = path.stem.rsplit("_", 2)
    return int(start), int(stop)


def _read_rows(folder: Path) -> np.ndarray:
    parts = []
    for path in sorted(folder.glob("rows_*.npz")):
        with np.load(path, allow_pickle=False) as file:
            parts.append(file["rows"])
    return np.concatenate(parts)


def _write(path: Path, arrays: dict[str, Any]) -> None:
    with whole_file(path) as file:
        np.savez(file, **arrays)
