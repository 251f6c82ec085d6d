"""Positions of the tokens of an image: the table that is added, and rotations of q and k.

    table:     [sin(c w), cos(c w), sin(r w), cos(r w)]   for the patch in row r and column c
    rotation:  (x, y) -> (x cos a - y sin a, y cos a + x sin a),   a = r w or c w

Rotating q and k makes their product depend on the difference of their positions. The pairs (x, y)
of a head of width d are its features a and d/2 + a here, so that both halves are contiguous; the
published weights have neighbours, features 2a and 2a + 1. The products of q and k are the same if
the features of both have the same order.

Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5; Su et al. 2021, arXiv 2104.09864.
"""

import jax
import numpy as np

Array = jax.Array


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
    """Cosines and sines of the angles of every pair and token, float32 [d/2, before + N] each.

    The first half of the pairs turns with the row, the second half with the column. `before` tokens
    come first and are not rotated. `head_width` d is a multiple of 4.
    """
    angles = [np.outer(_frequencies(head_width // 4), place) for place in _places(rows, columns)]
    angle = np.pad(np.concatenate(angles), ((0, 0), (before, 0)))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotate(h: Array, cosines: np.ndarray, sines: np.ndarray) -> Array:
    """h [heads, d, L] with every pair rotated by its angle; the tables are [d/2, L]."""
    x, y = jax.numpy.split(h, 2, axis=1)
    cosines, sines = cosines[None], sines[None]
    return jax.numpy.concatenate([x * cosines - y * sines, y * cosines + x * sines], axis=1)


def pair_order(head_width: int) -> np.ndarray:
    """Old places of a head's features, when pairs of neighbours become pairs (a, d/2 + a)."""
    return np.arange(head_width).reshape(-1, 2).T.ravel()
