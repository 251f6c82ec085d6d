"""What is kept of the images seen so far?

Moments of pool and spatial features, and the sums of the score: of a size that does not depend on
their number, exact however batches, devices and processes divide them, and merged, never averaged.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from cfg_jax.evaluation.networks import Outputs
from cfg_jax.metrics import FeatureStatistics, ScoreSums

SCORE_SPLIT = 5_000
"""Images of a split of the score: ADM's, and the customary ten splits of 50,000 images."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """Sums over images; a value, `merge` returns another.

    Attributes:
      pool: of features [n, D].
      spatial: of spatial features [n, S]; None for a network without.
      score: of logits [n, K], splits of SCORE_SPLIT images.
    """

    pool: FeatureStatistics
    spatial: FeatureStatistics | None
    score: ScoreSums

    @classmethod
    def of(cls, outputs: Outputs, index: np.ndarray) -> "Sums":
        """The sums of B images, row i of `outputs` being that of image index[i] of all.

        ValueError for features or logits that are not finite.
        """
        return cls(
            FeatureStatistics.of(outputs.features),
            None if outputs.spatial is None else FeatureStatistics.of(outputs.spatial),
            ScoreSums.empty(outputs.logits.shape[1], SCORE_SPLIT).update(outputs.logits, index),
        )

    def merge(self, other: "Sums") -> "Sums":
        """The sums over the images of both; ValueError as the merges of its parts."""
        return Sums(
            self.pool.merge(other.pool),
            None if self.spatial is None else self.spatial.merge(other.spatial),
            self.score.merge(other.score),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All numbers as named arrays, for a file or another process; `from_arrays` reads them."""
        named = {"score_count": self.score.count, "p": self.score.p, "p_log_p": self.score.p_log_p}
        for name in ("pool", "spatial"):
            moments = getattr(self, name)
            if moments is not None:
                named[f"{name}_count"] = np.int64(moments.count)
                named[f"{name}_mean"], named[f"{name}_scatter"] = moments.mean, moments.scatter
        return named

    @classmethod
    def from_arrays(cls, named: Mapping[str, np.ndarray]) -> "Sums":
        """The sums whose `arrays` these are; KeyError where one is missing."""

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
