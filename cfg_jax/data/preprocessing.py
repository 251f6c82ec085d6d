"""Cropping and resizing of decoded images by averages over areas.

For a square, central or random, that starts at t and has n pixels a side, output pixel i of s is
the mean over the interval [t + i n / s, t + (i + 1) n / s) of a row. A pixel cut by an end of the
interval counts in proportion.
"""

import math

import numpy as np


def to_square(image: np.ndarray, size: int) -> np.ndarray:
    """The central square, area-averaged: uint8 [H, W, C] to uint8 [size, size, C]."""
    return area_resize(center_crop(image), size)


def center_crop(image: np.ndarray) -> np.ndarray:
    """[H, W, C] to [s, s, C], s = min(H, W); an odd margin loses one more row below or right."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def random_square(
    rng: np.random.Generator, height: int, width: int, size: int, min_crop: float
) -> tuple[float, float, float]:
    """Draws (top, left, side) of a square for `area_crop`, in fractional pixels of an image.

    side = min(height, width) * size / d, d uniform in {size, ..., ceil(size / min_crop)}: a window
    of size x size pixels in the image resized to the shorter side d. Dhariwal & Nichol 2021
    (ADM), section 4.3, and `random_crop_arr` of its code, which has min_crop = 0.8. The position is
    uniform over the image; ADM's is in integer pixels of the resized image.

    `height`, `width` and `size` are sides of the image and of the result, in pixels; `min_crop` in
    (0, 1] is the least fraction of the shorter side, rounded down to size / ceil(size / min_crop).
    """
    resized = rng.integers(size, math.ceil(size / min_crop), endpoint=True)
    side = min(height, width) * size / resized
    return rng.uniform(0, height - side), rng.uniform(0, width - side), side


def area_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Means over equal areas: uint8 [n, n, C] to uint8 [size, size, C], rounded to nearest.

    Block means at an integer factor; a smaller image is enlarged as a mosaic of constant squares.
    """
    return image if len(image) == size else area_crop(image, 0, 0, len(image), size)


def area_crop(image: np.ndarray, top: float, left: float, side: float, size: int) -> np.ndarray:
    """`area_resize` of [top, top + side) x [left, left + side), [H, W, C] to [size, size, C]."""
    row, column = math.floor(top), math.floor(left)
    part = image[row : math.ceil(top + side), column : math.ceil(left + side)].astype(np.float32)
    rows = _interval_means(part, top - row, side, size).swapaxes(0, 1)
    return np.rint(_interval_means(rows, left - column, side, size).swapaxes(0, 1)).astype(np.uint8)


def _interval_means(image: np.ndarray, start: float, side: float, size: int) -> np.ndarray:
    """Means over `size` equal parts of [start, start + side) on the first axis, to [size, ...].

    Differences of the running integral equal a product with a [size, n] matrix of overlaps, but
    BLAS threads of the product would compete with the training step for cores.
    """
    count = len(image)
    edges = start + np.arange(size + 1) * (side / size)
    whole = np.minimum(edges.astype(int), count - 1)
    part = (edges - whole).reshape(-1, *[1] * (image.ndim - 1))
    integral = np.zeros((count + 1, *image.shape[1:]), image.dtype)
    np.cumsum(image, axis=0, out=integral[1:])
    return np.diff(integral[whole] + part * image[whole], axis=0) * (size / side)
