"""Positions of the tokens of an image: the table that is added, and rotations of q and k.

    table:     [sin(c w), cos(c w), sin(r w), cos(r w)]   for the patch in row r and column c
    rotation:  (x, y) -> (x cos a - y sin a, y cos a + x sin a),   a = r w or c w

Rotating q and k makes their product depend on the difference of their positions. Published weights
have the pairs (x, y) as neighbours. Here the x of all heads come first, then all y, so a rotation
works on contiguous halves; the product is the same if q and k have the same order.

Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5; Su et al. 2021, arXiv 2104.09864.
"""

import numpy as np


def _frequencies(number: int) -> np.ndarray:
    return 10_000.0 ** (-np.arange(number) / number)


def _places(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every patch, [rows * columns] each."""
    place = np.arange(rows * columns)
    return place // columns, place % columns


def position_table(rows: int, columns: int, width: int) -> np.ndarray:
    """Sines and cosines of the columns, then of the rows: float32 [rows * columns, width].

    `width` is a multiple of 4. Columns come first, as in Peebles & Xie 2022, arXiv 2212.09748.
    """
    row, column = _places(rows, columns)
    angles = [np.outer(place, _frequencies(width // 4)) for place in (column, row)]
    halves = [half for angle in angles for half in (np.sin(angle), np.cos(angle))]
    return np.concatenate(halves, axis=1).astype(np.float32)


def rotations(rows: int, columns: int, head_width: int, before: int) -> tuple[np.ndarray, ...]:
    """Cosines and sines of the angles of every token and pair, float32 [before + N, d/2] each.

    The first half of a head's pairs turns with the row, the second half with the column. `before`
    tokens come first and are not rotated. `head_width` d is a multiple of 4.
    """
    angles = [np.outer(place, _frequencies(head_width // 4)) for place in _places(rows, columns)]
    angle = np.pad(np.concatenate(angles, axis=1), ((before, 0), (0, 0)))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def pair_order(heads: int, head_width: int) -> np.ndarray:
    """Places in (heads, d/2, 2), the published order, of features ordered (2, heads, d/2)."""
    place = np.arange(heads * head_width).reshape(heads, head_width // 2, 2)
    return np.moveaxis(place, 2, 0).ravel()
