"""configs/folder.py: sizes that follow from the pictures."""

import numpy as np
import pytest
from PIL import Image

from cfg_jax.config import build
from cfg_jax.config.validate import validate
from configs import folder
from launch import fields
from tests.data_files import random_images


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(28, 28)], 28),
        ([(64, 64)] * 3, 64),
        ([(50, 50)], 32),
        ([(1200, 1600), (1600, 1200)], 64),
        ([(40, 90), (30, 200), (33, 33)], 32),
        ([(20, 24)], 16),
        ([(5, 7)], 8),
        ([(6, 6)], 8),
    ],
)
def test_the_side_is_that_of_the_pictures_or_a_power_of_two_below(sizes, side):
    assert folder.image_side(sizes) == side


@pytest.mark.parametrize("side", [4, 8, 12, 16, 20, 28, 32, 36, 48, 64])
@pytest.mark.parametrize("count", [10, 300, 5_000, 60_000])
def test_every_side_and_number_gives_a_valid_config(monkeypatch, side, count):
    pictures = folder.Pictures(count, [(side, side)])
    monkeypatch.setattr(folder, "survey", lambda place: pictures)
    config = folder.get_config("somewhere")
    validate(config, num_devices=8)
    heights = [side // 2**i for i in range(len(config.model.channel_mult))]
    assert side % 2 ** (len(heights) - 1) == 0
    assert set(config.model.attention_resolutions) < set(heights)
    assert heights[-1] <= 9 and config.data.image_size == side
    assert build.data_arguments(config)["data_dir"] == "somewhere"


@pytest.mark.parametrize("side", [8, 20, 48, 50, 64, 128, 256, 1024])
def test_a_side_after_the_place_sets_the_network_too(monkeypatch, side):
    pictures = folder.Pictures(100, [(40, 50)])
    monkeypatch.setattr(folder, "survey", lambda place: pictures)
    config = folder.get_config(f"somewhere:{side}")
    validate(config, num_devices=1)
    assert config.data.image_size == side and config.data.data_dir == "somewhere"


@pytest.mark.parametrize("side", [0, 7, 31, 2048])
def test_a_side_that_no_network_has_is_refused(side):
    with pytest.raises(ValueError, match=f"somewhere:{side}: the side must be even, from 8 to"):
        folder.get_config(f"somewhere:{side}")


def test_a_folder_whose_name_ends_like_a_side_is_a_folder(tmp_path):
    place = tmp_path / "pictures:64"
    place.mkdir()
    assert folder.split(str(place)) == (str(place), 0)


def test_more_pictures_get_a_wider_network_and_more_steps(monkeypatch):
    def config(count):
        monkeypatch.setattr(folder, "survey", lambda place: folder.Pictures(count, [(32, 32)]))
        return folder.get_config("somewhere")

    configs = [config(count) for count in (300, 10_000, 100_000)]
    widths = [config.model.channels for config in configs]
    steps = [config.train.num_steps for config in configs]
    assert widths == sorted(set(widths)) and steps == sorted(set(steps))


def test_the_side_follows_from_the_pictures(tmp_path):
    for name in ("cat/0.png", "cat/1.png", "dog/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random_images(20, 18, 3)).save(tmp_path / name)
    config = folder.get_config(str(tmp_path))
    assert (config.data.image_size, config.model.channels) == (16, 32)
    assert config.data.name == "folder" and config.data.data_dir == str(tmp_path)
    np.savez(tmp_path / "a.npz", images=random_images(4, 8, 8, 1))
    config = folder.get_config(str(tmp_path / "a.npz"))
    assert config.data.name == "npz" and config.data.image_size == 8


def test_a_named_config_takes_an_argument():
    (found,) = fields.with_config_path(["--config=folder:~/my pictures"])
    assert found == f"--config={folder.__file__}:~/my pictures"


def test_a_place_without_pictures_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="has no pictures: give a folder of classes"):
        folder.get_config(str(tmp_path))
