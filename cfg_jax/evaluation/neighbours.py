"""Are samples copies of training images?

    d(x) = distance of x to the nearest training image
    closer(q) = fraction of samples with d below the q-quantile of d over held-out images

A model that has learned the distribution, and not the images, has closer(q) = q. Distances are
root mean squares over pixels, in grey levels of 0..255, or distances of features.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cfg_jax import data
from cfg_jax.evaluation.given import GivenImages, images_of
from cfg_jax.io import images
from cfg_jax.io.progress import track
from cfg_jax.io.reading import UNREADABLE, read_json
from cfg_jax.metrics.neighbors import Nearest, nearest
from cfg_jax.runtime import devices
from cfg_jax.sampling.samples import Samples

NEIGHBOURS = 3
QUANTILES = (0.1, 0.5)
FEW = 100
"""Below this number of held-out images, fractions are coarse."""

_AT_ONCE = 256  # images embedded at a time

Embed = Callable[[np.ndarray], np.ndarray]
"""uint8 images [n, H, W, C] -> rows [n, D]."""


class Neighbours(NamedTuple):
    """Samples and their nearest training images.

    images: samples, uint8 [N, H, W, C].
    nearest: distances and indices of their nearest training images, [N, k].
    pictures: these training images, uint8 [N, k, H, W, C], mirrored where that is nearer.
    held_out: distances of M held-out images to their nearest training image, [M].
    """

    images: np.ndarray
    nearest: Nearest
    pictures: np.ndarray
    held_out: np.ndarray

    def closer(self, quantile: float) -> float:
        """Fraction of samples closer than this quantile of the held-out images; see above."""
        distance, bound = self.nearest.distance[:, 0], np.quantile(self.held_out, quantile)
        # Half of the ties: a copy has distance 0, as a held-out image may.
        return float((np.mean(distance < bound) + np.mean(distance <= bound)) / 2)

    def verdict(self) -> str:
        """Comparison of closer(q) with q at QUANTILES, in words, at two standard errors."""
        counts = 1 / len(self.images) + 1 / len(self.held_out)
        apart = [
            (self.closer(quantile) - quantile) / np.sqrt(quantile * (1 - quantile) * counts)
            for quantile in QUANTILES
        ]
        if max(apart) > 2:
            return "closer than held-out images: look at the picture for copies"
        if min(apart) < -2:
            return "farther than held-out images: no copies seen, but noise is far, too"
        return "about as close as held-out images: no copies seen"


def pixels(pictures: np.ndarray) -> np.ndarray:
    """Rows whose Euclidean distance is the root mean square difference of two images."""
    rows = pictures.reshape(len(pictures), -1).astype(np.float64)
    return rows / np.sqrt(rows.shape[1])


def neighbours(
    samples: Samples | GivenImages,
    training: data.Source,
    held_out: data.Source,
    *,
    embed: Embed = pixels,
    mirrored: bool = False,
    k: int = NEIGHBOURS,
    batch_size: int = 256,
) -> Neighbours:
    """Finds the k nearest training images of samples, and of held-out images.

    Memory holds the samples and the held-out images, and parts of the training images.

    Args:
      samples: samples to compare.
      training, held_out: sources of images of one shape.
      embed: space of the distances, `pixels` or the features of a network.
      mirrored: whether training showed the network mirrored images too.
      k: number of neighbours.
      batch_size: number of samples drawn at a time.

    Raises ValueError if `samples.check` does, for other shapes, and for too few training images.
    """
    samples.check()
    for source in (training, held_out):
        if tuple(source.shape) != tuple(samples.shape):
            raise ValueError(
                f"{source.name} {source.split} has images of {source.shape}, the samples are "
                f"{samples.shape}: give data of the same size"
            )
    if len(training) < k:
        raise ValueError(
            f"{training.name} {training.split} has {len(training)} images: need {k} or more"
        )
    batches = devices.index_batches(0, samples.num_samples, min(batch_size, samples.num_samples))
    drawn = np.concatenate(
        [samples.draw(index)[0][:num_new] for index, num_new in track(batches, "batch")]
    )
    parts = [drawn[start : start + _AT_ONCE] for start in range(0, len(drawn), _AT_ONCE)]
    rows = np.concatenate([embed(part) for part in (*parts, *_in_parts(held_out))])
    views = 2 if mirrored else 1

    def parts_of_training() -> Iterator[np.ndarray]:
        for part in _in_parts(training):
            both = np.stack([part, part[:, :, ::-1]][:views], axis=1)  # an image beside its mirror
            yield embed(both.reshape(-1, *part.shape[1:]))

    found = nearest(rows, parts_of_training(), views * k)
    chosen = [_distinct(index // views, k) for index in found.rows]
    distance, index = (np.take_along_axis(values, np.array(chosen), axis=1) for values in found)
    count = len(drawn)
    pictures = [[_view(training, i, views) for i in row] for row in index[:count].tolist()]
    own = Nearest(distance[:count], index[:count] // views)
    return Neighbours(drawn, own, np.array(pictures), distance[count:, 0])


def read_distances(path: Path) -> dict[str, Any]:
    """Distances of `cfg-jax neighbours` by caption, {} without a file; ValueError for another."""
    found = None
    with contextlib.suppress(*UNREADABLE):
        found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} has no distances of neighbours: remove it, or give another folder"
        )
    return found


def check_splits(training: str, held_out: str) -> None:
    """Raises ValueError for names of splits that share images; two slices are not compared."""
    splits = training, held_out
    ours, theirs = ({part.partition("[")[0] for part in each.split("+")} for each in splits)
    sliced = all("[" in each for each in splits)
    if "all" in ours | theirs or (ours & theirs and not sliced):
        raise ValueError(
            f"--held_out={held_out} has images of the training split {training!r}: give a split "
            "that the model was not trained on"
        )


def _distinct(index: np.ndarray, k: int) -> np.ndarray:
    """Places of the first k different values."""
    return np.sort(np.unique(index, return_index=True)[1])[:k]


def _view(source: data.Source, number: int, views: int) -> np.ndarray:
    (picture,) = images_of(source, [number // views])
    return picture[:, ::-1] if number % views else picture


def _in_parts(source: data.Source) -> Iterator[np.ndarray]:
    """All images of a source, uint8, some at a time."""
    for start in track(range(0, len(source), _AT_ONCE), "part", first=""):
        yield images_of(source, range(start, min(start + _AT_ONCE, len(source))))


def strip(found: Neighbours, rows: int = 10) -> images.Picture:
    """Samples in the first column, from the closest to the farthest, beside their neighbours."""
    order = np.argsort(found.nearest.distance[:, 0], kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(rows, len(order))).round().astype(int)]
    pictures = np.concatenate([found.images[chosen][:, None], found.pictures[chosen]], axis=1)
    distances = [f"{distance:.3g}" for distance in found.nearest.distance[chosen, 0]]
    columns = ["sample", "nearest", *(f"{n}." for n in range(2, pictures.shape[1]))]
    return images.captioned_grid(pictures, distances, columns)
