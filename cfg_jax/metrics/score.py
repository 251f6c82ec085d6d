"""Inception score: are images classified with confidence, and into many classes?

    score of a split = exp(mean over its rows of KL(p(y|x) || p(y))),   p(y) = mean of p(y|x)
    KL summed = (sum of p log p) / n - p(y) log p(y)

The inception score is the mean over splits, runs of consecutive rows that are not shuffled. Small
splits score lower; compare scores only at equal split sizes. 10 splits of 50,000 images are
customary; ADM uses splits of 5,000 rows and logits without the bias of Inception's last layer.

Source: Salimans et al. 2016, arXiv 1606.03498, section 4.
"""

import dataclasses
import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from cfg_jax.metrics.rows import as_rows


class InceptionScore(NamedTuple):
    """Mean and population standard deviation of the split scores, each score in [1, K]."""

    mean: float
    std: float


def inception_score(logits: np.ndarray, splits: int = 10) -> InceptionScore:
    """Mean and deviation over splits of exp(mean KL(p(y|x) || p(y))), p = softmax of the logits.

    Split s is rows floor(N s / splits) to floor(N (s + 1) / splits) - 1. Raises ValueError if
    splits is outside [1, N], or if logits are not [N, K] or not finite.
    """
    total = len(as_rows(logits, "logits"))
    if not 1 <= splits <= total:
        raise ValueError(
            f"splits={splits} of {total} rows: choose 1 to the number of rows, 10 is customary"
        )
    sums = ScoreSums.empty(np.shape(logits)[1], Fraction(total, splits))
    return sums.update(logits, np.arange(total)).score()


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreSums:
    """Sums for the score of each split; immutable, `update` and `merge` return new values.

    Each row has the global index of its image, so the sums are independent of how images are
    divided into batches, devices and processes. Send the arrays as those of `FeatureStatistics`.

    Attributes:
      split_size: rows per split, 5,000 in ADM; `Fraction(total, splits)` for a known number of
        splits, whose sizes differ by at most one row.
      count: rows so far per split, int64 [S]; S grows with the rows.
      p: sum of p, [S, K].
      p_log_p: sum over rows and classes of p log p, [S].
    """

    split_size: Fraction
    count: np.ndarray
    p: np.ndarray
    p_log_p: np.ndarray

    @classmethod
    def empty(cls, num_classes: int, split_size: int | Fraction = 5_000) -> "ScoreSums":
        """Sums of no rows; raises ValueError if split_size is below 1."""
        if not split_size >= 1:
            raise ValueError(f"split_size={split_size}: must be at least 1 row, 5000 is customary")
        counts = np.zeros(0, np.int64)
        return cls(Fraction(split_size), counts, np.zeros((0, num_classes)), np.zeros(0))

    def update(self, logits: np.ndarray, index: np.ndarray) -> "ScoreSums":
        """Sums with logits [n, K] added; row i belongs to image index[i].

        Raises ValueError if logits are not [n, K] or not finite, if indices are not integers of at
        least 0, or if a split gets more rows than its size, e.g. because an image counts twice.
        """
        logits, index = as_rows(logits, "logits"), np.asarray(index)
        fits = np.issubdtype(index.dtype, np.integer) and index.shape == logits.shape[:1]
        if not fits or (index < 0).any():
            raise ValueError(
                f"index of shape {index.shape} and dtype {index.dtype} for {len(logits)} rows: "
                "give each row the index of its image, an integer from 0"
            )
        logits = logits - logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        # Split s with floor(size s) <= index < floor(size (s + 1)), in integer arithmetic.
        size = self.split_size
        split = ((index.astype(np.int64) + 1) * size.denominator - 1) // size.numerator
        member = (np.arange(split.max(initial=-1) + 1)[:, None] == split).astype(np.float64)
        sums = (member.sum(axis=1).astype(np.int64), member @ p, member @ (p * log_p).sum(axis=1))
        return self.merge(ScoreSums(size, *sums))

    def merge(self, other: "ScoreSums") -> "ScoreSums":
        """Sums of the rows of both; raises ValueError if they do not match or a split overflows."""
        if (self.split_size, self.p.shape[1]) != (other.split_size, other.p.shape[1]):
            raise ValueError(
                f"sums over splits of {other.split_size} rows and {other.p.shape[1]} classes do "
                f"not match {self.split_size} rows and {self.p.shape[1]} classes: make both equal"
            )
        splits = max(len(self.count), len(other.count))
        count, p, p_log_p = (
            _grown(getattr(self, name), splits) + _grown(getattr(other, name), splits)
            for name in ("count", "p", "p_log_p")
        )
        merged = ScoreSums(self.split_size, count, p, p_log_p)
        surplus = np.flatnonzero(count > merged._sizes())
        if surplus.size:
            split = surplus[0]
            raise ValueError(
                f"split {split} has {count[split]} rows of {merged._sizes()[split]}: images were "
                "counted twice; give each its own index, and exclude padding"
            )
        return merged

    def score(self) -> InceptionScore:
        """Inception score. The last split may be short, as in ADM.

        Raises ValueError if there are no rows, or if a split before the last lacks rows.
        """
        if not self.count.size:
            raise ValueError("no rows to score: update with the logits of at least one image")
        lacking = np.flatnonzero(self.count[:-1] < self._sizes()[:-1])
        if lacking.size:
            split = lacking[0]
            raise ValueError(
                f"split {split} has {self.count[split]} of {self._sizes()[split]} rows but later "
                "splits have some: merge the sums of all processes before scoring"
            )
        marginal = self.p / self.count[:, None]
        # p log p is 0 at p = 0.
        entropy = -(marginal * np.log(np.where(marginal > 0, marginal, 1.0))).sum(axis=1)
        scores = np.exp(entropy + self.p_log_p / self.count)
        return InceptionScore(float(scores.mean()), float(scores.std()))

    def _sizes(self) -> np.ndarray:
        """Size of each split when complete, int64 [S]."""
        starts = [math.floor(self.split_size * s) for s in range(len(self.count) + 1)]
        return np.diff(starts).astype(np.int64)


def _grown(sums: np.ndarray, splits: int) -> np.ndarray:
    return np.concatenate([sums, np.zeros((splits - len(sums), *sums.shape[1:]), sums.dtype)])
