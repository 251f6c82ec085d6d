"""Images in .npz files as data sets."""

import json

import numpy as np
import pytest

from cfg_jax.data import open_source
from cfg_jax.io.images import to_images
from tests.data_files import random_images, stack

IMAGES = random_images(60, 6, 6, 3)
LABELS = np.arange(60) % 3


def write(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def opened(data_dir, split="all", **options):
    return open_source("npz", split, data_dir=str(data_dir), **options)


def test_a_file_has_its_images_and_labels(tmp_path):
    path = write(tmp_path / "a.npz", images=IMAGES, labels=LABELS, label_names=["a", "b", "c"])
    source = opened(path)
    assert source.shape == (6, 6, 3) and source.label_names == ("a", "b", "c")
    np.testing.assert_array_equal(to_images(stack(source, "x")), IMAGES)
    np.testing.assert_array_equal(stack(source, "label"), LABELS)
    assert stack(source, "label").dtype == np.int32


def test_every_row_is_either_trained_or_tested_on_and_more_rows_move_none(tmp_path):
    path = write(tmp_path / "a.npz", images=IMAGES[:, :1, :1], labels=0 * LABELS)
    more = write(tmp_path / "b.npz", images=np.tile(IMAGES[:, :1, :1], (4, 1, 1, 1)))
    train, test = (to_images(stack(opened(path, split), "x")) for split in ("train", "test"))
    assert len(train) + len(test) == 60 and 0 < len(test) < 20
    rows = np.concatenate([train, test]).reshape(60, 3)
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(IMAGES[:, 0, 0], axis=0))
    np.testing.assert_array_equal(to_images(stack(opened(more, "test"), "x"))[: len(test)], test)


def test_files_of_a_folder_are_its_splits(tmp_path):
    write(tmp_path / "train.npz", images=IMAGES[:40], labels=LABELS[:40])
    write(tmp_path / "test.npz", images=IMAGES[40:42], labels=LABELS[40:42])
    for split, rows in {"train": slice(40), "test": slice(40, 42), "all": slice(42)}.items():
        source = opened(tmp_path, split)
        np.testing.assert_array_equal(to_images(stack(source, "x")), IMAGES[rows])
        assert source.label_names == ("0", "1", "2")


def test_images_without_labels_are_one_class(tmp_path):
    source = opened(write(tmp_path / "a.npz", images=IMAGES))
    assert source.num_classes == 1 and not stack(source, "label").any()


@pytest.mark.parametrize("stored, channels", [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_transparency_is_no_channel(tmp_path, stored, channels):
    images = random_images(5, 6, 6, stored)
    if stored in (2, 4):
        images[..., -1] = np.arange(6) < 3  # opaque enough to tell: 0 or 1 of 255
        images[..., -1] *= 255
    path = write(tmp_path / "a.npz", images=images)
    source = opened(path, background="black")
    assert source.shape == (6, 6, channels)
    expected = images[..., :channels].copy()
    if stored in (2, 4):
        expected[:, :, 3:] = 0
    np.testing.assert_array_equal(to_images(stack(source, "x")), expected)
    for chosen in (1, 3):
        assert opened(path, channels=chosen)[0]["x"].shape == (6, 6, chosen)


def test_images_are_averaged_to_the_size_requested(tmp_path):
    source = opened(write(tmp_path / "a.npz", images=IMAGES), image_size=3)
    blocks = IMAGES.reshape(60, 3, 2, 3, 2, 3).mean(axis=(2, 4)) / 127.5 - 1
    np.testing.assert_allclose(stack(source, "x"), blocks, atol=0.5 / 127.5 + 1e-5)


def test_the_fingerprint_is_that_of_every_byte(tmp_path):
    changed = IMAGES.copy()
    changed[17, 0, 0, 0] ^= 1
    files = {
        "a": dict(images=IMAGES, labels=LABELS),
        "b": dict(images=changed, labels=LABELS),
        "c": dict(images=IMAGES, labels=LABELS[::-1]),
    }
    prints = [opened(write(tmp_path / name, **files[name]) + ".npz") for name in files]
    texts = [json.dumps(source.fingerprint()) for source in prints]
    assert len(set(texts)) == 3 and str(tmp_path) not in texts[0]


@pytest.mark.parametrize(
    "arrays, message",
    [
        (dict(arr_0=IMAGES), "has the arrays arr_0: need images uint8"),
        (dict(images=IMAGES / 255), r"images float64\[60, 6, 6, 3\]: need images uint8"),
        (dict(images=IMAGES[0]), r"images uint8\[6, 6, 3\]"),
        (dict(images=IMAGES[:0]), r"images uint8\[0, 6, 6, 3\]"),
        (dict(images=IMAGES.reshape(60, 6, 3, 6)), "need 1 to 4 channels"),
        (dict(images=IMAGES, labels=LABELS[1:]), r"labels int64\[59\]: need 60 integers"),
        (dict(images=IMAGES, labels=LABELS / 1), r"labels float64\[60\]: need 60 integers"),
        (dict(images=IMAGES, labels=LABELS - 1), "labels from -1 to 1: need 0 to 1 for 2 classes"),
        (
            dict(images=IMAGES, labels=LABELS + 1, label_names=["a", "b", "c"]),
            "labels from 1 to 3: need 0 to 2 for 3 classes",
        ),
        (dict(images=IMAGES, labels=10**9 * LABELS), "to 2000000000: need 0 to 59 for 60 classes"),
        (dict(images=IMAGES, labels=LABELS + 1), "no image of class '0' in split 'all'"),
        (dict(images=IMAGES, label_names=["a", "a"]), "need K different strings"),
        (dict(images=IMAGES, label_names=[1]), r"label_names int64\[1\]: need K"),
    ],
)
def test_arrays_that_are_no_data_set_are_one_line(tmp_path, arrays, message):
    path = write(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        opened(path)
    assert "\n" not in str(caught.value)


def test_other_files_splits_and_places_are_one_line(tmp_path):
    (tmp_path / "text.npz").write_text("text")
    np.save(tmp_path / "one.npy", IMAGES)
    for name in ("text.npz", "one.npy", "missing.npz", ""):
        with pytest.raises(ValueError, match="cannot be read .*: give a .npz of images uint8"):
            opened(tmp_path / name)
    path = write(tmp_path / "a.npz", images=IMAGES)
    with pytest.raises(ValueError, match="split is 'validation': .* has train, test, all"):
        opened(path, "validation")
    write(tmp_path / "train.npz", images=IMAGES)
    write(tmp_path / "test.npz", images=IMAGES[:, :5])
    with pytest.raises(ValueError, match="images of 5 x 6 x 3 in .* but train.npz images of 6 x 6"):
        opened(tmp_path)
