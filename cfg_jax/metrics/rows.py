"""What may be counted as a set of rows: finite numbers [n, D], as float64."""

import numpy as np


def as_rows(values: np.ndarray, name: str) -> np.ndarray:
    """`values` as float64 [n, D].

    Args:
      name: of the values in a message, a plural.

    Raises:
      ValueError: another rank, no columns, or a number that is not finite.
    """
    rows = np.asarray(values, np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(
            f"{name} of shape {rows.shape}: give one row per image, [n, D]; flatten maps first"
        )
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{name} have nan or inf in {(~finite).sum()} of {len(rows)} rows, the first is row "
            f"{finite.argmin()}: leave no image out, find what made it"
        )
    return rows
