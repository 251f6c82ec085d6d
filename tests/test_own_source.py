"""A source of one's own whose examples are not what it says, before a step is made."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from cfg_jax import data
from cfg_jax.data.checking import MOST_READ


@dataclasses.dataclass
class Own:
    """Images of 2 x 2 pixels whose labels are `given`."""

    given: list
    x: Any = dataclasses.field(default_factory=lambda: np.zeros((2, 2, 1), np.float32))
    label_names: tuple = ("a", "b", "c")
    num_classes: int = 3
    shape: tuple = (2, 2, 1)
    name: str = "own"
    split: str = "train"

    def __len__(self):
        return len(self.given)

    def __getitem__(self, index):
        return {"x": self.x, "label": self.given[index]}


class WithLabels(Own):
    @property
    def labels(self):
        return np.asarray(self.given)


# labels: text of the error
WRONG = {
    "from 1 to K": ([1, 2, 3], "example 2: label is 3: 3 classes have the labels 0..2"),
    "negative": ([0, -1, 2], "example 1: label is -1: 3 classes have the labels 0..2"),
    "a fraction": ([0, 1, 1.5], "example [02]: label is .*(1.5|0.0).*: give one integer"),
    "above K": ([0, 7, 2], "example 1: label is 7"),
    "a name": ([0, "b", 2], "example [01]: label is .*'(b|0)'.*: give one integer"),
    "a truth value": ([True, False], "example 0: label is .*True.*: give one integer"),
}


@pytest.mark.parametrize("labels", WRONG)
@pytest.mark.parametrize("kind", [Own, WithLabels])
def test_a_label_that_is_no_class_is_named_before_the_first_step(kind, labels):
    given, said = WRONG[labels]
    with pytest.raises(ValueError, match=f"^own, {said}") as caught:
        data.check_source(kind(given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", WRONG)
def test_a_batch_with_a_label_that_is_no_class_is_refused(labels):
    given, said = WRONG[labels]
    with pytest.raises(ValueError, match="label is"):
        data.batches(Own(given), seed=0, batch_size=6)[0]
    with pytest.raises(ValueError, match="label is"):
        data.stack([Own(given)[i] for i in range(len(given))], 3)


def test_a_rare_wrong_label_is_found_at_once_where_the_source_lists_its_labels():
    labels = [0] * (10 * MOST_READ)
    labels[4321] = 3
    data.check_source(Own(labels))
    with pytest.raises(ValueError, match="^own, example 4321: label is 3"):
        data.check_source(WithLabels(labels))
    with pytest.raises(ValueError, match=r"labels of shape \(2,\): give one for each of its 3"):
        source = WithLabels([0, 1, 2])
        source.__class__ = type("Short", (WithLabels,), {"labels": np.arange(2)})
        data.check_source(source)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": np.zeros((2, 2, 1), np.uint8)}, r"x is uint8\[2, 2, 1\]: give float32\[2, 2, 1\]"),
        ({"x": np.zeros((2, 2), np.float32)}, r"x is float32\[2, 2\]"),
        ({"x": np.full((2, 2, 1), 255.0)}, r"x is in \[255, 255\]: give images in \[-1, 1\]"),
        ({"x": np.full((2, 2, 1), np.nan)}, "x has nan or inf"),
        ({"label_names": ("a", "b")}, "num_classes=3 and 2 label_names"),
        ({"given": []}, "has no examples"),
    ],
)
def test_examples_that_a_denoiser_cannot_learn_from_are_refused(changes, said):
    data.check_source(Own([0, 1, 2]))
    with pytest.raises(ValueError, match=said):
        data.check_source(dataclasses.replace(Own([0, 1, 2]), **changes))


def test_the_sources_of_the_package_pass(data_dir):
    data.check_source(data.open_source("digits", "train", data_dir=data_dir))
    data.check_source(data.open_source("mixture", "train"))
