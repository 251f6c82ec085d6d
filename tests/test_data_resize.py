"""ADM's crop, `data.resize="adm"`, against its filters written out in float64 NumPy."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from cfg_jax.config.fields import FIELDS
from cfg_jax.data import batches, open_source
from cfg_jax.data.opening import describe
from cfg_jax.data.preprocessing import RESIZES, adm_random, adm_square
from cfg_jax.io.images import to_images
from tests.data_files import random_images, stack, write_dataset


def box(x):
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def cubic(x):
    """Keys 1981, a = -1/2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def filtered(image, sides, kernel):
    """Columns, then rows, each rounded to 8 bits; the kernel is as wide as an output pixel.

    A box whose edge lies in the middle of a pixel depends on rounding. Sides here have none: the
    half of an odd one is odd, or a power of two.
    """
    for axis, count in ((1, sides[1]), (0, sides[0])):
        scale = image.shape[axis] / count
        centres = (np.arange(count) + 0.5) * scale
        pixels = np.arange(image.shape[axis]) + 0.5
        weights = kernel((pixels - centres[:, None]) / max(scale, 1.0))
        weights /= weights.sum(axis=1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, image.astype(float), (1, axis)), 0, axis)
        image = np.clip(np.floor(image + 0.5), 0, 255)
    return image


