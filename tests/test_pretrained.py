"""Models that are part of the package."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import cfg_jax
from cfg_jax.sampling import pretrained
from configs import digits
from tests.tiny import pixel_model, tiny_config


def test_a_packed_model_is_the_same_to_the_digits_of_float16(tmp_path):
    model = pixel_model(tiny_config())
    pretrained.pack(tmp_path / "a.npz", model)
    found = pretrained.unpack(tmp_path / "a.npz", "a")
    assert found.config == model.config and found.step == model.step and found.run == "a"
    assert found.label_names == model.label_names and found.shape == model.shape
    expected = jax.tree.map(lambda leaf: np.float32(np.float16(leaf)), model.params)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected)


def test_the_packed_digits_have_the_network_of_their_config():
    model = cfg_jax.pretrained("digits")
    assert model.config.model == digits.get_config().model
    assert model.class_counts and sum(model.class_counts) < len(load_digits().target)
    shapes = jax.eval_shape(model.experiment.init, jax.random.key(0))
    assert jax.tree.map(np.shape, model.params) == jax.tree.map(np.shape, shapes)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="name='cifar': choose one of digits"):
        cfg_jax.pretrained("cifar")


def test_packed_digits_look_like_their_labels():
    """A support vector machine on real images labels them, as cfg-jax judge does."""
    real = load_digits()
    machine = SVC(C=10.0).fit(real.images.reshape(len(real.images), -1) / 16, real.target)
    labels = np.arange(100) % 10
    images = cfg_jax.pretrained("digits").sample(0, labels, w=1.0, num_steps=8)
    drawn = images.reshape(100, -1) / 255
    assert np.mean(machine.predict(drawn) == labels) > 0.95
