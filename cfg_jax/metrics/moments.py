"""Streaming mean and covariance of features, mergeable in any order.

    n = n_a + n_b,   d = mean_b - mean_a,   mean = mean_a + d n_b / n
    scatter = scatter_a + scatter_b + d d^T n_a n_b / n,   covariance = scatter / (n - 1)

Sums are centered on the mean, since plain sums of x and x x^T cancel if the mean is much larger
than the spread. Any order of merging differs from a single pass by rounding only.

Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance".
"""

import dataclasses
import warnings

import numpy as np

from cfg_jax.metrics.rows import as_rows


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Count, mean and scatter of rows; immutable, `merge` returns a new value.

    The arrays are float64. Send them to another process as bytes or in a file, since jax rounds
    them to float32 without `jax_enable_x64`.

    Attributes:
      count: number of rows, N.
      mean: [D].
      scatter: sum over rows of (x - mean)(x - mean)^T, [D, D].
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "FeatureStatistics":
        """Statistics of features [n, D], any real dtype, n >= 0; raises ValueError as `as_rows`."""
        rows = as_rows(features, "features")
        mean = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
        rows = rows - mean
        return cls(len(rows), mean, rows.T @ rows)

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of the rows of both; raises ValueError if widths differ."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"features of widths {self.mean.size} and {other.mean.size} cannot be merged: take "
                "both from the same layer"
            )
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        shift = other.mean - self.mean
        between = np.outer(shift, shift) * (self.count * other.count / count)
        mean = self.mean + shift * (other.count / count)
        return FeatureStatistics(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """scatter / (N - 1), [D, D]; raises ValueError if N < 2, warns if N <= D (rank below D)."""
        if self.count < 2:
            raise ValueError(f"a covariance of {self.count} rows: needs at least 2")
        if self.count <= self.mean.size:
            warnings.warn(
                f"{self.count} rows of {self.mean.size} features: the covariance has rank at most "
                f"{self.count - 1}, and its Frechet distance is not comparable with published "
                f"ones; use more than {self.mean.size} images, 50,000 are customary.",
                stacklevel=2,
            )
        return self.scatter / (self.count - 1)