def resized(image, size):
    """The whole image, with the shorter side resized to `size`."""
    while min(image.shape[:2]) >= 2 * size:
        image = filtered(image, [side // 2 for side in image.shape[:2]], box)
    scale = size / min(image.shape[:2])
    return filtered(image, [round(side * scale) for side in image.shape[:2]], cubic)


def square(image, size):
    image = resized(image, size)
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def assert_close(found, expected):
    """Equal but for roundings: Pillow's weights are integers, and there are up to five passes."""
    assert found.dtype == np.uint8
    difference = np.abs(found - expected)
    assert difference.max() <= 1 and difference.mean() < 0.01


# One square


@pytest.mark.parametrize(
    "height, width, size",
    [
        (375, 500, 64),  # halved twice
        (131, 79, 16),  # odd sides, halved by boxes of more than two pixels
        (128, 255, 64),  # halved once, then nothing to do
        (127, 255, 64),  # not halved
        (47, 33, 31),
        (16, 19, 16),  # cropped only
        (20, 33, 32),  # enlarged
        (5, 7, 16),
        (1, 3, 8),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_square_is_boxes_then_bicubic_then_the_centre(height, width, size, channels):
    image = random_images(height, width, channels, seed=height)
    found = adm_square(image, size)
    assert found.shape == (size, size, channels)
    assert_close(found, square(image, size))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_power_of_two_gives_the_means_of_blocks_and_no_more(factor):
    size, margin = 16, 3
    # Multiples of factor^2, so that no mean on the way has to be rounded.
    levels = np.random.default_rng(0).integers(
        0, 256 // factor**2, (size * factor, (size + 2 * margin) * factor, 3)
    )
    image = (levels * factor**2).astype(np.uint8)
    middle = image[:, margin * factor : -margin * factor]
    blocks = middle.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(adm_square(image, size), blocks)
    np.testing.assert_array_equal(RESIZES["area"].central(image, size), blocks)


@pytest.mark.parametrize("height, width, top, left", [(8, 11, 0, 1), (13, 8, 2, 0), (8, 8, 0, 0)])
def test_an_image_of_the_size_is_cropped_without_a_change(height, width, top, left):
    image = random_images(height, width, 3)
    expected = image[top : top + 8, left : left + 8]
    np.testing.assert_array_equal(adm_square(image, 8), expected)


def test_a_ramp_is_enlarged_to_a_ramp():
    image = np.broadcast_to(16 * np.arange(12)[:, None, None], (12, 12, 1)).astype(np.uint8)
    rows = adm_square(image, 24)[:, 0, 0]
    places = (np.arange(24) + 0.5) / 2 - 0.5
    # A cubic kernel keeps straight lines where all four of its pixels exist.
    np.testing.assert_array_equal(rows[3:-3], 16 * places[3:-3])


@pytest.mark.parametrize("axis", [0, 1])
def test_a_line_of_pixels_gives_its_middle_without_becoming_a_plane(axis):
    line = random_images(60_000, 1, 1)
    middle = line[30_000 - 50 : 30_000 + 50]
    image, expected = (np.moveaxis(part, 0, axis) for part in (line, middle))
    found = adm_square(image, 256)  # all of the line would be 3.9e9 pixels
    assert_close(found, square(expected, 256))


def test_random_squares_are_windows_of_the_image_at_every_size_in_the_range():
    image, size, rng = random_images(31, 39, 3), 12, np.random.default_rng(0)
    sides = range(12, 17)  # ceil(12 / 0.8) = 15, and one more that must not occur
    whole = {side: resized(image, side) for side in sides}
    seen = {side: set() for side in sides}
    for _ in range(400):
        found = adm_random(rng, image, size, 0.8)
        places = [
            (side, top, left)
            for side, at in whole.items()
            for top, left in itertools.product(*(range(n - size + 1) for n in at.shape[:2]))
            if np.abs(found - at[top : top + size, left : left + size]).max() <= 1
        ]
        ((side, *place),) = places
        seen[side].add(tuple(place))
    assert not seen.pop(16)
    for side, places in seen.items():
        rows, columns = map(set, zip(*places, strict=True))
        assert rows == set(range(side - size + 1))
        assert columns == set(range(whole[side].shape[1] - size + 1))


# Data sets


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures of odd sizes, and what a viewer shows of each in file order."""
    colour, small, clear = (
        random_images(63, 47, 3),
        random_images(9, 7, 3),
        random_images(47, 70, 4),
    )
    grey = random_images(50, 43)
    (tmp_path / "a").mkdir()
    for name, image in {"0": colour, "1": small, "2": clear, "3": grey}.items():
        Image.fromarray(image).save(tmp_path / "a" / f"{name}.png")
    alpha = clear[..., 3:] / 255
    over = np.rint(clear[..., :3] * alpha + np.array([255, 128, 0]) * (1 - alpha))
    return tmp_path, [colour, small, over, np.repeat(grey[..., None], 3, axis=2)]


def opened(folder, **options):
    return open_source("folder", "all", data_dir=str(folder), **options)


@pytest.mark.parametrize("size", [16, 17])
def test_a_folder_of_odd_pictures_is_read_with_adms_crop(pictures, size):
    folder, shown = pictures
    source = opened(folder, image_size=size, resize="adm", background="#ff8000")
    assert source.shape == (size, size, 3)
    found = to_images(stack(source, "x"))
    for i in (0, 1, 3):
        assert_close(found[i], square(shown[i], size))
    # Pillow mixes with a background in integers, so a level may differ by one before the crop.
    assert np.abs(found[2] - square(shown[2], size)).max() <= 2
    described = describe("folder", data_dir=str(folder), image_size=size, resize="adm")
    assert described[0] == source.shape


def test_grey_pictures_stay_grey(tmp_path):
    image = random_images(33, 52)
    Image.fromarray(image).save(tmp_path / "0.png")
    source = opened(tmp_path, image_size=16, resize="adm")
    assert source.shape == (16, 16, 1)
    assert_close(to_images(source[0]["x"]), square(image[..., None], 16))


@pytest.mark.parametrize("channels, shown", [(1, 1), (3, 3), (4, 3)])
def test_arrays_are_read_with_adms_crop(tmp_path, channels, shown):
    images = random_images(3, 31, 38, channels)
    if channels == 4:
        images[..., 3] = 255
    np.savez(tmp_path / "a.npz", images=images)
    source = open_source("npz", "all", data_dir=str(tmp_path / "a.npz"), image_size=9, resize="adm")
    for found, image in zip(to_images(stack(source, "x")), images, strict=True):
        assert_close(found, square(image[..., :shown], 9))


def test_imagenet_is_read_with_adms_crop(tmp_path, monkeypatch):
    images = [random_images(96, 127, 3), random_images(140, 96, 3)]
    write_dataset(monkeypatch, "imagenet2012", str(tmp_path), images, [0, 1])
    place = {"data_dir": str(tmp_path), "image_size": 32}
    source = open_source("imagenet2012", "train", **place, resize="adm")
    for example in source:
        assert_close(to_images(example["x"]), square(images[example["label"]], 32))


def test_flips_mirror_adms_crop(pictures):
    source = opened(pictures[0], image_size=16, resize="adm")
    plain = stack(source, "x")
    x = batches(source, seed=0, batch_size=64, random_flip=True)[0]["x"]
    same, mirrored = (
        (x[:, None] == each).all(axis=(2, 3, 4)).any(axis=1) for each in (plain, plain[:, :, ::-1])
    )
    assert (same ^ mirrored).all() and same.any() and mirrored.any()


def test_random_crops_of_batches_are_windows_of_adms_resized_image(tmp_path):
    image = random_images(31, 39, 3)
    np.savez(tmp_path / "a.npz", images=image[None])
    place = {"data_dir": str(tmp_path / "a.npz"), "image_size": 12, "resize": "adm"}
    source = open_source("npz", "all", **place)
    found = to_images(batches(source, seed=0, batch_size=64, min_crop=0.8)[0]["x"])
    views = (
        np.lib.stride_tricks.sliding_window_view(resized(image, side), (12, 12), axis=(0, 1))
        for side in range(12, 16)
    )
    windows = np.concatenate([np.moveaxis(view, 2, -1).reshape(-1, 12, 12, 3) for view in views])
    distance = np.abs(found[:, None] - windows).max(axis=(2, 3, 4))
    assert (distance.min(axis=1) <= 1).all() and len(np.unique(distance.argmin(axis=1))) > 20


def test_the_fingerprint_tells_the_two_apart_and_area_is_the_default(pictures):
    prints = {resize: opened(pictures[0], image_size=8, resize=resize) for resize in RESIZES}
    texts = {name: json.dumps(source.fingerprint()) for name, source in prints.items()}
    assert (
        texts["adm"] != texts["area"] == json.dumps(opened(pictures[0], image_size=8).fingerprint())
    )
    assert '"preprocessing": "center crop, area mean to 8"' in texts["area"]  # of older runs
    np.testing.assert_array_equal(
        stack(prints["area"], "x"), stack(opened(pictures[0], image_size=8), "x")
    )


def test_an_unknown_resize_is_refused_and_the_config_allows_the_known(pictures):
    with pytest.raises(ValueError, match=r"^resize is 'lanczos': give one of area, adm$"):
        opened(pictures[0], image_size=8, resize="lanczos")
    assert all(FIELDS["data.resize"].range.holds(name) for name in RESIZES)
    assert not FIELDS["data.resize"].range.holds("lanczos")
