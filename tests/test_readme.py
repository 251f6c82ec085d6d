import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from cfg_jax.training.run import train
from tests.tiny import pixel_networks, tiny_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_library_example_runs_as_printed(tiny_run, monkeypatch):
    example = next(block for block in blocks("python") if "num_steps=64" in block)
    assert len(example.strip().splitlines()) <= 12
    monkeypatch.chdir(tiny_run)
    names = {}
    exec(example.replace("runs/digits", str(tiny_run)), names)
    assert names["images"].shape == (10, 8, 8, 1) and names["images"].dtype == np.uint8


def test_the_classifier_example_runs_as_printed(tiny_classifier_run, tmp_path, data_dir):
    (example,) = [block for block in blocks("python") if "classifier_w=" in block]
    names = {}
    with pixel_networks():
        train(tiny_config(**{"data.data_dir": data_dir}), tmp_path)
        example = example.replace("runs/digits_classifier", str(tiny_classifier_run))
        exec(example.replace("runs/digits", str(tmp_path)), names)
    assert names["images"].shape == (10, 8, 8, 1) and names["images"].dtype == np.uint8


def test_the_mathematics_example_runs_as_printed():
    example = next(block for block in blocks("python") if "GaussianMixture" in block)
    names = {}
    exec(example, names)
    assert names["x"].shape == (1000, 2)
    # Guidance moves each class away from the others, beyond its mean.
    assert np.abs(names["x"]).max() < 10


def commands():
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                yield shlex.split(line.split(" # ")[0])


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_what_a_command_names_is_there(command):
    for part in command:
        if part.startswith("--config="):
            part = part.removeprefix("--config=")
        if part.startswith(("launch.", "configs/", "launch/", "notebooks/")):
            path = (
                part.replace("launch.", "launch/") + ".py" if part.startswith("launch.") else part
            )
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_a_link_leads_to_a_file(link):
    assert (ROOT / link).exists()
