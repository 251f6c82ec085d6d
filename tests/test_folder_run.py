"""Runs on folders of pictures: damage, resuming, and the story that docs/data.md tells."""

import logging
import re
import shlex

import chex
import jax
import numpy as np
import pytest
from PIL import Image

import cfg_jax
from cfg_jax.evaluation.likelihood import open_data
from cfg_jax.training.run import train
from tests.programs import ROOT, run_program
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


def test_a_program_in_another_folder_finds_the_pictures_of_a_run(forty, tmp_path, monkeypatch):
    monkeypatch.chdir(forty.parent)
    with pixel_networks():
        short = {"data.on_error": "skip", "train.num_steps": 2}
        train(config("pictures", **short), tmp_path / "run")
        monkeypatch.chdir("/")
        model = cfg_jax.load(tmp_path / "run")
    assert model.config.data.data_dir == str(forty)
    assert len(open_data(model, "all")) == 39


def test_a_picture_cut_short_stops_the_run_before_a_step_or_is_left_out(forty, tmp_path, caplog):
    workdir = tmp_path / "run"
    with pixel_networks():
        with pytest.raises(
            ValueError, match="1 of 40 examples .*red/19.png: .*config.data.on_error=skip"
        ):
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
        with pytest.raises(
            ValueError, match="the data has other examples than when the run in .* bring back"
        ):
            train(config(forty, **skip, **{"train.num_steps": 6}), workdir)


def story():
    """The first commands of docs/data.md, as arguments of programs."""
    page = (ROOT / "docs" / "data.md").read_text()
    block = re.search(r"```bash\n(.*?)```", page, re.DOTALL)[1]
    return [shlex.split(line)[1:] for line in block.splitlines()]


@pytest.mark.long
def test_three_commands_train_on_a_folder_sample_with_guidance_and_evaluate(tmp_path):
    rng = np.random.default_rng(0)
    for label, name in enumerate(("left", "middle", "right")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(100):
            pixels = rng.integers(0, 80, (8, 8, 3), np.uint8)
            pixels[:, 3 * label :][:, :2] += 150
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    fewer = {"train": ["--config.train.num_steps=200", "--config.train.preview_every=0"]}
    fast = ["--solver=dpmpp_2m", "--num_steps=8"]
    fewer |= {"sample": fast, "evaluate": fast}
    commands = story()
    assert [program for program, *_ in commands] == ["train", "sample", "evaluate"]
    for program, *arguments in commands:
        arguments = [word.replace("runs/", f"{tmp_path}/runs/") for word in arguments]
        arguments = [word.replace("folder:", f"folder:{tmp_path}/") for word in arguments]
        done = run_program("launch", program, *arguments, *fewer[program])
        assert done.returncode == 0, done
        if program == "train":
            told = r"^data: (\d+) images of 8 x 8 x 3 in 3 classes, split train; each .* (.*) times"
            count, times = re.search(told, done.stdout, re.MULTILINE).groups()
            assert 250 < int(count) < 290  # a tenth of 300 is for tests
            assert int(count) * float(times) == pytest.approx(200 * 64, rel=1e-3)
    assert "training the feature network of folder, once, 300 steps" in done.stdout
    assert re.search(r"^Frechet distance in folder_features +\d", done.stdout, re.MULTILINE)
    assert re.search(r"^recall in folder_features +\d", done.stdout, re.MULTILINE)
    strange = tmp_path / "strange.npz"
    np.savez(strange, images=rng.integers(0, 256, (300, 8, 8, 3), np.uint8))
    again = [f"--workdir={tmp_path}/runs/pictures", "--metrics=fid,is"]
    noise = run_program("launch.evaluate", *again, f"--samples={strange}")
    assert noise.returncode == 0 and f"300 of {strange}" in noise.stdout, noise
    ours, theirs = (
        float(re.search(r"^Frechet distance in folder_features +(\S+)", said, re.MULTILINE)[1])
        for said in (done.stdout, noise.stdout)
    )
    assert ours < theirs / 3
    copies = run_program("launch.neighbours", again[0], "--w=1", "--num_samples=30", *fast)
    assert copies.returncode == 0, copies
    (tmp_path / "runs" / "pictures" / "neighbours" / "w1.png").stat()
    model = cfg_jax.load(tmp_path / "runs" / "pictures")
    assert model.label_names == ("left", "middle", "right") and model.shape == (8, 8, 3)
    images = model.sample(jax.random.key(0), labels=np.arange(3), w=1.0, num_steps=16)
    bright = np.asarray(images, float).mean(axis=(1, 3))  # of every column
    for label in range(3):
        own = bright[label, 3 * label :][:2].mean()
        assert own > bright[label].mean() + 30, bright.round()
