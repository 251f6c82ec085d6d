"""Runs on folders of pictures: damage, resuming, and the story that docs/data.md tells."""

import logging
import re

import chex
import numpy as np
import pytest
from PIL import Image

import cfg_jax
from cfg_jax.training.run import train
from tests.tiny import parameters, pixel_networks, tiny_config


@pytest.fixture
def forty(tmp_path):
    """Forty pictures in two classes, of which the last of class "red" is cut short."""
    rng = np.random.default_rng(0)
    for name, colour in {"blue": (40, 60, 220), "red": (220, 50, 30)}.items():
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for i in range(20):
            pixels = np.clip(colour + rng.normal(0, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:02}.png")
    damaged = folder / "19.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    return tmp_path / "pictures"


def config(folder, **changes):
    data = {"data.name": "folder", "data.data_dir": str(folder), "data.split": "all"}
    return tiny_config(**data, **changes)


def test_a_picture_cut_short_stops_the_run_before_a_step_or_is_left_out(forty, tmp_path, caplog):
    workdir = tmp_path / "run"
    with pixel_networks():
        with pytest.raises(ValueError, match="1 of 40 examples .*red/19.png: .*on_error='skip'"):
            train(config(forty), workdir)
        assert not workdir.exists()
        skip = {"data.on_error": "skip"}
        with caplog.at_level(logging.WARNING, "absl"):
            train(config(forty, **skip, **{"train.num_steps": 2}), workdir)
        assert re.search("1 of 40 examples .*red/19.png: .* are left out", caplog.text)
        train(config(forty, **skip), workdir)  # resumes
        train(config(forty, **skip), tmp_path / "unbroken")
        chex.assert_trees_all_equal(parameters(workdir), parameters(tmp_path / "unbroken"))
        model = cfg_jax.load(workdir)
        assert model.label_names == ("blue", "red") and model.shape == (8, 8, 3)
        (forty / "red" / "19.png").unlink()
        (forty / "red" / "18.png").unlink()
        with pytest.raises(ValueError, match="meta.data.fingerprint.*but the run in"):
            train(config(forty, **skip, **{"train.num_steps": 6}), workdir)
