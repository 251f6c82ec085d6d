"""Data sets on disk and their decoded pixels and labels."""

import json
import math

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from cfg_jax.data import batches, open_source, prepare
from cfg_jax.data.digits import Digits
from cfg_jax.data.packaged import prepare_packaged
from cfg_jax.data.preprocessing import to_square
from cfg_jax.data.sources import ImageSource
from tests.data_files import files_up_to, random_images, stack, write_dataset


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("data"))
    prepare("digits", path)
    return path


def test_digits_are_scikit_learns_in_its_order_from_black_to_white(digits_dir):
    expected = load_digits()
    source = open_source("digits", "train+test", data_dir=digits_dir)
    x, labels = stack(source, "x"), stack(source, "label")
    assert x.shape == (1797, 8, 8, 1) and x.dtype == np.float32 and labels.dtype == np.int32
    assert x.min() == -1 and x.max() == 1
    np.testing.assert_array_equal(np.rint(8 * (x[..., 0] + 1)), expected.images)
    half_a_grey_level = 0.5 / 127.5
    np.testing.assert_allclose(x[..., 0], expected.images / 8 - 1, atol=half_a_grey_level + 1e-6)
    np.testing.assert_array_equal(labels, expected.target)
    assert source.shape == (8, 8, 1) and source.num_classes == 10
    assert source.label_names == tuple("0123456789")


@pytest.mark.parametrize(
    "split, rows",
    [("train", range(1500)), ("test", range(1500, 1797)), ("test[1:3]+train[:10%]", None)],
)
def test_a_split_is_the_rows_it_names(digits_dir, split, rows):
    rows = [1501, 1502, *range(150)] if rows is None else rows
    source = open_source("digits", split, data_dir=digits_dir)
    np.testing.assert_array_equal(stack(source, "label"), load_digits().target[list(rows)])


def test_an_index_outside_a_source_is_an_index_error(digits_dir):
    source = open_source("digits", "test", data_dir=digits_dir)
    assert source[-1]["label"] == source[296]["label"]
    with pytest.raises(IndexError):
        source[297]


def test_digits_are_written_once(digits_dir, monkeypatch):
    monkeypatch.setattr(Digits, "_generate_examples", lambda *_: pytest.fail("written again"))
    assert len(open_source("digits", "all", data_dir=digits_dir)) == 1797


def test_of_two_processes_that_write_digits_at_once_both_read_them(tmp_path, monkeypatch):
    generate = Digits._generate_examples
    other = []

    def interrupted(self, images, labels):
        if not other:
            other.append("started")
            prepare_packaged(Digits, str(tmp_path))
        return generate(self, images, labels)

    monkeypatch.setattr(Digits, "_generate_examples", interrupted)
    assert len(open_source("digits", "train", data_dir=str(tmp_path))) == 1500


def test_digits_are_written_anew_after_a_process_was_killed_writing_them(tmp_path, monkeypatch):
    left_over = tmp_path / "digits" / "incomplete.ABCDEF_1.0.0"
    left_over.mkdir(parents=True)
    (left_over / "digits-train.array_record-00000-of-00001").write_bytes(b"half")
    assert len(open_source("digits", "test", data_dir=str(tmp_path))) == 297


def test_a_tilde_in_data_dir_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert len(open_source("digits", "test", data_dir="~/data")) == 297
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_data_dir_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="digits cannot be written to .*data_dir"):
        open_source("digits", "train", data_dir=str(tmp_path / "file"))


def test_a_disk_that_fills_while_digits_are_written_is_one_line(tmp_path):
    said = f"digits cannot be written to {tmp_path}/digits/1.0.0 .*File too large.* free space"
    with pytest.raises(ValueError, match=said) as error, files_up_to(4096):
        open_source("digits", "train", data_dir=str(tmp_path))
    assert "\n" not in str(error.value)
    assert len(open_source("digits", "train", data_dir=str(tmp_path))) == 1500


def test_a_directory_that_is_no_data_set_is_refused(tmp_path):
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    with pytest.raises(ValueError, match="not a complete data set: delete it"):
        open_source("digits", "train", data_dir=str(tmp_path))


# TFDS data sets


@pytest.mark.parametrize("name, side", [("cifar10", 32), ("imagenet_resized/64x64", 64)])
def test_a_tfds_data_set_keeps_its_pixels_and_labels(tmp_path, monkeypatch, name, side):
    images = random_images(7, side, side, 3)
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    write_dataset(monkeypatch, name, str(tmp_path), images, range(7))
    source = open_source(name, "train", data_dir=str(tmp_path))
    order = stack(source, "label")
    assert sorted(order) == list(range(7)) and source.shape == (side, side, 3)
    x = stack(source, "x")
    assert x.dtype == np.float32 and x.min() == -1 and x.max() == 1
    np.testing.assert_array_equal(np.rint((x.astype(np.float64) + 1) * 127.5), images[order])


