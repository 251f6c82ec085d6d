"""Validation of feature rows: finite float64 [n, D]."""

import numpy as np


def as_rows(values: np.ndarray, name: str) -> np.ndarray:
    """`values` as float64 [n, D]; `name` is a plural noun for error messages.

    Raises ValueError if the rank is not 2, if there are no columns, or if a value is not finite.
    """
    rows = np.asarray(values, np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(
            f"{name} of shape {rows.shape}: need one row per image, [n, D]; flatten maps first"
        )
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{name} have nan or inf in {(~finite).sum()} of {len(rows)} rows, the first is row "
            f"{finite.argmin()}: fix the source of the value, do not drop the image"
        )
    return rows
