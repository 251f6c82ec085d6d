"""Feature networks against their parts and against explicit sums."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from cfg_jax.config import build
from cfg_jax.evaluation import networks
from cfg_jax.metrics import inception, inception_weights
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from tests.plain_network import clean_classifier


@pytest.fixture(scope="module")
def classifier():
    return clean_classifier()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (11, 8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def network(classifier):
    return networks.trained_network(classifier)


@pytest.fixture(scope="module")
def outputs(network, images):
    return network.function(images)


def test_logits_are_the_classifiers_of_the_clean_image(classifier, images, outputs):
    x = images / np.float32(127.5) - 1
    logsnr_max = classifier.experiment.schedule.logsnr_max
    log_probs = jax.jit(lambda x: classifier.log_probs(x, logsnr_max))(x)
    np.testing.assert_allclose(jax.nn.log_softmax(outputs.logits), log_probs, atol=1e-5)
    assert outputs.logits.std() > 0.1 and outputs.spatial is None


def test_features_are_what_the_last_projection_is_given(classifier, outputs):
    last = jax.device_get(classifier.params)["pool"]["proj"]
    assert outputs.features.shape == (11, last["kernel"].shape[0])
    assert outputs.features.std() > 0.1
    expected = outputs.features.astype(np.float64) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-5)


def test_an_image_has_the_same_features_among_other_images(network, images, outputs):
    turned = network.function(np.roll(images, 5, axis=0))
    for ours, theirs in zip(turned[:2], outputs[:2], strict=True):
        np.testing.assert_allclose(np.roll(ours, -5, axis=0), theirs, atol=1e-5)


def test_a_network_is_known_by_its_data_and_its_parameters(classifier, network):
    assert network.name == "digits_features" and network.resize == "none"
    again = networks.trained_network(clean_classifier())
    assert again.sha256 == network.sha256 and len(network.sha256) == 64
    changed = jax.tree.map(np.array, classifier.params)
    changed["pool"]["proj"]["bias"][3] += 1e-6
    other = NoisyClassifier(
        classifier.config,
        changed,
        step=0,
        shape=classifier.shape,
        label_names=classifier.label_names,
    )
    assert networks.trained_network(other).sha256 != network.sha256


def test_images_of_another_size_are_refused_before_anything_is_compiled(classifier, monkeypatch):
    monkeypatch.setattr(build.ClassifierExperiment, "features", None)
    function = networks.trained_network(classifier).function
    with pytest.raises(ValueError, match=r"\(16, 16, 1\).*takes \(8, 8, 1\)"):
        function(np.zeros((2, 16, 16, 1), np.uint8))


@pytest.fixture
def small_inception(tmp_path, monkeypatch):
    """A file of "weights", and a network of channel means in place of Inception."""
    path = tmp_path / "inception.safetensors"
    safetensors.numpy.save_file({"factor": np.float32([2.0])}, path)
    monkeypatch.setattr(inception_weights, "checked", dict)
    monkeypatch.setattr(inception, "parameters", dict)

    def apply(weights, images):
        assert images.shape[-1] == 3
        means = images.astype(np.float32).mean(axis=(1, 2)) * weights["factor"][0]
        return inception.Features(means, means[:, :2], means[:, 2:])

    monkeypatch.setattr(inception, "apply", apply)
    return path


def test_grey_images_become_grey_rgb_for_inception(small_inception, images):
    network = networks.inception_network(small_inception)
    assert network.name == networks.INCEPTION and network.resize == "TF1 bilinear to 299"
    grey, colour = network.function(images), network.function(images.repeat(3, axis=3))
    expected = 2 * images.mean(axis=(1, 2)).repeat(3, axis=1)
    for seen in (grey, colour):
        np.testing.assert_allclose(seen.features, expected, rtol=1e-6)
        assert seen.logits.shape == (11, 2) and seen.spatial.shape == (11, 1)


def test_weights_that_are_not_there_are_named_with_where_they_come_from(tmp_path):
    with pytest.raises(ValueError, match="is not there.*; get pt_inception-2015-12-05"):
        networks.inception_network(tmp_path / "no.safetensors")
