"""File of reference statistics, readable by ADM and pytorch-fid.

One `.npz` holds `mu` [D] and `sigma` [D, D], optionally `mu_s` and `sigma_s` of the spatial
features (sFID), `count` and `count_s`, and `manifest`, a JSON text that describes their source.
ADM's reference batches and the statistics of pytorch-fid and JiT use the same names, and
`load_statistics` reads them. Nothing is unpickled.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cfg_jax.io.files import folder, save_npz
from cfg_jax.io.reading import UNREADABLE, open_npz, parse_json
from cfg_jax.io.text import one_line
from cfg_jax.metrics.moments import FeatureStatistics


class Moments(NamedTuple):
    """Mean [D] and covariance [D, D], float64, of `count` rows; None if the count is unknown."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None  # type: ignore[assignment]  # hides tuple.count, which no caller needs


class SavedStatistics(NamedTuple):
    """Contents of a statistics file; missing `spatial` is None, a missing `manifest` is empty."""

    pool: Moments
    spatial: Moments | None
    manifest: dict[str, Any]


def save_statistics(
    path: str | Path,
    stats: FeatureStatistics,
    *,
    spatial: FeatureStatistics | None = None,
    **manifest: Any,
) -> None:
    """Writes the moments of pool features, and of spatial features, to `path` atomically.

    ADM's evaluator needs both. `manifest` describes the source as JSON values, e.g. data set,
    resize, weights. Raises ValueError if there are fewer than two rows or the manifest is not
    JSON-serialisable, and OSError if `path` is not writable.
    """
    try:
        arrays: dict[str, ArrayLike] = {"manifest": json.dumps(manifest)}
    except TypeError as error:
        raise ValueError(f"the manifest must be what JSON can hold: {error}") from error
    for suffix, moments in (("", stats), ("_s", spatial)):
        if moments is not None:
            arrays[f"mu{suffix}"] = moments.mean
            arrays[f"sigma{suffix}"] = moments.covariance
            arrays[f"count{suffix}"] = moments.count
    save_npz(folder(path), **arrays)


def load_statistics(path: str | Path) -> SavedStatistics:
    """Moments in a file of `save_statistics`, ADM, pytorch-fid or JiT; images are not read.

    Raises ValueError if the file is missing, damaged, not an `.npz`, pickled or without `mu` and
    `sigma`, if moments have mismatched shapes or values that are not finite, or if a count or the
    manifest has a different type.
    """
    try:
        with open_npz(folder(path)) as file:
            wanted = ("mu", "sigma", "count", "mu_s", "sigma_s", "count_s", "manifest")
            names = list(file)
            arrays = {name: file[name] for name in wanted if name in file}
            manifest = _manifest(arrays.pop("manifest", np.asarray("{}")))
    except UNREADABLE as error:
        raise ValueError(f"{path} {_complaint(error)}") from error
    if not {"mu", "sigma"} <= set(arrays):
        raise ValueError(
            f"{path} holds {', '.join(names) or 'nothing'}, no mu and sigma: give a statistics "
            "file, or compute them from the images"
        )
    spatial = _moments(path, arrays, "_s") if {"mu_s", "sigma_s"} <= set(arrays) else None
    return SavedStatistics(_moments(path, arrays, ""), spatial, manifest)


def _manifest(text: np.ndarray) -> dict[str, Any]:
    """The manifest as `save_statistics` takes it; ValueError for another text."""
    manifest = parse_json(text.item()) if text.dtype.kind == "U" and text.size == 1 else None
    if not isinstance(manifest, dict):
        raise ValueError("its manifest is not the text of a JSON object")
    for field, kind in (("name", str), ("image_shape", list)):
        if not isinstance(manifest.get(field, kind()), kind):
            raise ValueError(f"{field} in its manifest is {manifest[field]!r}")
    return manifest


def _complaint(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist: give an .npz with mu and sigma, or compute it from the images"
    if "pickle" in str(error):
        return (
            "is not an .npz of plain arrays; pickles and Python objects could run code and are not "
            "opened: give an .npz with mu and sigma, or compute the statistics from the images"
        )
    what = f"{type(error).__name__}: {one_line(error)}"
    return f"cannot be read ({what}): give a valid .npz with mu and sigma"


def _moments(path: str | Path, arrays: dict[str, np.ndarray], suffix: str) -> Moments:
    mean, covariance = arrays[f"mu{suffix}"], arrays[f"sigma{suffix}"]
    numbers = all(array.dtype.kind in "fiu" for array in (mean, covariance))
    if not numbers or mean.ndim != 1 or not mean.size or covariance.shape != mean.shape * 2:
        raise ValueError(
            f"{path} has mu{suffix} {mean.dtype}{list(mean.shape)} and sigma{suffix} "
            f"{covariance.dtype}{list(covariance.shape)}: give numbers of shapes [D] and [D, D]"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(
            f"{path} has nan or inf in mu{suffix} or sigma{suffix}: recompute the statistics"
        )
    count = arrays.get(f"count{suffix}")
    if count is not None and (count.size != 1 or count.dtype.kind not in "iu" or count.item() < 2):
        raise ValueError(
            f"{path} has count{suffix} {one_line(count)}: give one integer, the "
            "number of rows, at least 2"
        )
    return Moments(
        mean.astype(np.float64),
        covariance.astype(np.float64),
        None if count is None else int(count.item()),
    )
