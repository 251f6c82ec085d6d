"""Reference statistics of real images, which samples are compared with.

The moments come from a split of a data set, computed once per feature network and stored, or from
a file of cfg_jax, ADM, pytorch-fid or JiT. Precision and recall use features of up to 10,000
images.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cfg_jax import data
from cfg_jax.evaluation.accumulate import STATE, accumulate
from cfg_jax.evaluation.networks import INCEPTION, FeatureNetwork
from cfg_jax.evaluation.sums import Sums
from cfg_jax.io import files, reading
from cfg_jax.io.images import to_images
from cfg_jax.io.progress import track
from cfg_jax.metrics import Moments, SavedStatistics, load_statistics, save_statistics
from cfg_jax.runtime import processes
from cfg_jax.storage import manifest
from cfg_jax.storage.lock import one_writer

MOST_ROWS = 10_000
"""Customary maximum of reference images for precision and recall."""

INCEPTION_WIDTHS = {"pool": 2048, "spatial": 2023}
STATISTICS = "statistics.npz"


class Reference(NamedTuple):
    """Moments of real images and their source.

    name: data set with split, e.g. "digits train", or the file name.
    sha256: SHA-256 of network, data and number of images, or of the moments if these are unknown.
    network_sha256: SHA-256 of the feature network.
    shape: (H, W, C) of one image; None if unknown.
    count: number of images; None if unknown.
    pool, spatial: mean and covariance; spatial may be None.
    rows: pool features [M, D] for precision and recall; None if not requested.
    """

    name: str
    sha256: str
    network_sha256: str
    shape: tuple[int, ...] | None
    count: int | None
    pool: Moments
    spatial: Moments | None
    rows: np.ndarray | None


def data_reference(
    network: FeatureNetwork,
    source: data.Source,
    folder: str | Path,
    *,
    with_rows: bool = False,
    batch_size: int = 256,
    num_threads: int = 2,
) -> Reference:
    """Reference of an opened split; computed on first use, stored in `folder`, resumable.

    Args:
      network: feature network that embeds the images.
      source: data set, as from `open_source`.
      folder: folder of all references, e.g. `<workdir>/evaluations`, visible to all processes.
      with_rows: also compute the features for precision and recall, for all images or for MOST_ROWS
        images drawn with a fixed seed.
      batch_size: number of images per batch over all processes.
      num_threads: number of threads that read and decode images.

    Raises ValueError if examples are not images, if features are not finite, or if another process
    computes the same reference.
    """
    if len(source.shape) != 3:
        raise ValueError(f"{source.name} has examples of shape {source.shape}: need [H, W, C]")
    identity = network.identity | {
        "data": source.fingerprint(),
        "name": f"{source.name} {source.split}",
        "num_images": len(source),
        "image_shape": list(source.shape),
    }
    place = files.folder(folder) / f"reference_{manifest.sha256_json(identity)[:16]}"

    def look(chosen: np.ndarray, place: Path, **options: Any):
        with ThreadPoolExecutor(num_threads) as threads:

            def images_at(index: np.ndarray) -> np.ndarray:
                examples = threads.map(source.__getitem__, chosen[index].tolist())
                return to_images(np.stack([example["x"] for example in examples]))

            return accumulate(
                images_at,
                len(chosen),
                network,
                place,
                identity=identity,
                batch_size=batch_size,
                **options,
            )

    rows = None
    if with_rows or not processes.of_first((place / STATISTICS).exists()):
        with one_writer(place):
            if not processes.of_first((place / STATISTICS).exists()):
                sums = look(np.arange(len(source)), place).sums
                if processes.is_first():
                    _save(place, sums, identity)
                processes.wait_for_all("the reference is written")
            if with_rows:
                chosen = np.arange(len(source))
                if len(chosen) > MOST_ROWS:
                    chosen = np.random.default_rng(0).choice(chosen, MOST_ROWS, replace=False)
                rows = look(np.sort(chosen), place / "rows", keep_rows=True).rows
    return _reference(network, place / STATISTICS, load_statistics(place / STATISTICS), rows)


def _save(place: Path, sums: Sums, identity: dict[str, Any]) -> None:
    with warnings.catch_warnings(action="ignore"):  # results record their rank warnings
        save_statistics(place / STATISTICS, sums.pool, spatial=sums.spatial, **identity)
    (place / STATE).unlink()


def file_reference(
    network: FeatureNetwork, path: str | Path, *, with_rows: bool = False, batch_size: int = 256
) -> Reference:
    """Reference in an `.npz` of cfg_jax, ADM, pytorch-fid or JiT.

    A file without a manifest is taken as statistics of Inception, and is known by its name and the
    SHA-256 of its numbers.

    Args:
      network: network of the samples; must match the network that the file names, if any.
      with_rows: also compute the features, from the images `arr_0` of ADM's files.

    Raises ValueError as `load_statistics`, if the moments belong to a different network or width,
    or if with_rows is set and the file has no images.
    """
    saved = load_statistics(path)
    if saved.manifest:
        _check_network(network, saved.manifest, path)
    else:
        _check_foreign(network, saved, path)
    rows = _rows_of_images(network, path, batch_size) if with_rows else None
    return _reference(network, path, saved, rows)


def _reference(
    network: FeatureNetwork, path: str | Path, saved: SavedStatistics, rows: np.ndarray | None
) -> Reference:
    """Reference in a file, identified by its manifest, or by its numbers without a manifest."""
    said = saved.manifest
    numbers = [array for moments in saved[:2] if moments is not None for array in moments[:2]]
    return Reference(
        name=said.get("name") or Path(path).name,
        sha256=manifest.sha256_json(said) if said else manifest.sha256(numbers),
        network_sha256=network.sha256,
        shape=tuple(said["image_shape"]) if "image_shape" in said else None,
        count=saved.pool.count,
        pool=saved.pool,
        spatial=saved.spatial,
        rows=rows,
    )


def _check_network(network: FeatureNetwork, said: dict[str, Any], path: str | Path) -> None:
    for field, value in network.identity.items():
        if said.get(field) != value:
            raise ValueError(
                f"{path} was computed with {field} {said.get(field)}, the samples are embedded "
                f"with {value}: use the same network for both, or recompute the reference"
            )


def _check_foreign(network: FeatureNetwork, saved: SavedStatistics, path: str | Path) -> None:
    if network.name != INCEPTION:
        raise ValueError(
            f"{path} names no feature network, so Inception is assumed, and the samples are "
            f"embedded with {network.name}: use the same network for both"
        )
    for layer, width in INCEPTION_WIDTHS.items():
        moments = getattr(saved, layer)
        if moments is not None and moments.mean.size != width:
            raise ValueError(
                f"{path} has {layer} features of width {moments.mean.size}, Inception's have "
                f"{width}: give statistics of the FID Inception network"
            )


def _rows_of_images(network: FeatureNetwork, path: str | Path, batch_size: int) -> np.ndarray:
    try:
        with reading.open_npz(files.folder(path)) as file:
            images = file["arr_0"] if "arr_0" in file else None
    except reading.UNREADABLE as error:
        raise ValueError(f"the images arr_0 of {path} cannot be read: {error}") from error
    if images is None or images.dtype != np.uint8 or images.ndim != 4:
        found = "none" if images is None else f"{images.dtype}{list(images.shape)}"
        raise ValueError(
            f"precision and recall need real images, {path} has {found} under arr_0: give an ADM "
            "file with uint8 [N, H, W, 3], or omit precision_recall"
        )
    images = images[:MOST_ROWS]
    starts = range(0, len(images), batch_size)
    parts = [
        network.function(images[start : start + batch_size]).features
        for start in track(starts, "batch")
    ]
    return np.concatenate(parts)
