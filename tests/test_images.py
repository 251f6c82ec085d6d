import base64

import numpy as np
import pytest
from PIL import Image

from cfg_jax.io import images, text


def test_every_grey_level_survives_the_way_to_x_and_back():
    levels = np.arange(256)
    np.testing.assert_array_equal(images.to_images(levels / 127.5 - 1), levels)


def test_values_beyond_the_range_are_clipped_and_not_wrapped():
    np.testing.assert_array_equal(images.to_images(np.array([-7.0, 7.0])), [0, 255])


@pytest.mark.parametrize("x", [np.array([200], np.uint8), np.array([1j]), np.array([np.nan])])
def test_what_is_no_x_is_not_turned_into_images(x):
    with pytest.raises(ValueError, match="need floats in"):
        images.to_images(x)


@pytest.mark.parametrize("values", [np.array([0.5]), [1, 2], np.array([True])])
def test_what_is_no_image_is_not_turned_into_x(values):
    with pytest.raises(ValueError, match="need an array of integers"):
        images.to_x(values)


TILES = np.zeros((1, 2, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(
    "tiles", [TILES[0, 0], TILES / 2, TILES[:0], TILES.repeat(2, 4), TILES.repeat(4, 4)]
)
def test_a_grid_of_other_arrays_is_refused(tiles):
    with pytest.raises(ValueError, match="need uint8"):
        images.grid(tiles)


def test_captions_that_are_too_many_or_too_few_are_refused():
    for rows, columns in ((["a"], ["b"]), (["a", "b"], ["c", "d"]), ([], [])):
        with pytest.raises(ValueError, match="give one per row and per column"):
            images.captioned_grid(TILES, rows, columns)


def test_each_image_stands_at_its_row_and_column():
    tiles = np.zeros((2, 3, 4, 4, 1), np.uint8)
    tiles[1, 2] = 200
    tiles[0, 1] = 100
    picture = images.grid(tiles, gap=0)
    assert picture.shape == (2 * 64, 3 * 64, 3)
    assert picture[64 + 32, 2 * 64 + 32].tolist() == [200] * 3
    assert picture[32, 64 + 32].tolist() == [100] * 3
    assert (picture == 200).sum() == (picture == 100).sum() == 64 * 64 * 3


def test_images_without_rows_are_one_row():
    tiles = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.testing.assert_array_equal(images.grid(tiles), images.grid(tiles[None]))


@pytest.mark.parametrize("captions", [[], ["one", "two", "three"]])
def test_a_sheet_wraps_its_images_below_their_captions(captions):
    tiles = np.zeros((3, 64, 64, 1), np.uint8)
    tiles[2] = 200
    picture = np.asarray(images.sheet(tiles, captions, columns=2))
    rows = np.split(picture, 2)
    assert rows[0].shape == (68 + 20 * bool(captions), 2 * 68, 3)
    assert (rows[1] == 200).all(axis=-1).sum() >= 64 * 64 > (rows[0] == 200).all(axis=-1).sum()
    assert (rows[1][-68:, 68:] == 255).all(), "the place after the last image is white"
    above = rows[0][:-68]
    assert bool(captions) == bool((above < 128).any())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((TILES[0], ["one"]), "1 captions for 2 images: give one per image"),
        ((TILES[0, 0],), r"images of shape \(4, 4, 1\): need uint8 \[B, H, W, C\]"),
        ((TILES[0] / 2,), "type float64: need uint8"),
    ],
)
def test_a_sheet_of_anything_but_images_with_captions_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        images.sheet(*arguments)
    for columns in (0, 2.0, True):
        with pytest.raises(ValueError, match="columns=.*: need an integer of at least 1"):
            images.sheet(TILES[0], columns=columns)


def test_an_animation_is_the_same_in_a_file_and_in_a_notebook(tmp_path):
    frames = np.zeros((3, 2, 4, 4, 1), np.uint8)
    frames[1:] = 200
    moving = images.animation(frames, seconds=0.5)
    moving.save(tmp_path / "new" / "a.gif")
    images.save_gif(str(tmp_path / "b.gif"), frames, seconds=0.5)
    written = (tmp_path / "new" / "a.gif").read_bytes()
    assert written == (tmp_path / "b.gif").read_bytes()
    assert base64.b64encode(written).decode() in moving._repr_html_()
    with Image.open(tmp_path / "b.gif") as gif:
        assert gif.n_frames == 2 and gif.info["loop"] == 0  # equal frames become one
        assert gif.info["duration"] == 500


