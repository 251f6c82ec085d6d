"""Training on a source of the caller's."""

import dataclasses
import re

import chex
import numpy as np
import pytest

import cfg_jax
from cfg_jax import data
from cfg_jax.evaluation.likelihood import likelihood, open_data
from cfg_jax.training.run import train
from tests.data_files import random_images
from tests.programs import ROOT
from tests.tiny import parameters, pixel_networks, tiny_config


@dataclasses.dataclass
class Stripes:
    """Images of 4 x 4 whose left columns are white: as many as the label says."""

    seed: int = 0
    name: str = "stripes"
    split: str = "train"
    shape: tuple = (4, 4, 3)
    num_classes: int = 3
    label_names: tuple = ("none", "one", "two")

    def __len__(self):
        return 30

    def __getitem__(self, index):
        x = np.full(self.shape, -1, np.float32)
        x[:, : index % 3] = 1
        return {"x": x, "label": np.int32(index % 3)}

    def fingerprint(self):
        return {"dataset": self.name, "seed": self.seed}


def config(**changes):
    fixed = {"model.attention_resolutions": (), "data.data_dir": "/nowhere"}
    return tiny_config(**fixed, **changes)


@pytest.fixture(scope="module", autouse=True)
def networks():
    with pixel_networks():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("stripes")
    train(config(), workdir, source=Stripes())
    return workdir


def test_a_run_on_a_source_of_ones_own_resumes_to_the_same_end(run, tmp_path):
    train(config(**{"train.num_steps": 2}), tmp_path, source=Stripes())
    train(config(), tmp_path, source=Stripes())
    chex.assert_trees_all_equal(parameters(tmp_path), parameters(run))


def test_a_run_on_a_source_of_ones_own_loads_samples_and_is_measured(run):
    model = cfg_jax.load(run)
    assert model.shape == (4, 4, 3) and model.label_names == Stripes.label_names
    assert model.config.data.name == "source:stripes"
    bound = likelihood(model, Stripes(), seed=0, batch_size=16, num_examples=16, num_steps=4)
    assert "bits" in bound.report()


def test_the_config_of_the_caller_is_not_changed(run, tmp_path):
    given = config(**{"train.num_steps": 2})
    train(given, tmp_path, source=Stripes())
    assert given.data.name == "digits"


def test_another_source_or_none_is_refused_when_the_run_resumes(run):
    with pytest.raises(ValueError, match="fingerprint.seed=1, but the run in .* with 0"):
        train(config(**{"train.num_steps": 6}), run, source=Stripes(seed=1))
    with pytest.raises(ValueError, match="'source:stripes' was passed to train.*pass that source"):
        open_data(cfg_jax.load(run), "train")


def test_a_fingerprint_that_is_not_json_is_one_line_before_a_folder_is_made(tmp_path):
    with pytest.raises(ValueError, match="stripes: fingerprint.. must be JSON values, .*int64"):
        train(config(), tmp_path / "run", source=Stripes(seed=np.int64(0)))
    assert not list(tmp_path.iterdir())


def test_an_opened_data_set_is_a_source_like_any_other(tmp_path):
    images = random_images(30, 4, 4, 3)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(30) % 3)
    source = data.open_source("npz", "all", data_dir=str(tmp_path / "a.npz"))
    train(config(**{"train.num_steps": 2}), tmp_path / "run", source=source)
    assert cfg_jax.load(tmp_path / "run").config.data.name == "source:npz"


def test_the_source_of_the_documentation_trains_as_printed(tmp_path):
    page = (ROOT / "docs" / "data.md").read_text()
    (text,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    text = text.replace("digits.get_config()", "config").replace("runs/halves", f"{tmp_path}/run")
    exec(text, {"config": config(**{"train.num_steps": 2})})
    model = cfg_jax.load(tmp_path / "run")
    assert model.config.data.name == "source:halves" and model.label_names == ("left", "right")
