"""Pixels of encoded pictures, against the picture that was encoded."""

import logging
import re
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.core.features import image_feature

from cfg_jax.data import open_source
from cfg_jax.data.decoding import background_colour, decode, is_plain, probe
from cfg_jax.io.images import to_images
from tests import encodings
from tests.data_files import write_encoded

ENCODINGS = encodings.encodings()
READABLE = {name: pair for name, pair in ENCODINGS.items() if pair[1] is not None}
PAGE = Path(__file__).parents[1] / "docs" / "data.md"
LOSSY = 4  # levels of 256
BORDER = slice(encodings.SIDE // 2 - 2, encodings.SIDE // 2 + 2)  # smoothed by JPEG and WebP


def assert_same(pixels, shown, name=None):
    assert pixels.dtype == np.uint8 and pixels.shape == shown.shape
    difference = np.delete(np.abs(pixels.astype(int) - shown), BORDER, axis=0)
    assert difference.max() <= LOSSY, (name, pixels[[0, -1]][:, [0, -1]])


def as_grey(shown):
    """ITU-R 601, rounded."""
    grey = np.rint(shown @ np.array([0.299, 0.587, 0.114]))
    return grey[..., None].astype(np.uint8)


@pytest.mark.parametrize("name", READABLE)
def test_an_encoding_shows_red_above_blue(name):
    encoded, shown = ENCODINGS[name]
    assert_same(decode(encoded, 3), shown)


@pytest.mark.parametrize("name", READABLE)
def test_an_encoding_read_as_grey_has_the_luminance_of_its_colours(name):
    encoded, shown = ENCODINGS[name]
    assert_same(decode(encoded, 1), as_grey(shown))


@pytest.mark.parametrize("name", [name for name in READABLE if re.search("alpha|transparen", name)])
def test_transparent_parts_show_the_background(name):
    encoded, shown = ENCODINGS[name]
    clear = (shown == 255).all(axis=-1, keepdims=True)
    expected = np.where(clear, np.array((255, 128, 0), np.uint8), shown)
    assert_same(decode(encoded, 3, (255, 128, 0)), expected)


def test_a_small_file_with_very_many_pixels_is_refused_before_they_are_decoded():
    encoded = encodings.saved(Image.new("L", (2, 2)), "PNG")
    size = (10_000).to_bytes(4, "big") * 2
    header = b"IHDR" + size + encoded[24:29]
    encoded = encoded[:12] + header + zlib.crc32(header).to_bytes(4, "big") + encoded[33:]
    with pytest.raises(ValueError, match="10000 x 10000 pixels in a file of .*save it smaller"):
        decode(encoded, 3)


def test_an_encoding_without_a_meaning_is_one_line_that_says_why():
    with pytest.raises(ValueError, match="32 bits.*save it with 8 or 16") as caught:
        decode(ENCODINGS["TIFF, floating point"][0], 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoded", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_one_line(encoded):
    with pytest.raises(ValueError, match="cannot be decoded: it is not one of BMP, GIF, JPEG"):
        decode(encoded, 3)


@pytest.mark.parametrize("name", ["PNG, colour", "JPEG, colour", "WebP, colour", "BMP"])
def test_a_picture_cut_short_is_refused(name):
    encoded = ENCODINGS[name][0]
    with pytest.raises(ValueError, match="picture cannot be decoded"):
        decode(encoded[: len(encoded) * 3 // 5], 3)


# Of the EXIF specification: the sides of the upright picture that row 0 and column 0 are.
SIDES = {
    **{1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left")},
    **{5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom")},
}


@pytest.mark.parametrize("orientation", SIDES)
def test_every_exif_orientation_shows_the_upright_picture(orientation):
    row, column = SIDES[orientation]
    upright = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    stored = upright.swapaxes(0, 1) if row in ("left", "right") else upright
    stored = stored[::-1] if row in ("bottom", "right") else stored
    stored = stored[:, ::-1] if column in ("bottom", "right") else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    encoded = encodings.saved(image, "PNG", exif=exif)
    np.testing.assert_array_equal(decode(encoded, 3), upright)
    assert probe(encoded) == (4, 6, False)
    assert is_plain(encoded) == (orientation == 1)


@pytest.mark.parametrize("name", READABLE)
def test_a_probe_gives_the_size_and_whether_there_are_only_greys(name):
    encoded, shown = ENCODINGS[name]
    grey = "grey" in name or "1 bit" in name
    assert probe(encoded) == (*shown.shape[:2], grey)


def test_only_opaque_upright_grey_or_colour_is_plain():
    plain = {name for name, (encoded, _) in ENCODINGS.items() if is_plain(encoded)}
    assert plain == {
        *("PNG, colour", "PNG, colour of 16 bits", "PNG, grey"),
        *("JPEG, colour", "JPEG, grey", "WebP, colour", "BMP"),
    }


# TFDS records


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory):
    """A TFDS data set of the readable encodings in order, and one of plain pictures."""
    folder = tmp_path_factory.mktemp("records")
    write_encoded(folder, [encoded for encoded, _ in READABLE.values()])
    return str(folder)


class NoOpenCV(types.SimpleNamespace):
    """Stands for OpenCV: TFDS would use it if it decoded anything."""

    IMREAD_UNCHANGED = -1

    def imdecode(self, *arguments):
        raise AssertionError("decoded by OpenCV")


@pytest.mark.parametrize("opencv", [None, NoOpenCV()], ids=["without OpenCV", "with OpenCV"])
def test_tfds_records_show_the_same_pictures(records_dir, monkeypatch, opencv):
    monkeypatch.setattr(image_feature, "cv2", opencv)
    source = open_source("encoded_pictures", "train", data_dir=records_dir)
    assert source.shape == (encodings.SIDE, encodings.SIDE, 3)
    for example, (name, (_, shown)) in zip(source, READABLE.items(), strict=True):
        assert_same(to_images(example["x"]), shown, name)


def test_tfds_records_that_have_no_meaning_are_named_at_opening_or_left_out(tmp_path, caplog):
    write_encoded(tmp_path, [encoded for encoded, _ in ENCODINGS.values()])
    unreadable = list(ENCODINGS).index("TIFF, floating point")
    named = f"1 of 20 examples of encoded_pictures train .*example {unreadable}: .*32 bits"
    with pytest.raises(ValueError, match=named) as caught:
        open_source("encoded_pictures", "train", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING, "absl"):
        source = open_source("encoded_pictures", "train", data_dir=str(tmp_path), on_error="skip")
    assert re.search(named, caplog.text) and len(source) == 19
    for example, (name, (_, shown)) in zip(source, READABLE.items(), strict=True):
        assert_same(to_images(example["x"]), shown, name)


def test_channels_and_background_of_tfds_records_are_the_callers(records_dir):
    grey = open_source("encoded_pictures", "train", data_dir=records_dir, channels=1)
    for example, (name, (_, shown)) in zip(grey, READABLE.items(), strict=True):
        assert_same(to_images(example["x"]), as_grey(shown), name)
    black = open_source("encoded_pictures", "train", data_dir=records_dir, background="black")
    index = list(READABLE).index("PNG, colour and alpha")
    shown = encodings.with_left(ENCODINGS["PNG, colour"][1], (0, 0, 0))
    assert_same(to_images(black[index]["x"]), shown)


def test_the_fingerprint_names_the_decoder_unless_tfds_has_the_same_pixels(records_dir, data_dir):
    mixed = open_source("encoded_pictures", "train", data_dir=records_dir)
    assert mixed.fingerprint()["decoder"] == "cfg_jax 1 over #ffffff"
    plain = open_source("digits", "train", data_dir=data_dir)
    # Recorded with the version of this package that left decoding to TFDS.
    assert plain.fingerprint() == {
        "dataset": "digits",
        "version": "1.0.0",
        "split": "train",
        "num_examples": 1500,
        "shape": [8, 8, 1],
        "preprocessing": "none",
        "content": 422556691,
    }


@pytest.mark.parametrize("colour", ["", "whight", "#12"])
def test_an_unknown_background_is_one_line(colour):
    with pytest.raises(ValueError, match="background is .*: give a colour by name, or as"):
        background_colour(colour)


def test_the_page_lists_the_twenty_encodings():
    table = re.findall(r"^\| (?:PNG|JPEG|WebP|GIF|BMP|TIFF)[^|]*", PAGE.read_text(), re.MULTILINE)
    assert [row.strip("| ") for row in table] == list(ENCODINGS) and len(table) == 20
