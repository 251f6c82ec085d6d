"""Random crops: position, pixels and batches."""

import math
import socket
import sys

import numpy as np
import pytest

from cfg_jax.data import batches, label_names, open_source
from cfg_jax.data.preprocessing import area_crop, random_square, to_square
from cfg_jax.data.sources import ImageSource
from tests.data_files import random_images, write_dataset


def image_source(images, image_size=None, memory=None):
    """Data set of the images in which example i has label i."""
    side = len(images[0]) if image_size is None else image_size
    return ImageSource(
        name="album",
        version="1.0.0",
        split="train",
        records=[{"image": image, "label": i} for i, image in enumerate(images)],
        shape=(side, side, images[0].shape[-1]),
        label_names=tuple(map(str, range(len(images)))),
        image_size=image_size,
        memory=memory,
    )


def places(height, width):
    """Image whose two channels are four times the row and the column of each pixel."""
    return 4 * np.stack(np.mgrid[:height, :width], axis=-1).astype(np.uint8)


def read(source, count=1, **options):
    dataset = batches(source, **{"seed": 0, "batch_size": len(source), "min_crop": 0.5, **options})
    return [dataset[k] for k in range(count)]


def to_levels(x):
    return (x.astype(np.float64) + 1) * 127.5


# One square


@pytest.mark.parametrize("height, width, size", [(37, 50, 16), (50, 36, 9), (8, 8, 8), (5, 7, 8)])
def test_the_central_square_whole_is_the_plain_example(height, width, size):
    image = random_images(height, width, 3)
    side = min(height, width)
    square = area_crop(image, (height - side) // 2, (width - side) // 2, side, size)
    np.testing.assert_array_equal(square, to_square(image, size))
    assert square.dtype == np.uint8


def overlaps(start, side, size, count):
    """[size, count]: fraction of output interval i that lies in pixel j."""
    edges = [start + side * i / size for i in range(size + 1)]
    return np.array(
        [
            [max(0.0, min(b, j + 1) - max(a, j)) * size / side for j in range(count)]
            for a, b in zip(edges[:-1], edges[1:], strict=True)
        ]
    )


@pytest.mark.parametrize(
    "top, left, side, size",
    [
        (0.3, 7.9, 19.4, 8),  # area average
        (2.75, 0.0, 6.5, 8),  # enlarged
        (20.6, 28.6, 0.8, 4),  # across one edge of a pixel
        (3.0, 5.0, 16.0, 8),  # blocks
        (0.0, 29.0 - 21.7, 21.7, 5),  # to the last column
    ],
)
def test_a_square_is_the_integral_over_its_areas(top, left, side, size):
    image = random_images(23, 30, 3, seed=1)
    rows, columns = overlaps(top, side, size, 23), overlaps(left, side, size, 30)
    mean = np.einsum("pi,qj,ijc->pqc", rows, columns, image.astype(np.float64))
    np.testing.assert_allclose(area_crop(image, top, left, side, size), mean, atol=0.5 + 1e-6)


@pytest.mark.parametrize("top, left, side", [(0, 0, 60), (2.25, 1.6, 47.7), (12, 15.5, 48)])
def test_a_ramp_stays_a_ramp_with_the_slope_and_the_ends_of_the_square(top, left, side):
    size = 12
    square = area_crop(places(60, 63), top, left, side, size).astype(np.float64)
    centres = (np.arange(size) + 0.5) * side / size
    # The integral of piecewise constant pixels is 0 to 1/8 below that of a ramp of slope 1.
    atol = 4 / 8 * size / side + 0.5
    np.testing.assert_allclose(square[:, 3, 0], 4 * (top + centres - 0.5), atol=atol)
    np.testing.assert_allclose(square[3, :, 1], 4 * (left + centres - 0.5), atol=atol)
    assert (square[..., 0] == square[:, :1, 0]).all() and (square[..., 1] == square[:1, :, 1]).all()


@pytest.mark.parametrize("level", [0, 37, 255])
@pytest.mark.parametrize("size", [3, 16, 41])
def test_a_square_of_a_constant_image_is_constant(level, size):
    image = np.full((33, 20, 1), level, np.uint8)
    assert (area_crop(image, 5.3, 1.7, 17.9, size) == level).all()


@pytest.mark.parametrize("height, width, size, min_crop", [(40, 70, 8, 0.75), (32, 20, 64, 0.8)])
def test_sides_are_shares_of_whole_numbers_and_places_reach_both_ends(
    height, width, size, min_crop
):
    rng = np.random.default_rng(0)
    count = 4000
    draws = [random_square(rng, height, width, size, min_crop) for _ in range(count)]
    top, left, side = np.transpose(draws)
    resized = min(height, width) * size / side
    np.testing.assert_allclose(resized, np.rint(resized), rtol=1e-12)
    values, counts = np.unique(np.rint(resized), return_counts=True)
    np.testing.assert_array_equal(values, range(size, math.ceil(size / min_crop) + 1))
    share = 1 / len(values)
    assert (abs(counts / count - share) < 5 * np.sqrt(share / count)).all()
    smaller = resized > size + 0.5  # larger than the shorter side: both offsets vary
    shares = []
    for start, length in ((top, height), (left, width)):
        assert (start >= 0).all() and (start <= length - side).all()
        shares.append(start[smaller] / (length - side)[smaller])
        assert shares[-1].min() < 0.01 and shares[-1].max() > 0.99
        assert abs(shares[-1].mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / smaller.sum())
    assert abs(np.corrcoef(*shares)[0, 1]) < 5 / np.sqrt(smaller.sum())


def test_no_square_is_smaller_than_asked_beyond_rounding_up():
    rng = np.random.default_rng(0)
    sides = {random_square(rng, 8, 8, 8, 0.99)[2] for _ in range(100)}
    assert sides == {8.0, 8 * 8 / 9}


# Batches of them


@pytest.mark.parametrize("process_count", [2, 4])
@pytest.mark.parametrize("image_size", [None, 5])
def test_cropped_batches_are_the_same_for_any_number_of_processes(process_count, image_size):
    source = image_source(random_images(21, 12, 12, 3), image_size)
    options = dict(count=5, seed=5, batch_size=8, random_flip=True)
    whole = read(source, **options)
    parts = [
        read(source, **options, process_index=p, process_count=process_count)
        for p in range(process_count)
    ]
    for k, batch in enumerate(whole):
        for key in ("x", "labels", "index"):
            joined = np.concatenate([part[k][key] for part in parts])
            np.testing.assert_array_equal(joined, batch[key])
        side = 12 if image_size is None else image_size
        assert batch["x"].shape == (8, side, side, 3) and batch["x"].dtype == np.float32


def test_every_epoch_and_seed_crops_anew_and_the_same_seed_alike():
    source = image_source([places(16, 16)] * 50)
    first, second = (batch["x"] for batch in read(source, 2))
    again = read(source)[0]["x"]
    np.testing.assert_array_equal(again, first)
    for other in (second, read(source, seed=1)[0]["x"]):
        # All examples are one image, so the order of examples cannot distinguish epochs.
        assert len({x.tobytes() for x in (*first, *other)}) > 80


def test_a_min_crop_of_one_changes_no_byte():
    class Whole(ImageSource):
        def random_crop(self, *_, **__):
            pytest.fail("cropped")

    images = random_images(9, 8, 8, 1)
    source = Whole(**vars(image_source(images)))
    plain = batches(source, seed=3, batch_size=6, random_flip=True)
    one = batches(source, seed=3, batch_size=6, random_flip=True, min_crop=1)
    for k in range(6):
        for key, value in plain[k].items():
            assert value.tobytes() == one[k][key].tobytes()
        for x, label in zip(plain[k]["x"], plain[k]["labels"], strict=True):
            original = images[label]
            assert any((np.rint(to_levels(x)) == o).all() for o in (original, original[:, ::-1]))


def test_crops_keep_the_order_and_the_labels_of_whole_examples():
    images = [np.full((9, 7, 1), 10 * i, np.uint8) for i in range(20)]
    source = image_source(images, image_size=6)
    for cropped, plain in zip(read(source, 3), read(source, 3, min_crop=1.0), strict=True):
        np.testing.assert_array_equal(cropped["labels"], plain["labels"])
        levels = 10 * cropped["labels"][:, None, None, None]
        np.testing.assert_allclose(to_levels(cropped["x"]) - levels, 0, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_crops_come_from_all_of_the_stored_image_and_not_its_central_square(axis):
    shape = [24, 60] if axis else [60, 24]
    source = image_source([places(*shape)] * 300, image_size=6)
    pixels = to_levels(read(source)[0]["x"])[..., axis] / 4
    # The outer pixels average 2 to 4 rows, centered 1 to 2 rows from the edge of the crop.
    assert pixels.min() < 1.5 and pixels.max() > 57.5
    assert len(np.unique(pixels.min(axis=(1, 2)))) > 40


def test_flips_do_not_depend_on_crops():
    source = image_source([places(24, 24)] * 400, image_size=6)
    x = to_levels(read(source, random_flip=True)[0]["x"])
    mirrored = x[:, 0, 0, 1] > x[:, 0, -1, 1]
    sides = x[:, -1, 0, 0] - x[:, 0, 0, 0]
    for half in (sides > np.median(sides), x[:, 0, 0, 0] > np.median(x[:, 0, 0, 0])):
        # 1/8 is five standard deviations.
        assert abs(mirrored[half].mean() - 1 / 2) < 1 / 8


def test_crops_of_digits_are_enlarged_to_eight_by_eight(data_dir):
    source = open_source("digits", "train", data_dir=data_dir)
    batch = read(source, batch_size=64, min_crop=0.8)[0]
    assert batch["x"].shape == (64, 8, 8, 1)
    assert -1 <= batch["x"].min() and batch["x"].max() <= 1
    plain = np.stack([source[i]["x"] for i in range(len(source))])
    whole = (batch["x"][:, None] == plain).all(axis=(2, 3, 4)).any(axis=1)
    # Of the fractions 8/8, 8/9 and 8/10 one is the complete image.
    assert abs(whole.mean() - 1 / 3) < 5 * np.sqrt(2 / 9 / 64)


def test_crops_of_imagenet_are_cut_from_the_stored_image(tmp_path, monkeypatch):
    image = np.repeat(np.arange(96, dtype=np.uint8)[None, :, None], 24, axis=0).repeat(3, axis=2)
    write_dataset(monkeypatch, "imagenet2012", str(tmp_path), [image], [7])
    source = open_source("imagenet2012", "train", data_dir=str(tmp_path), image_size=8)
    batch = read(source, batch_size=60, min_crop=0.8)[0]
    assert batch["x"].shape == (60, 8, 8, 3) and (batch["labels"] == 7).all()
    levels = to_levels(batch["x"])
    assert levels.min() < 36 - 10 and levels.max() > 60 + 10  # the center crop has 36..59


@pytest.mark.parametrize(
    "side, image_size, reads",
    [(6, None, 5), (6, 8, 2 * 5), (16, 8, 5 + 3 * 5)],
    ids=["as stored", "enlarged", "reduced"],
)
def test_images_no_larger_than_examples_are_read_once_and_stay_apart(side, image_size, reads):
    class Counting(list):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    images = list(random_images(5, side, side, 1))
    source, fresh = image_source(images, image_size, memory={}), image_source(images, image_size)
    object.__setattr__(source, "records", Counting(source.records))
    plain = read(source, min_crop=1)[0]["x"]
    for batch, expected in zip(read(source, 3), read(fresh, 3), strict=True):
        np.testing.assert_array_equal(batch["x"], expected["x"])
    np.testing.assert_array_equal(read(source, min_crop=1)[0]["x"], plain)
    assert source.records.reads == reads


# What is refused


@pytest.mark.parametrize("min_crop", [0, -0.5, 1.25, math.nan, math.inf])
def test_a_min_crop_that_is_no_share_is_refused(min_crop):
    with pytest.raises(ValueError, match=rf"^min_crop is {min_crop}: .*\(0, 1\].*$"):
        read(image_source(random_images(2, 4, 4, 1)), min_crop=min_crop)


def test_points_and_oblong_images_are_not_cropped():
    oblong = ImageSource("tv", "1.0.0", "train", [None], (4, 6, 1), ("0",))
    for source in (open_source("mixture", "train", size=4), oblong):
        with pytest.raises(ValueError, match="min_crop is 0.5 .*only square images can be cropped"):
            read(source)


def test_an_image_that_cannot_be_cropped_is_named():
    source = image_source([np.zeros((9, 8, 1), np.uint8), np.zeros((9, 8, 3), np.uint8)], 4)
    with pytest.raises(RuntimeError, match=r"album.*example 1 .*image is \(9, 8, 3\), must be \(9"):
        read(source)


# Class names


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("network used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it now fails
    monkeypatch.setenv("HOME", str(tmp_path))


def test_imagenets_classes_are_the_wordnet_ids_in_ascending_order(offline):
    names = label_names("imagenet2012")
    assert len(names) == 1000 and names == tuple(sorted(set(names)))
    # Tench, goldfish, golden retriever, giant panda and toilet tissue.
    known = {0: "n01440764", 1: "n01443537", 207: "n02099601", 388: "n02510455", 999: "n15075141"}
    assert {i: names[i] for i in known} == known
    resized = label_names("imagenet_resized/64x64")
    assert sorted(resized) == list(names) and resized != names


def test_classes_are_those_of_the_opened_source(offline, data_dir):
    source = open_source("digits", "train", data_dir=data_dir)
    assert label_names("digits") == source.label_names
    assert label_names("cifar10") == tuple("0123456789")


@pytest.mark.parametrize(
    "name, message",
    [
        ("lsun/classroom", "no class feature `label`"),
        ("cifr10", "'cifr10' is unknown"),
        ("mixture", "mixture has classes of its own"),
        ("folder", "folder has classes of its own"),
    ],
)
def test_data_sets_without_class_names_are_refused(offline, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        label_names(name)
    assert "\n" not in str(caught.value)
