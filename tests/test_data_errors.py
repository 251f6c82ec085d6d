"""Error messages for invalid data sets, arguments and examples."""

import itertools
import json

import numpy as np
import pytest

from cfg_jax.data import batches, iterate, open_source, prepare, sources
from cfg_jax.data.digits import Digits
from cfg_jax.data.packaged import prepare_packaged
from cfg_jax.data.sources import ImageSource
from tests import encodings
from tests.data_files import random_images, replace_download, write_dataset, write_encoded


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("data"))
    prepare("digits", path)
    return path


def edit_metadata(builder, **changes):
    path = builder.data_path / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "name, parts",
    [
        ("cifar10", ["cfg-jax prepare --dataset=cifar10 --data_dir=", "'.[tf]'"]),
        ("imagenet2012", ["--dataset=imagenet2012", "--manual_dir=DIR", "ILSVRC2012_img_val.tar"]),
        ("imagenet_resized/64x64", ["--dataset=imagenet_resized/64x64"]),
        (
            "cifr10",
            ["'cifr10' is unknown", "folder, npz, digits, digits28, emoji, mixture"],
        ),
        ("imagenet_resized/99x99", ["99x99 not found"]),
        ("no name", ["'no name' cannot be opened"]),
    ],
)
def test_a_data_set_that_is_not_there_is_one_line_with_the_command(tmp_path, name, parts):
    with pytest.raises(ValueError) as caught:
        open_source(name, "train", data_dir=str(tmp_path))
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in parts), message


@pytest.mark.parametrize("split", ["validation", "train[a]", ""])
def test_an_unknown_split_is_told_the_known_ones(digits_dir, split):
    with pytest.raises(ValueError, match="digits has train, test"):
        open_source("digits", split, data_dir=digits_dir)


def test_an_empty_split_is_refused(digits_dir):
    with pytest.raises(ValueError, match="has no examples"):
        open_source("digits", "train[:0]", data_dir=digits_dir)


def test_a_data_set_with_fewer_examples_than_it_says_is_refused(tmp_path):
    builder = prepare_packaged(Digits, str(tmp_path))
    info = json.loads((builder.data_path / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["1600"]
    edit_metadata(builder, **info)
    with pytest.raises(ValueError, match="holds 1500 of the 1600 examples"):
        open_source("digits", "train[:10]", data_dir=str(tmp_path))


def test_a_data_set_with_a_missing_file_is_refused(tmp_path):
    builder = prepare_packaged(Digits, str(tmp_path))
    next(builder.data_path.glob("*train*")).unlink()
    with pytest.raises(ValueError, match="cannot be read .*prepare digits again"):
        open_source("digits", "train", data_dir=str(tmp_path))


def test_a_data_set_in_another_format_is_refused_with_the_command(tmp_path, monkeypatch):
    builder = write_dataset(monkeypatch, "cifar10", str(tmp_path), random_images(1, 32, 32, 3), [0])
    edit_metadata(builder, fileFormat="tfrecord")
    for refused in (
        lambda: open_source("cifar10", "train", data_dir=str(tmp_path)),
        lambda: prepare("cifar10", str(tmp_path)),
    ):
        with pytest.raises(ValueError, match="holds tfrecord.*cfg-jax prepare --dataset=cifar10"):
            refused()


@pytest.mark.parametrize(
    "name, message",
    [
        ("lsun/classroom", "lsun/classroom has no class feature `label`"),
        ("imdb_reviews", "imdb_reviews has no feature `image` of 8 or 16 bits"),
    ],
)
def test_data_sets_without_images_or_labels_are_refused(tmp_path, monkeypatch, name, message):
    write_dataset(monkeypatch, name, str(tmp_path), random_images(1, 8, 8, 3), [0])
    with pytest.raises(ValueError, match=message):
        open_source(name, "train", data_dir=str(tmp_path), image_size=8)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(name="digits", size=3), "only mixture takes arguments"),
        (dict(name="digits", image_size=0), "image_size is 0"),
        (dict(name="mixture", image_size=8), "mixture has no images"),
        (dict(name="mixture", split="all"), "train, test"),
        (dict(name="mixture", size=0), "size is 0"),
        (dict(name="mixture", means=[1.0, 2.0]), r"means has the shape \(2,\)"),
        (dict(name="mixture", std=-1.0), "std is -1.0"),
        (dict(name="mixture", std=[1.0, 1.0]), "or 3 of them"),
        (dict(name="mixture", weights=[1, -1, 1]), "none negative"),
        (dict(name="mixture", weights=[0, 0, 0]), "some positive"),
    ],
)
def test_arguments_out_of_range_are_refused(digits_dir, arguments, message):
    arguments = {"split": "train", **arguments}
    with pytest.raises(ValueError, match=message):
        open_source(arguments.pop("name"), data_dir=digits_dir, **arguments)


