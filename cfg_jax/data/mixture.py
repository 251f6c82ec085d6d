"""Labelled points of a Gaussian mixture, as a source like the image data sets of `sources`.

p(label = k) = weights[k] and p(x | label = k) = N(means[k], std[k]^2 I). The score is known in
closed form (`cfg_jax.core.oracles`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cfg_jax.core.oracles import triangle

SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class MixtureSource:
    """Points drawn once, when the source is created; `source[i]` is always the same point.

    Attributes:
      split: "train" or "test", independent draws of the same size.
      means: [K, D]. std: [K]. weights: [K], summing to 1.
      seed: random seed of the points, not of the order in which `batches` reads them.
      points: float32 [size, D]. labels: int32 [size] in [0, K).
    """

    split: str
    means: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    seed: int
    points: np.ndarray
    labels: np.ndarray
    name: str = "mixture"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.points.shape[1:]

    @property
    def num_classes(self) -> int:
        return len(self.means)

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.num_classes)))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"x": float32 [D], "label": int32 []}; IndexError outside the source."""
        return {"x": self.points[index], "label": self.labels[index]}

    def fingerprint(self) -> dict:
        """Everything the points depend on, as JSON values."""
        return {
            "dataset": self.name,
            "split": self.split,
            "num_examples": len(self),
            "means": self.means.tolist(),
            "std": self.std.tolist(),
            "weights": self.weights.tolist(),
            "seed": self.seed,
        }


def open_mixture(
    split: str,
    *,
    means: Sequence[Sequence[float]] | None = None,
    std: float | Sequence[float] = 0.25,
    weights: Sequence[float] | None = None,
    size: int = 10_000,
    seed: int = 0,
) -> MixtureSource:
    """Draws `size` points of the mixture; raises ValueError if an argument is out of range.

    Args:
      split: "train" or "test".
      means: [K, D], one per class; None is `oracles.triangle`.
      std: positive standard deviation, one for all classes or [K].
      weights: [K], not negative, with any positive sum; None is equal weights.
      size: number of points, at least 1.
      seed: random seed, not negative.
    """
    means, std, weights = _parameters(triangle() if means is None else means, std, weights)
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: the mixture has the splits {', '.join(SPLITS)}")
    if size < 1 or seed < 0:
        raise ValueError(f"size is {size} and seed is {seed}: give size >= 1 and seed >= 0")
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    labels = rng.choice(len(means), size=size, p=weights).astype(np.int32)
    noise = rng.standard_normal((size, means.shape[1]))
    points = (means[labels] + std[labels, None] * noise).astype(np.float32)
    return MixtureSource(split, means, std, weights, seed, points, labels)


def _parameters(means, std, weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Validated means [K, D], std [K] and normalised weights [K], as float64."""
    means = np.asarray(means, np.float64)
    if means.ndim != 2 or not means.size or not np.isfinite(means).all():
        raise ValueError(
            f"means has the shape {means.shape}: give finite numbers [K, D], one row per class"
        )
    count = len(means)
    std = np.asarray(std, np.float64)
    if std.shape not in ((), (count,)) or not (np.isfinite(std) & (std > 0)).all():
        raise ValueError(f"std is {std.tolist()}: give one positive number, or {count} of them")
    weights = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != (count,) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ValueError(
            f"weights is {weights.tolist()}: give {count} numbers, none negative, some positive"
        )
    return means, np.broadcast_to(std, (count,)), weights / weights.sum()
