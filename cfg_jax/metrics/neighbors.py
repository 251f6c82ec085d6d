"""Precision (fidelity) and recall (coverage) of generated images.

    precision = fraction of generated rows within the manifold of the reference
    recall    = fraction of reference rows within the manifold of the generated

The manifold of a set is the union of balls around its rows. The radius of a ball is the distance to
the k-th nearest other row of the same set.

Source: Kynkaanniemi et al. 2019, arXiv 1904.06991, equations 1 and 2.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from cfg_jax.metrics.rows import as_rows

_BLOCK = 2**23
"""Distances in memory at a time, 64 MiB."""


class PrecisionRecall(NamedTuple):
    """Fractions in [0, 1]."""

    precision: float
    recall: float


def precision_recall(generated: np.ndarray, reference: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Fraction of generated rows near reference rows, and of reference rows near generated rows.

    Balls include their surface. Distances are float64; those within rounding, 1e-6 of the norm
    about the median for 2,048 columns, become 0, since copies must coincide. Memory: two float64
    copies of the rows, and less than 512 MiB; time: N^2 + N M + M^2 times D multiplications.

    Args:
      generated, reference: features [N, D] and [M, D]. The fractions depend on N and M; 50,000
        and 10,000 are customary.
      k: rank of the neighbor at the radius, 1 to min(N, M) - 1; 3 in the paper and in ADM.

    Raises ValueError if k is out of range, or if rows are not [n, D] of one width D or not finite.
    """
    generated = as_rows(generated, "generated features")
    reference = as_rows(reference, "reference features")
    if generated.shape[1] != reference.shape[1]:
        raise ValueError(
            f"generated features of width {generated.shape[1]}, reference of width "
            f"{reference.shape[1]}: take both from the same layer"
        )
    if not 1 <= k < min(len(generated), len(reference)):
        raise ValueError(
            f"k={k} with {len(generated)} generated and {len(reference)} reference rows: k must be "
            "at least 1 and less than the rows of either, 3 is customary"
        )
    # Centering reduces cancellation in |a|^2 + |b|^2 - 2 a.b. Medians keep integer data exact.
    middle = np.median(reference, axis=0)
    generated, reference = generated - middle, reference - middle
    generated_radii, reference_radii = _radii(generated, k), _radii(reference, k)
    precise = np.zeros(len(generated), bool)
    recalled = np.zeros(len(reference), bool)
    for rows, distances in _blocks(generated, reference):
        precise[rows] = (distances <= reference_radii).any(axis=1)
        recalled |= (distances <= generated_radii[rows, None]).any(axis=0)
    return PrecisionRecall(float(precise.mean()), float(recalled.mean()))


class Nearest(NamedTuple):
    """The k nearest reference rows of each row, by ascending distance.

    distance: Euclidean distances [N, k], float64.
    rows: their numbers in the reference, [N, k].
    """

    distance: np.ndarray
    rows: np.ndarray


def nearest(rows: np.ndarray, reference: Iterable[np.ndarray], k: int = 1) -> Nearest:
    """The k nearest of the reference rows, which come in parts [m, D] that are read once.

    Memory does not depend on the number of reference rows. Of equal distances, the lower index
    comes first. Raises ValueError if there are fewer than k reference rows, and as `as_rows`.
    """
    rows = as_rows(rows, "rows")
    squared, index, start = np.empty((len(rows), 0)), np.empty((len(rows), 0), int), 0
    for part in reference:
        part = as_rows(part, "reference rows")
        fresh = np.concatenate([found for _, found in _blocks(rows, part)])
        squared = np.concatenate([squared, fresh], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + len(part)), fresh.shape)
        index = np.concatenate([index, numbers], axis=1)
        best = np.argsort(squared, axis=1, kind="stable")[:, :k]
        squared, index = (np.take_along_axis(kept, best, axis=1) for kept in (squared, index))
        start += len(part)
    if not 1 <= k <= start:
        raise ValueError(f"k={k} with {start} reference rows: need 1 <= k <= {start}")
    return Nearest(np.sqrt(squared), index)


def _radii(features: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other row, [N]."""
    radii = np.empty(len(features))
    for rows, distances in _blocks(features, features):
        radii[rows] = np.partition(distances, k, axis=1)[:, k]  # index 0 is the row itself
    return radii


def _blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields slices of the rows of a, and their squared distances to all rows of b."""
    norms_a, norms_b = (np.einsum("nd,nd->n", rows, rows) for rows in (a, b))
    # Rounding bound of three sums of D products, relative to |a|^2 + |b|^2.
    rounding = (a.shape[1] + 4) * np.finfo(np.float64).eps
    height = max(1, _BLOCK // len(b))
    for start in range(0, len(a), height):
        rows = slice(start, start + height)
        norms = norms_a[rows, None] + norms_b
        distances = norms - 2 * (a[rows] @ b.T)
        distances[distances <= rounding * norms] = 0.0
        yield rows, distances