def test_a_picture_is_saved_under_a_path_given_as_text(tmp_path):
    images.save_png(str(tmp_path / "a.png"), Image.new("RGB", (3, 2), "red"))
    assert Image.open(tmp_path / "a.png").size == (3, 2)
    with pytest.raises(ValueError, match=r"picture of shape \(2, .*: need a picture"):
        images.save_png(tmp_path / "b.png", np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="picture of type list: need a picture"):
        images.save_png(tmp_path / "b.png", [0])


@pytest.mark.parametrize("channels", [1, 3])
def test_one_image_is_saved_pixel_by_pixel(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 4, channels)).astype(np.uint8)
    images.save_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), image.squeeze())


def test_points_of_each_name_have_their_own_colour():
    points = np.random.default_rng(0).standard_normal((40, 2))
    colours = [
        len(
            {
                tuple(pixel)
                for row in np.asarray(picture)[::2]
                for pixel in row
                if np.ptp(pixel) > 90
            }
        )
        for picture in (
            images.scatter_by_name(points),
            images.scatter_by_name(points, ["a", "b"] * 20),
        )
    ]
    assert colours[1] > colours[0]
    with pytest.raises(ValueError, match="need .N, 2., and N names"):
        images.scatter_by_name(points, ["a"])


def test_captions_are_added_beside_the_grid_and_not_over_it():
    tiles = np.full((2, 2, 8, 8, 3), 7, np.uint8)
    captioned = np.asarray(images.captioned_grid(tiles, ["zero", "one"], ["w = 0", "w = 1"]))
    plain = images.grid(tiles)
    np.testing.assert_array_equal(captioned[-plain.shape[0] :, -plain.shape[1] :], plain)


def test_a_png_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "a.png"
    images.save_png(path, Image.new("RGB", (3, 2), "red"))
    assert Image.open(path).size == (3, 2)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_points_are_drawn_one_panel_a_column():
    points = np.random.default_rng(0).standard_normal((2, 3, 5, 2))
    picture = images.scatter(points, ["a", "b"], ["w = 0", "w = 1", "w = 3"])
    assert picture.width > 2.5 * picture.height


def test_a_few_points_are_dots_that_can_be_seen():
    points = np.array([[[[1.0, -1.0], [-1.0, -1.0]]]])
    pixels = np.asarray(images.scatter(points, ["a"], [""])).astype(int)
    coloured = np.ptp(pixels, axis=-1) > 60
    assert coloured[200:].sum() > 2 * 3 * 3  # below the legend


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_images_make_colour_grids(channels):
    assert images.grid(np.zeros((1, 1, 64, 64, channels), np.uint8)).shape == (68, 68, 3)


@pytest.mark.parametrize("name", ["a $ b $ c", r"$\frac{1}"])
def test_a_name_with_a_dollar_is_shown_as_it_is_and_not_as_a_formula(name):
    points = np.random.default_rng(0).standard_normal((2, 1, 20, 2))
    named, plain = (
        np.asarray(images.scatter(points, [row, "b"], [row])) for row in (name, "a plain name")
    )
    assert named.shape == plain.shape
    assert (named != plain).any()


@pytest.mark.parametrize(
    "name", ["\x1b[31m\x07\x00", "a\nb\u2028c", "caf\udcff", "x" * 300, "$\\frac", "_a", ""]
)
def test_captions_of_any_name_leave_room_for_the_pictures(name):
    strip = images.captioned_grid(TILES, [name], ["w = 0", "w = 1"])
    plain = images.grid(TILES)
    assert plain.shape[1] < strip.width < plain.shape[1] + 500
    points = np.random.default_rng(0).normal(size=(1, 1, 9, 2))
    assert images.scatter(points, [name], ["w = 0"]).size == (300, 320)


def test_a_short_name_is_whole_and_a_long_one_keeps_both_ends():
    assert text.short("great white\nshark") == "great white shark"
    assert text.short("a" * 100 + "b" * 100, 12) == "aaaaa...bbbb"
