"""Labels of samples, and what they mean for the distance to data of unequal classes."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax import data
from cfg_jax.core import keys as keys_lib
from cfg_jax.metrics import frechet_distance
from cfg_jax.sampling.samples import Samples, default_plan, drawn_labels
from cfg_jax.training.run import train
from tests.tiny import pixel_model, pixel_networks, tiny_config

SHARES = np.array([0.9, 0.08, 0.02])
MEANS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
COUNTS = (9000, 800, 200)
N = sum(COUNTS)


def keys(seed):
    return keys_lib.indexed(jax.random.key(seed), np.arange(N))


def perfect(labels, seed):
    """Samples of the exact mixture, a normal distribution about the mean of each label."""
    return MEANS[labels] + 0.5 * np.random.default_rng(seed).standard_normal((len(labels), 2))


def distance(a, b):
    return frechet_distance(a.mean(axis=0), np.cov(a.T), b.mean(axis=0), np.cov(b.T))


def test_a_perfect_sampler_is_as_near_as_two_halves_of_the_data_with_the_datas_labels_only():
    points = perfect(np.repeat(np.arange(3), COUNTS), 0)
    halves = [
        distance(*np.split(np.random.default_rng(seed).permutation(points), 2)) for seed in range(9)
    ]
    own = [distance(perfect(drawn_labels(keys(s), 3, COUNTS), s + 1), points) for s in range(9)]
    even = distance(perfect(np.arange(N) % 3, 1), points)
    # A set of N has half the variance of a set of N / 2.
    assert np.mean(own) < 2 * np.mean(halves)
    assert even > 1000 * np.mean(own)


def test_labels_of_the_data_are_drawn_as_often_as_the_data_has_them():
    labels = drawn_labels(keys(0), 3, COUNTS)
    found = np.bincount(labels, minlength=3) / N
    assert (np.abs(found - SHARES) < 4 * np.sqrt(SHARES * (1 - SHARES) / N)).all()
    uniform = np.bincount(drawn_labels(keys(0), 3), minlength=3) / N
    assert (np.abs(uniform - 1 / 3) < 0.02).all()


def test_a_class_without_examples_is_never_drawn():
    assert set(drawn_labels(keys(1), 3, (5, 0, 5)).tolist()) == {0, 2}


@pytest.mark.parametrize(
    "counts, plan",
    [(None, "balanced"), ((10, 20), "balanced"), ((10, 21), "data"), ((10, 0), "data")],
)
def test_classes_of_more_than_twice_the_size_choose_the_labels_of_the_data(counts, plan):
    assert default_plan(counts) == plan
    model = pixel_model(tiny_config(), label_names=("cat", "dog"))
    model.class_counts = counts
    samples = Samples(model, num_samples=4)
    assert samples.protocol()["label_plan"] == plan
    described = samples.protocol()
    assert described.get("class_counts") == (list(counts) if plan == "data" else None)
    assert json.loads(json.dumps(described)) == described  # as a result comes back from its file
    assert Samples(model, 4, "random").plan == "random"


def test_labels_of_the_data_without_known_class_sizes_are_refused():
    model = pixel_model(tiny_config())
    with pytest.raises(ValueError, match="label_plan='data': the checkpoint has no class sizes"):
        Samples(model, 20, "data").check()


def test_a_run_knows_the_sizes_of_its_classes(tiny_run, data_dir):
    source = data.open_source("digits", "train", data_dir=data_dir)
    labels = [int(source[i]["label"]) for i in range(len(source))]
    assert cfg_jax.load(tiny_run).class_counts == tuple(np.bincount(labels).tolist())


class Lopsided:
    """Grey squares of three classes, of which the last has no example."""

    name, split, shape = "lopsided", "train", (8, 8, 1)
    num_classes, label_names = 3, ("few", "many", "none")
    labels = np.array([0] * 4 + [1] * 12)

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return {"x": np.zeros(self.shape, np.float32), "label": np.int32(self.labels[index])}

    def fingerprint(self):
        return {"dataset": self.name}


def test_a_class_without_an_example_is_named_at_opening(tmp_path, caplog):
    with pixel_networks(), caplog.at_level(logging.WARNING, "absl"):
        train(tiny_config(**{"train.num_steps": 1}), tmp_path, source=Lopsided())
    assert "lopsided has no example of none in split train" in caplog.text
    with pixel_networks():
        model = cfg_jax.load(tmp_path)
        assert model.class_counts == (4, 12, 0)
        drawn = Samples(model, num_samples=32).draw(np.arange(32))[1]
    assert set(drawn.tolist()) == {0, 1}


def test_counts_without_labels_at_hand_are_unknown():
    class Unknown(Lopsided):
        labels = None

    assert data.class_counts(Unknown()) is None
    assert data.class_counts(Lopsided()) == (4, 12, 0)


def test_drawn_labels_depend_on_their_key_alone():
    some = drawn_labels(jnp.take(keys(3), jnp.array([7, 2])), 3, COUNTS)
    assert some.tolist() == drawn_labels(keys(3), 3, COUNTS)[[7, 2]].tolist()
