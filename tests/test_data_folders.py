"""Folders of pictures as data sets."""

import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from cfg_jax.data import folders, layout, open_source
from cfg_jax.data.opening import describe
from cfg_jax.io.images import to_images
from tests import encodings
from tests.data_files import random_images

ENCODINGS = encodings.encodings()


def write(folder, files):
    """Writes {path: pixels or bytes}."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            Image.fromarray(content).save(path)
    return folder


def album(folder, count=20, side=8, classes=("cat", "dog")):
    """`count` random pictures of each class; {path: pixels}."""
    names = [f"{name}/{i:03}.png" for name in classes for i in range(count)]
    files = dict(zip(names, random_images(len(names), side, side, 3), strict=True))
    write(folder, files)
    return files


def opened(folder, split="train", **options):
    return open_source("folder", split, data_dir=str(folder), **options)


def names(source):
    return [picture.file for picture in source.records.records.pictures]


def test_a_folder_of_classes_has_its_pixels_and_labels(tmp_path):
    files = album(tmp_path)
    source = opened(tmp_path, "all")
    assert source.shape == (8, 8, 3) and source.label_names == ("cat", "dog")
    assert names(source) == sorted(files)
    for example, name in zip(source, sorted(files), strict=True):
        np.testing.assert_array_equal(to_images(example["x"]), files[name])
        assert example["label"] == name.startswith("dog")
    described = describe("folder", data_dir=str(tmp_path))
    assert described == (source.shape, source.label_names)


def test_a_tenth_is_held_out_whatever_else_is_in_the_folder(tmp_path):
    files = album(tmp_path, count=150)
    train, test = names(opened(tmp_path)), names(opened(tmp_path, "test"))
    assert sorted(train + test) == sorted(files)
    # 300 draws at 1/10 have a standard deviation of 5.2.
    assert abs(len(test) - 30) < 5 * 5.2
    write(tmp_path, {"dog/a.png": random_images(8, 8, 3), "cat/z.png": random_images(8, 8, 3)})
    assert set(test) <= set(names(opened(tmp_path, "test")))
    assert set(train) <= set(names(opened(tmp_path)))


def test_folders_of_splits_are_the_splits(tmp_path):
    for split in ("train", "test", "val"):
        album(tmp_path / split, count=3)
    for split in ("train", "test", "val"):
        source = opened(tmp_path, split)
        assert len(source) == 6 and all(name.startswith(f"{split}/") for name in names(source))
    assert len(opened(tmp_path, "all")) == 18


def test_without_a_folder_for_tests_a_tenth_of_train_is_held_out(tmp_path):
    album(tmp_path / "train", count=100)
    album(tmp_path / "val", count=2)
    train, test = names(opened(tmp_path)), names(opened(tmp_path, "test"))
    assert len(train) + len(test) == 200 and 0 < len(test) < 60
    assert all(name.startswith("train/") for name in train + test)
    # The same pictures as without the folder of the split.
    album(tmp_path / "other", count=100)
    assert [f"train/{name}" for name in names(opened(tmp_path / "other", "test"))] == test


def test_pictures_without_folders_of_classes_are_one_class(tmp_path):
    write(tmp_path, {f"{i}.png": random_images(8, 8, 3) for i in range(5)})
    source = opened(tmp_path, "all")
    assert source.num_classes == 1 and source.label_names == (layout.UNLABELLED,)
    assert {int(example["label"]) for example in source} == {0}


def test_every_kind_of_file_is_read_as_through_tfds_records(tmp_path):
    suffix = {"PNG": ".png", "JPEG": ".JPG", "WebP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
    readable = {name: pair for name, pair in ENCODINGS.items() if pair[1] is not None}
    for i, (name, (encoded, _)) in enumerate(readable.items()):
        write(tmp_path, {f"class/{i:02}{suffix.get(name.split(',')[0], '.Tiff')}": encoded})
    source = opened(tmp_path, "all")
    assert len(source) == len(readable) == 19
    border = slice(encodings.SIDE // 2 - 2, encodings.SIDE // 2 + 2)
    for example, (name, (_, shown)) in zip(source, readable.items(), strict=True):
        difference = np.abs(to_images(example["x"]).astype(int) - shown)
        assert np.delete(difference, border, axis=0).max() <= 4, name


@pytest.mark.parametrize("kinds, channels", [("LL", 1), ("L1", 1), ("L3", 3), ("33", 3)])
def test_channels_are_those_of_all_pictures(tmp_path, kinds, channels):
    pictures = {
        "L": random_images(8, 8),
        "1": random_images(8, 8) > 127,
        "3": random_images(8, 8, 3),
    }
    write(tmp_path, {f"{i}.png": pictures[kind] for i, kind in enumerate(kinds)})
    assert opened(tmp_path, "all").shape == (8, 8, channels)
    for chosen in (1, 3):
        source = opened(tmp_path, "all", channels=chosen)
        assert source.shape == (8, 8, chosen) == source[0]["x"].shape


def test_hidden_files_and_other_kinds_are_passed_over(tmp_path):
    files = album(tmp_path, count=3)
    write(
        tmp_path,
        {
            "cat/.hidden.png": b"no picture",
            "cat/._000.png": b"no picture",
            ".thumbnails/0.png": b"no picture",
            "cat/.cache/0.png": b"no picture",
            "cat/notes.txt": b"no picture",
            "readme.md": b"no picture",
        },
    )
    assert names(opened(tmp_path, "all")) == sorted(files)


def test_links_are_followed_and_a_circle_is_entered_once(tmp_path):
    files = album(tmp_path / "pool", count=2)
    root = tmp_path / "data"
    (root / "cat").mkdir(parents=True)
    (root / "dog").symlink_to(tmp_path / "pool" / "dog")
    (root / "cat" / "a.png").symlink_to(tmp_path / "pool" / "cat" / "000.png")
    (root / "cat" / "again").symlink_to(root / "cat")
    (root / "cat" / "above").symlink_to(root)
    found = names(opened(root, "all"))
    assert found[0] == "cat/a.png" and found[-2:] == ["dog/000.png", "dog/001.png"]
    assert sum(name.endswith("a.png") for name in found) == 1
    first = to_images(opened(root, "all")[0]["x"])
    np.testing.assert_array_equal(first, files["cat/000.png"])


def test_pictures_of_varying_size_need_an_image_size(tmp_path):
    write(tmp_path, {"a.png": random_images(8, 8, 3), "b.png": random_images(12, 16, 3)})
    with pytest.raises(ValueError, match="8 x 8 and 12 x 16 pixels: give image_size"):
        opened(tmp_path, "all")
    source = opened(tmp_path, "all", image_size=4)
    assert source[0]["x"].shape == source[1]["x"].shape == (4, 4, 3)


@pytest.mark.parametrize(
    "files, split, message",
    [
        ({}, "train", "has no pictures: give a folder of classes"),
        ({"notes.txt": b""}, "train", "has no pictures"),
        ({"a.png": 0, "cat/b.png": 0}, "train", "pictures such as a.png beside folders of classes"),
        ({"cat/b.png": 0, "dog/notes.txt": b""}, "all", "class 'dog' of .* has no picture"),
        ({"train/cat/a.png": 0, "test/dog/a.png": 0}, "test", "'dog' .* no picture to train on"),
        ({"train/a.png": 0, "test/a.png": 0, "more/a.png": 0}, "train", "beside more: keep only"),
        ({"a.png": 0}, "validation", "split is 'validation': .* has all, test, train"),
        ({"a.png": 0}, "test", "split 'test' of .* has no pictures: add some"),
        ({"train/cat/a.png": 0, "val/cat/a.png": 0}, "test", "split 'test' of .* has no pictures"),
    ],
)
def test_a_folder_that_is_no_data_set_is_one_line(tmp_path, files, split, message):
    pixels = random_images(8, 8, 3)
    write(tmp_path, {name: content or pixels for name, content in files.items() if content != b""})
    for name in (name for name, content in files.items() if content == b""):
        write(tmp_path, {name: b"text"})
    with pytest.raises(ValueError, match=message) as caught:
        opened(tmp_path, split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data_dir", [None, "", "missing"])
def test_a_missing_folder_is_one_line(data_dir):
    with pytest.raises(ValueError, match="data_dir is .*: give a folder of pictures by class"):
        open_source("folder", "train", data_dir=data_dir)


def test_a_class_whose_pictures_are_all_held_out_is_named(tmp_path):
    held_out = next(f"dog/{i}.png" for i in range(100) if layout.is_held_out(f"dog/{i}.png"))
    write(tmp_path, {held_out: random_images(8, 8, 3)})
    album(tmp_path, count=3, classes=["cat"])
    with pytest.raises(ValueError, match="no picture of class 'dog': .* give split 'all'"):
        opened(tmp_path)
    assert opened(tmp_path, "all").num_classes == 2


@pytest.fixture
def damaged(tmp_path):
    """Forty pictures, of which one is cut short and one a link that leads nowhere."""
    album(tmp_path, count=20)
    broken = tmp_path / "cat" / "007.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (tmp_path / "dog" / "011.png").unlink()
    (tmp_path / "dog" / "011.png").symlink_to(tmp_path / "nowhere.png")
    return tmp_path


def test_pictures_that_cannot_be_decoded_are_counted_and_named_at_opening(damaged):
    with pytest.raises(ValueError, match="2 of 40 examples of folder all cannot be read") as caught:
        opened(damaged, "all")
    message = str(caught.value)
    assert "cat/007.png: " in message and "dog/011.png: " in message
    assert "with config.data.on_error=skip" in message and "\n" not in message


def test_pictures_that_cannot_be_decoded_are_left_out_when_told_to(damaged, caplog):
    with caplog.at_level(logging.WARNING, "absl"):
        source = opened(damaged, "all", on_error="skip")
    assert "2 of 40" in caplog.text and "cat/007.png" in caplog.text
    assert len(source) == 38 and source.fingerprint()["left_out"] == [7, 31]
    kept = [path for i, path in enumerate(sorted(damaged.glob("*/*.png"))) if i not in (7, 31)]
    for example, path in zip(source, kept, strict=True):
        np.testing.assert_array_equal(to_images(example["x"]), np.asarray(Image.open(path)))
        assert example["label"] == (path.parent.name == "dog")


def test_a_class_without_one_readable_picture_is_refused_even_when_told_to_skip(tmp_path):
    album(tmp_path, count=2, classes=["cat"])
    write(tmp_path, {"dog/a.png": b"no picture", "dog/b.png": b"no picture"})
    with pytest.raises(ValueError, match="no picture of class 'dog' can be decoded .dog/a.png: "):
        opened(tmp_path, "all", on_error="skip")


def test_a_disk_that_fails_once_is_read_again(tmp_path, monkeypatch):
    album(tmp_path, count=1)
    read, failed = folders.read_bytes, []

    def read_bytes(path):
        if path not in failed:
            failed.append(path)
            raise OSError("disk asleep")
        return read(path)

    monkeypatch.setattr(folders, "read_bytes", read_bytes)
    assert len(opened(tmp_path, "all")) == len(failed) == 2


def test_the_fingerprint_knows_files_and_decoder_but_not_the_place(tmp_path):
    files = album(tmp_path / "here", count=3)
    write(tmp_path / "there", files)
    here, there = (opened(tmp_path / place, "all").fingerprint() for place in ("here", "there"))
    assert json.dumps(here) == json.dumps(there)
    assert here["decoder"] == "cfg_jax 1 over #ffffff" and "here" not in json.dumps(here)
    black = opened(tmp_path / "there", "all", background="black").fingerprint()
    os.rename(tmp_path / "there/cat/001.png", tmp_path / "there/cat/009.png")
    renamed = opened(tmp_path / "there", "all").fingerprint()
    assert len({json.dumps(one) for one in (here, black, renamed)}) == 3
