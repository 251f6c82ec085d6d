"""How does a decoded image become the network's x?

x = image / 127.5 - 1, after an image of another size is cropped to its central square and averaged
over areas: output pixel i is the mean of the interval [i n / s, (i + 1) n / s) of an n-pixel row,
pixels cut by its ends counting in proportion. The way back, x to images, is `cfg_jax.images`.
"""

import numpy as np


def to_float(image: np.ndarray) -> np.ndarray:
    """x = image / 127.5 - 1: uint8 of any shape to float32 in [-1, 1], both ends reached."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_square(image: np.ndarray, size: int) -> np.ndarray:
    """The central square, area-averaged: uint8 [H, W, C] to uint8 [size, size, C]."""
    return area_resize(center_crop(image), size)


def center_crop(image: np.ndarray) -> np.ndarray:
    """[H, W, C] to [s, s, C], s = min(H, W); an odd margin leaves one more row below or right."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def area_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Means over equal areas: uint8 [n, n, C] to uint8 [size, size, C], rounded to nearest.

    At an integer factor these are block means. A smaller image is read as a mosaic of n x n
    constant squares, which the same formula covers: it is enlarged without inventing detail.
    """
    if len(image) == size:
        return image
    rows = _interval_means(image.astype(np.float32), size)
    return np.rint(_interval_means(rows.swapaxes(0, 1), size).swapaxes(0, 1)).astype(np.uint8)


def _interval_means(image: np.ndarray, size: int) -> np.ndarray:
    """Means along the first axis, as differences of its running integral: [n, ...] to [size, ...].

    The same as a product with a [size, n] matrix of overlaps, but BLAS threads started from
    reading threads fight the training step for cores; a sum does not.
    """
    side = len(image)
    edges = np.arange(size + 1) * (side / size)
    whole = np.minimum(edges.astype(int), side - 1)
    part = (edges - whole).reshape(-1, *[1] * (image.ndim - 1))
    integral = np.zeros((side + 1, *image.shape[1:]), image.dtype)
    np.cumsum(image, axis=0, out=integral[1:])
    return np.diff(integral[whole] + part * image[whole], axis=0) * (size / side)
