"""Evaluation of images made by any program, in place of samples of a model.

    images = open_images("samples.npz")
    result = evaluation.evaluate(images, network, reference, folder="samples.evaluations")

An .npz holds `images` or, as ADM's, `arr_0`: uint8 [N, H, W, C]. A folder holds pictures, or the
shards of `cfg-jax sample --num_samples`.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cfg_jax import data
from cfg_jax.io import files, reading
from cfg_jax.io.images import to_images
from cfg_jax.io.progress import track
from cfg_jax.io.ranges import Range, RangeFiles, tile
from cfg_jax.io.text import one_line, shown
from cfg_jax.storage import manifest

_KEYS = ("images", "arr_0")
_AT_ONCE = 256  # images


@dataclasses.dataclass(frozen=True)
class GivenImages:
    """N images, of which nothing but the pixels is known; see `Samples` for the interface.

    name: path, for reports.
    sha256: identity of the images.
    num_samples: N.
    shape: (H, W, C).
    read: (index [n]) -> uint8 images [n, H, W, C].
    """

    name: str
    sha256: str
    num_samples: int
    shape: tuple[int, int, int]
    read: Callable[[np.ndarray], np.ndarray]
    ema: ClassVar[None] = None

    def check(self) -> None:
        """Raises ValueError for fewer than two images."""
        if self.num_samples < 2:
            raise ValueError(f"{self.name} has {self.num_samples} image: need 2 or more")

    def protocol(self) -> dict[str, Any]:
        """N, label plan "given" and image shape as JSON values."""
        count, shape = self.num_samples, list(self.shape)
        return {"num_samples": count, "label_plan": "given", "image_shape": shape}

    def swept(self) -> dict[str, Any]:
        """Name and SHA-256 of the images as JSON values."""
        return {"images": self.name, "images_sha256": self.sha256}

    def record(self) -> dict[str, Any]:
        """Settings of a result that `Samples` has and images do not, all None."""
        return {"seed": None, "config": None, "classifier_config": None}

    def draw(self, index: np.ndarray) -> tuple[np.ndarray, None]:
        """The images index [B], uint8 [B, H, W, C], without labels."""
        return self.read(index), None


def open_images(place: str | Path, *, channels: int | None = None) -> GivenImages:
    """The images in an .npz or a folder.

    `channels`, 1 or 3, applies to pictures; None keeps theirs.
    Raises ValueError if there are none, if one cannot be read, and if pictures vary in size.
    """
    path = files.folder(place)
    if not path.is_dir():
        return _of_array(path)
    shards = RangeFiles(path, "samples")
    return _of_shards(shards) if any(shards.paths()) else _of_pictures(path, channels)


def _of_array(path: Path) -> GivenImages:
    images = _read_array(path)
    return _given(path, len(images), lambda index: images[index])


def _of_shards(shards: RangeFiles) -> GivenImages:
    found = _whole(shards)
    total, starts = found[-1].stop, np.array([items.start for items in found])

    @functools.lru_cache(maxsize=2)
    def load(k: int) -> np.ndarray:
        images, (start, stop) = _read_array(shards.path(found[k])), found[k]
        shape = images.shape if k == 0 else (stop - start, *load(0).shape[1:])
        if images.shape != shape or len(images) != stop - start:
            raise ValueError(
                f"{shards.path(found[k])} has images {list(images.shape)}, not those of samples "
                f"{start} to {stop - 1}: draw them again"
            )
        return images

    def read(index: np.ndarray) -> np.ndarray:
        places = (np.searchsorted(starts, index, side="right") - 1).tolist()
        return np.stack([load(k)[i - starts[k]] for k, i in zip(places, index, strict=True)])

    return _given(shards.folder, total, read)


def _whole(shards: RangeFiles) -> list[Range]:
    """The ranges of the shards; ValueError unless they hold all samples of a request, each once."""
    try:
        found = shards.found()
    except OSError as error:
        raise ValueError(f"{shards.folder}: {one_line(error)}") from error
    path = shards.folder / "manifest.json"
    try:
        wanted = reading.read_json(path)["settings"]["num_samples"] if path.exists() else None
        if wanted is not None and type(wanted) is not int:
            raise ValueError(f"num_samples is {shown(wanted)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({manifest.reason(error)}): need the number of samples, as "
            "cfg-jax sample writes it"
        ) from error
    total = found[-1].stop if wanted is None else wanted
    if not tile(found, total):
        raise ValueError(
            f"{shards.folder} has not the samples 0 to {total - 1}, each once: draw the missing "
            "ones first, or remove what overlaps"
        )
    return found


def _of_pictures(path: Path, channels: int | None) -> GivenImages:
    source = data.open_source("folder", "all", data_dir=str(path), channels=channels)

    def read(index: np.ndarray) -> np.ndarray:
        return images_of(source, index.tolist())

    return _given(path, len(source), read)


def images_of(source: data.Source, numbers: Iterable[int]) -> np.ndarray:
    """Some images of a data set, uint8 [n, H, W, C]."""
    return to_images(np.stack([source[number]["x"] for number in numbers]))


def _given(path: Path, total: int, read: Callable[[np.ndarray], np.ndarray]) -> GivenImages:
    """The images, identified by their pixels."""
    digest = hashlib.sha256()
    for start in track(range(0, total, _AT_ONCE), "batch", first=""):
        images = read(np.arange(start, min(start + _AT_ONCE, total)))
        digest.update(f"{images.shape}".encode())
        digest.update(np.ascontiguousarray(images).data)
    return GivenImages(str(path), digest.hexdigest(), total, images.shape[1:], read)


def _read_array(path: Path) -> np.ndarray:
    """The images of an .npz; ValueError unless they are uint8 [N, H, W, C]."""
    try:
        with reading.open_npz(path) as file:
            names = [name for name in _KEYS if name in file]
            images = file[names[0]] if names else None
    except reading.UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {manifest.reason(error)}") from error
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        found = "neither" if images is None else f"{names[0]} {images.dtype}{list(images.shape)}"
        raise ValueError(f"{path} has {found}: need images or arr_0, uint8 [N, H, W, C]")
    return images
