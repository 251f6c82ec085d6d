"""Mergeable sums over images: moments of pool and spatial features, and sums of the score.

Sums have the same size for any number of images, and the same values for any batches, devices and
processes. Merge sums of parts; do not average them.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from cfg_jax.evaluation.networks import Outputs
from cfg_jax.metrics import FeatureStatistics, ScoreSums

SCORE_SPLIT = 5_000
"""Images per split of the score, as in ADM and in ten splits of 50,000 images."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """Sums over images; immutable, `merge` returns a new value.

    pool: statistics of features [n, D].
    spatial: statistics of spatial features [n, S]; None if the network has none.
    score: sums of logits [n, K], in splits of SCORE_SPLIT images.
    """

    pool: FeatureStatistics
    spatial: FeatureStatistics | None
    score: ScoreSums

    @classmethod
    def of(cls, outputs: Outputs, index: np.ndarray) -> "Sums":
        """Sums of B images, row i for image index[i]; raises ValueError if not finite."""
        return cls(
            FeatureStatistics.of(outputs.features),
            None if outputs.spatial is None else FeatureStatistics.of(outputs.spatial),
            ScoreSums.empty(outputs.logits.shape[1], SCORE_SPLIT).update(outputs.logits, index),
        )

    def merge(self, other: "Sums") -> "Sums":
        """Sums over the images of both; raises ValueError if the parts do not match."""
        return Sums(
            self.pool.merge(other.pool),
            None if self.spatial is None else self.spatial.merge(other.spatial),
            self.score.merge(other.score),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Named arrays for a file or another process; the inverse of `from_arrays`."""
        named = {"score_count": self.score.count, "p": self.score.p, "p_log_p": self.score.p_log_p}
        for name in ("pool", "spatial"):
            moments = getattr(self, name)
            if moments is not None:
                named[f"{name}_count"] = np.int64(moments.count)
                named[f"{name}_mean"], named[f"{name}_scatter"] = moments.mean, moments.scatter
        return named

    @classmethod
    def from_arrays(cls, named: Mapping[str, np.ndarray]) -> "Sums":
        """Inverse of `arrays`; raises KeyError if an array is missing."""

        def moments(name: str) -> FeatureStatistics:
            count, mean, scatter = (
                named[f"{name}_{part}"] for part in ("count", "mean", "scatter")
            )
            return FeatureStatistics(int(count), mean, scatter)

        score = ScoreSums.empty(named["p"].shape[1], SCORE_SPLIT)
        return cls(
            moments("pool"),
            moments("spatial") if "spatial_count" in named else None,
            dataclasses.replace(
                score, count=named["score_count"], p=named["p"], p_log_p=named["p_log_p"]
            ),
        )
