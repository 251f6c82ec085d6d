"""Labels by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.sampling.labels import numbered
from cfg_jax.sampling.strips import Strip
from tests.tiny import pixel_model, tiny_classifier, tiny_config

ANIMALS = ("cat", "dog", "great white shark")


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (["cat", "dog"], [0, 1]),
        (("great white shark", 1), [2, 1]),
        (np.array(["dog", "dog"]), [1, 1]),
        (["no label"], [3]),
        ("dog", 1),
        ([], []),
    ],
)
def test_names_become_numbers(labels, numbers):
    assert numbered(labels, ANIMALS) == numbers


def test_numbers_stay_as_they_are():
    for labels in (range(3), np.arange(3), jnp.arange(3), [0, 2], 7):
        assert numbered(labels, ANIMALS) is labels


def test_an_unknown_name_is_told_the_nearest_ones():
    with pytest.raises(ValueError, match="label 'dgo' is not a class: did you mean 'dog'.*0..2"):
        numbered(["cat", "dgo"], ANIMALS)
    with pytest.raises(ValueError, match="label '1' is not a class"):
        numbered(["1"], ANIMALS)


def test_a_name_like_no_other_is_told_the_classes_of_which_many_are_shortened():
    with pytest.raises(
        ValueError, match="need cat, dog, great white shark, no label; classes also"
    ):
        numbered(["seven"], ANIMALS)
    many = [f"class{number}" for number in range(1000)]
    with pytest.raises(ValueError, match="need class0, class1, class2, ..., class999, no label; "):
        numbered(["QED"], many)


def test_a_name_that_two_classes_have_needs_a_number():
    with pytest.raises(ValueError, match=r"'crane' names the classes \[0, 2\]: give a number"):
        numbered(["crane"], ("crane", "dog", "crane"))


@pytest.fixture(scope="module")
def model():
    return pixel_model(tiny_config(), label_names=ANIMALS)


def test_a_model_draws_the_same_for_a_name_and_its_number(model):
    key = jax.random.key(0)
    by_name = model.sample(key, labels=["dog", "cat", "no label"], w=1.0)
    np.testing.assert_array_equal(by_name, model.sample(key, labels=[1, 0, 3], w=1.0))
    z, logsnr = jnp.ones((1, 8, 8, 1)), jnp.zeros(1)
    by_name = model.predict(z, logsnr, ["dog"])
    np.testing.assert_array_equal(by_name, model.predict(z, logsnr, jnp.array([1])))


def test_a_classifier_knows_its_names():
    classifier = pixel_model(tiny_classifier(), label_names=ANIMALS)
    z = jnp.ones((2, 8, 8, 1))
    by_name = classifier.log_prob(z, 0.0, ["cat", "dog"])
    np.testing.assert_array_equal(by_name, classifier.log_prob(z, 0.0, jnp.array([0, 1])))


def test_a_strip_of_names_is_captioned_with_them(model):
    strip = Strip(model, ["dog", "no label"], [0.0])
    assert list(strip.labels) == [1, 3] and list(strip.names) == ["dog", "no label"]
    with pytest.raises(ValueError, match="did you mean 'cat'"):
        Strip(model, ["kat"], [0.0])