def test_preparing_writes_what_open_source_reads_and_only_once(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: "found")
    builder = replace_download(
        monkeypatch, "cifar10", str(tmp_path), random_images(3, 32, 32, 3), [5, 6, 7]
    )
    path = prepare("cifar10", str(tmp_path))
    assert path == str(builder.data_path)
    assert len(open_source("cifar10", "train", data_dir=str(tmp_path))) == 3
    monkeypatch.setattr(type(builder), "_split_generators", lambda *_: pytest.fail("again"))
    assert prepare("cifar10", str(tmp_path)) == path


def test_preparing_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"needs TensorFlow.*pip install '\.\[tf\]'"):
        prepare("cifar10", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: "found")
    (tmp_path / "ILSVRC2012_img_train.tar").write_text("")
    with pytest.raises(ValueError, match="^ILSVRC2012_img_val.tar missing in .*manual_dir"):
        prepare("imagenet2012", str(tmp_path), manual_dir=str(tmp_path))
    with pytest.raises(ValueError, match="nothing to prepare"):
        prepare("mixture")
    with pytest.raises(ValueError, match="unknown"):
        prepare("cifr10", str(tmp_path))


def image_source(records):
    return ImageSource("shop", "1.0.0", "train", records, (2, 2, 1), ("hat", "shoe"))


class Failing(list):
    """Records whose read number `when` raises OSError."""

    def __init__(self, records, when):
        super().__init__(records)
        self.numbers, self.when = itertools.count(), when

    def __getitem__(self, index):
        if next(self.numbers) in self.when:
            raise OSError("disk asleep")
        return super().__getitem__(index)


def test_a_disk_that_fails_once_is_read_again_and_twice_is_named():
    record = {"image": np.zeros((2, 2, 1), np.uint8), "label": 1}
    assert image_source(Failing([record], when=[0]))[0]["label"] == 1
    with pytest.raises(RuntimeError, match="shop, split train: example 0 .*disk asleep"):
        image_source(Failing([record], when=[0, 1]))[0]


@pytest.mark.parametrize(
    "image, label, message",
    [((2, 2, 3), 0, r"image is \(2, 2, 3\)"), ((2, 2, 1), 2, "label is 2")],
)
def test_an_example_that_does_not_fit_is_named_through_the_iterator(image, label, message):
    good = {"image": np.zeros((2, 2, 1), np.uint8), "label": 1}
    source = image_source([good, good, {"image": np.zeros(image, np.uint8), "label": label}])
    with pytest.raises(RuntimeError, match=f"example 2 .*{message}"):
        next(iterate(batches(source, seed=0, batch_size=3)))


def test_of_a_large_data_set_a_record_that_cannot_be_decoded_is_named_or_left_out(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sources, "_MEMORY_BYTES", 1000)
    pictures = 5 * [encodings.encodings()["PNG, colour"][0]]
    pictures[1] = pictures[1][:60]
    write_encoded(tmp_path, pictures)
    place = {"data_dir": str(tmp_path)}
    source = open_source("encoded_pictures", "train", **place)
    with pytest.raises(RuntimeError, match="example 1 cannot be used: .*config.data.on_error=skip"):
        source[1]
    left = open_source("encoded_pictures", "train", **place, on_error="skip")
    assert [int(example["label"]) for example in left] == [0, 0, 1, 0]
    changes = {"num_examples": 4, "left_out": [1], "content": left.fingerprint()["content"]}
    assert left.fingerprint() == source.fingerprint() | changes
    with pytest.raises(ValueError, match="on_error is 'ignore': give one of raise, skip"):
        open_source("encoded_pictures", "train", **place, on_error="ignore")


def test_of_a_large_data_set_damage_is_found_at_opening_where_it_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_MEMORY_BYTES", 1000)
    pictures = 5 * [encodings.encodings()["PNG, colour"][0]]
    pictures[2] = b"no picture"
    write_encoded(tmp_path, pictures)
    with pytest.raises(ValueError, match="example 2 cannot be used: .*not one of BMP, GIF, JPEG"):
        open_source("encoded_pictures", "train", data_dir=str(tmp_path))
