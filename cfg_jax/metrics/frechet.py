"""Frechet distance between two Gaussians, the distance of FID and sFID.

    |mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1 S2)^{1/2})

The caller chooses features and number of images; `moments` computes mean and covariance.

Source: Heusel et al. 2017, arXiv 1706.08500, equation 6.
"""

import numpy as np

_TOLERANCE = 1e-4
"""Relative to the largest entry or eigenvalue; float32 covariances stay far below it."""


def frechet_distance(mu1: np.ndarray, cov1: np.ndarray, mu2: np.ndarray, cov2: np.ndarray) -> float:
    """|mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1 S2)^{1/2}) >= 0, a squared distance.

    The trace of the root is the sum of the singular values of S1^{1/2} S2^{1/2}, the square roots
    of the eigenvalues of S1^{1/2} S2 S1^{1/2}. Computing singular values avoids a second square
    root, which would amplify rounding, and singular covariances need no added diagonal.

    Means are [D]; covariances are [D, D], symmetric, possibly singular. Raises ValueError if
    shapes do not match, values are not finite, or a matrix is not a covariance.
    """
    mu1, mu2 = np.asarray(mu1, np.float64), np.asarray(mu2, np.float64)
    if mu1.ndim != 1 or mu1.size == 0 or mu1.shape != mu2.shape:
        raise ValueError(f"means of shapes {mu1.shape} and {mu2.shape}: need [D] from one layer")
    if not np.isfinite([mu1, mu2]).all():
        raise ValueError("a mean has nan or inf: recompute the statistics from finite features")
    cov1, cov2 = _covariance(cov1, mu1.size), _covariance(cov2, mu1.size)
    cross = _half(cov1).T @ _half(cov2)
    trace_of_root = np.linalg.svd(cross, compute_uv=False).sum()
    distance = ((mu1 - mu2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * trace_of_root
    return max(float(distance), 0.0)


def _covariance(values: np.ndarray, width: int) -> np.ndarray:
    cov = np.asarray(values, np.float64)
    if cov.shape != (width, width):
        raise ValueError(
            f"a covariance of shape {cov.shape} for means of {width} values: it must be "
            f"[{width}, {width}], from the same features"
        )
    if not np.isfinite(cov).all():
        raise ValueError(
            "a covariance has nan or inf: recompute the statistics from at least two images"
        )
    asymmetry = np.abs(cov - cov.T).max()
    if asymmetry > _TOLERANCE * np.abs(cov).max():
        raise ValueError(f"a matrix differs from its transpose by {asymmetry:g}: give a covariance")
    return cov


def _half(cov: np.ndarray) -> np.ndarray:
    """A with A A^T = cov, [D, D]: eigenvectors times the square roots of their eigenvalues."""
    eigenvalues, vectors = np.linalg.eigh((cov + cov.T) / 2)
    largest = np.abs(eigenvalues).max()
    if eigenvalues[0] < -_TOLERANCE * largest:
        raise ValueError(
            f"a matrix has an eigenvalue of {eigenvalues[0]:g}, eigenvalues of a covariance are at "
            "least 0: give a covariance"
        )
    # Eigenvalues of 0 come out as rounding noise, whose square root would be 1e8 times larger.
    noise = cov.shape[0] * np.finfo(np.float64).eps * largest
    return vectors * np.sqrt(np.where(eigenvalues > noise, eigenvalues, 0.0))
