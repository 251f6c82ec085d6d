"""What is kept of the images seen so far?

Moments of pool and spatial features, and the sums of the score: of a size that does not depend on
their number, exact however batches, devices and processes divide them, and merged, never averaged.
"""

import dataclasses

import numpy as np

from cfg_jax.features import Outputs
from cfg_jax.metrics import FeatureStatistics, ScoreSums


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """Sums over images; a value, `update` and `merge` return another.

    Attributes:
      pool: of features [n, D].
      spatial: of spatial features [n, S]; None for a network without.
      score: of logits [n, K], splits of 5,000 images.
    """

    pool: FeatureStatistics
    spatial: FeatureStatistics | None
    score: ScoreSums

    @classmethod
    def of(cls, outputs: Outputs, index: np.ndarray) -> "Sums":
        """Those of B images, image i being number index[i] of all.

        Raises:
          ValueError: features or logits that are not finite.
        """
        raise NotImplementedError

    def merge(self, other: "Sums") -> "Sums":
        """Those of the images of both, as of another batch or process."""
        raise NotImplementedError