@pytest.mark.parametrize("size, factor", [(64, 6), (128, 3)])
def test_imagenet_is_the_mean_over_blocks_of_the_central_square(
    tmp_path, monkeypatch, size, factor
):
    wide, tall, grey = (
        random_images(384, 500, 3),
        random_images(500, 384, 3),
        random_images(384, 384),
    )
    write_dataset(monkeypatch, "imagenet2012", str(tmp_path), [wide, tall, grey], [0, 1, 2])
    source = open_source("imagenet2012", "train", data_dir=str(tmp_path), image_size=size)
    assert source.shape == (size, size, 3) and source.num_classes == 1000
    squares = [wide[:, 58:442], tall[58:442], np.stack([grey] * 3, axis=-1)]
    for example in source:
        blocks = squares[example["label"]].reshape(size, factor, size, factor, 3)
        mean = blocks.mean(axis=(1, 3)) / 127.5 - 1
        np.testing.assert_allclose(example["x"], mean, atol=0.5 / 127.5 + 1e-5)


def test_images_of_varying_shape_need_an_image_size(tmp_path, monkeypatch):
    write_dataset(monkeypatch, "imagenet2012", str(tmp_path), random_images(1, 9, 8, 3), [0])
    with pytest.raises(ValueError, match="imagenet2012 vary in shape: give image_size"):
        open_source("imagenet2012", "train", data_dir=str(tmp_path))


def test_an_unlabelled_split_is_refused_when_it_is_opened(tmp_path, monkeypatch):
    write_dataset(monkeypatch, "imagenet2012", str(tmp_path), random_images(1, 9, 8, 3), [-1])
    with pytest.raises(ValueError, match="label is -1"):
        open_source("imagenet2012", "train", data_dir=str(tmp_path), image_size=8)


@pytest.mark.parametrize("side, size", [(75, 64), (200, 128), (96, 64), (40, 64), (5, 8), (64, 64)])
def test_a_resized_image_is_the_mean_over_equal_areas(side, size):
    image = random_images(side, side, 3, seed=side)
    # On a grid fine enough for both sizes, every area is an integer number of equal cells.
    cells = math.lcm(side, size)
    share = np.repeat(np.eye(side), cells // side, axis=0).reshape(size, -1, side).mean(axis=1)
    mean = np.einsum("pi,qj,ijc->pqc", share, share, image.astype(np.float64), optimize=True)
    resized = to_square(image, size)
    assert resized.dtype == np.uint8
    np.testing.assert_allclose(resized, mean, atol=0.5 + 1e-3)


def test_fingerprints_are_json_and_tell_data_sets_apart(digits_dir):
    sources = [
        open_source("digits", "train", data_dir=digits_dir),
        open_source("digits", "train", data_dir=digits_dir, image_size=16),
        open_source("digits", "test", data_dir=digits_dir),
        open_source("mixture", "train"),
        open_source("mixture", "train", seed=1),
        open_source("mixture", "train", std=0.5),
    ]
    texts = [json.dumps(source.fingerprint()) for source in sources]
    assert len(set(texts)) == len(texts)
    same = open_source("digits", "train", data_dir=digits_dir, image_size=8)
    assert json.dumps(same.fingerprint()) == texts[0]


@pytest.mark.parametrize(
    ("name", "image_size", "side"),
    [
        ("cifar10", None, 32),
        ("imagenet_resized/64x64", None, 64),
        ("imagenet2012", 64, 64),
        ("imagenet2012", 128, 128),
    ],
)
def test_tfds_own_mock_of_a_data_set_goes_through_source_and_batches(name, image_size, side):
    with tfds.testing.mock_data(num_examples=5):
        records = tfds.data_source(name, split="train")
        source = ImageSource(
            name=name,
            version="mock",
            split="train",
            records=records,
            shape=(side, side, 3),
            label_names=tuple(tfds.builder(name).info.features["label"].names),
            image_size=image_size,
        )
        batch = batches(source, seed=0, batch_size=4, random_flip=True)[0]
    assert batch["x"].shape == (4, side, side, 3) and batch["x"].dtype == np.float32
    assert -1 <= batch["x"].min() < batch["x"].max() <= 1
    assert batch["labels"].max() < source.num_classes in (10, 1000)
