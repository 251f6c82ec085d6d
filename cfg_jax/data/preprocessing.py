"""Cropping and resizing of decoded images: RESIZES, "area" by default, or "adm".

"area": for a square, central or random, that starts at t and has n pixels a side, output pixel i of
s is the mean over the interval [t + i n / s, t + (i + 1) n / s) of a row. A pixel cut by an end of
the interval counts in proportion.

"adm", of Dhariwal & Nichol 2021 (ADM), which DiT and JiT train with: the image is halved by 2 x 2
means while its shorter side is at least 2 s, then resized by bicubic interpolation to the shorter
side s, then cropped.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

# ADM resizes all of an image; enlarged, a line of 60,000 pixels would not fit in memory.
_MOST_OBLONG = 100


class Resize(NamedTuple):
    """Two ways from an image, uint8 [H, W, C], to a square, uint8 [size, size, C].

    central: (image, size) -> the central square.
    random: (rng, image, size, min_crop) -> a random square, see `random_square`.
    """

    central: Callable[[np.ndarray, int], np.ndarray]
    random: Callable[[np.random.Generator, np.ndarray, int, float], np.ndarray]


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
    uniform over the image; ADM's is in integer pixels of the resized image (`adm_random`).

    `height`, `width` and `size` are sides of the image and of the result, in pixels; `min_crop` in
    (0, 1] is the least fraction of the shorter side, rounded down to size / ceil(size / min_crop).
    """
    side = min(height, width) * size / _random_side(rng, size, min_crop)
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


def area_random(
    rng: np.random.Generator, image: np.ndarray, size: int, min_crop: float
) -> np.ndarray:
    """`area_crop` of a `random_square`; consumes `rng`."""
    height, width = image.shape[:2]
    return area_crop(image, *random_square(rng, height, width, size, min_crop), size)


def adm_square(image: np.ndarray, size: int) -> np.ndarray:
    """ADM's central square: uint8 [H, W, C] to uint8 [size, size, C].

    `center_crop_arr` of guided-diffusion and JiT. A smaller image is enlarged by bicubic
    interpolation.
    """
    return center_crop(adm_resize(image, size))


def adm_random(
    rng: np.random.Generator, image: np.ndarray, size: int, min_crop: float
) -> np.ndarray:
    """ADM's random square: uint8 [H, W, C] to uint8 [size, size, C]; consumes `rng`.

    The shorter side d of `adm_resize` is drawn as in `random_square`, then a position in integer
    pixels, uniformly. `random_crop_arr` of guided-diffusion.
    """
    resized = adm_resize(image, _random_side(rng, size, min_crop))
    top, left = (rng.integers(0, side - size, endpoint=True) for side in resized.shape[:2])
    return resized[top : top + size, left : left + size]


def adm_resize(image: np.ndarray, size: int) -> np.ndarray:
    """The whole image, uint8 [H, W, C], with its shorter side resized to `size` as ADM does.

    Pillow's BOX halves both sides, rounded down, while the shorter is at least 2 size; its BICUBIC,
    which widens with the scale, does the rest, to round(side * scale). Of an image more than
    _MOST_OBLONG times as long as wide, only that much of the middle is resized.
    """
    most = _MOST_OBLONG * min(image.shape[:2])
    top, left = (max(0, side - most) // 2 for side in image.shape[:2])
    image = image[top : top + most, left : left + most]
    grey = image.shape[2] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    return resized[..., None] if grey else resized


RESIZES = {"area": Resize(to_square, area_random), "adm": Resize(adm_square, adm_random)}
"""The values of `Form.resize`."""


def _random_side(rng: np.random.Generator, size: int, min_crop: float) -> int:
    """Shorter side, uniform in {size, ..., ceil(size / min_crop)}, of the image to crop from."""
    return int(rng.integers(size, math.ceil(size / min_crop), endpoint=True))


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
