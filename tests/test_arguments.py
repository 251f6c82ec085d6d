"""Arguments that Python and NumPy would convert without a word."""

import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.core.arguments import finite, integers, whole
from cfg_jax.core.timesteps import linear_timesteps


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3), jnp.int32(3)])
def test_integers_of_every_library_are_whole(value):
    assert whole("n", value) == 3 and type(whole("n", value)) is int


@pytest.mark.parametrize("value", [5.9, 4.0, "4", None, True, np.float32(4), [4], -1])
def test_what_is_no_whole_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match="^n=.*: need an integer of at least 0$") as caught:
        whole("n", value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [None, "2", True, 1j, [1, [2, 3]], float("nan"), [0, np.inf], np.full(2000, np.nan)]
)
def test_what_is_no_finite_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match="^w=.*: need finite numbers$") as caught:
        finite("w", value)
    assert "\n" not in str(caught.value)


def test_finite_numbers_of_every_type_stay_as_they_are():
    for value in (2, [0.5, 1], np.float16(3), jnp.bfloat16(0.5)):
        np.testing.assert_array_equal(finite("w", value), np.asarray(value))


@pytest.mark.parametrize("schedule", [cfg_jax.cosine_schedule(), linear_timesteps()])
@pytest.mark.parametrize("num_steps", [0, 5.9, "5", None])
def test_no_schedule_has_a_grid_of_a_fraction_of_a_step(schedule, num_steps):
    with pytest.raises(ValueError, match=f"num_steps={num_steps!r}: need an integer"):
        schedule.grid(num_steps)


def test_labels_with_fractions_are_refused_not_truncated():
    with pytest.raises(ValueError, match="labels of type float32: need integers"):
        integers("labels", jnp.array([1.5]))
    with pytest.raises(ValueError, match="labels of type float64: need integers"):
        cfg_jax.classifier_free_guidance(None, np.array([0.5, 2]), 1.0, null_label=3)
    with pytest.raises(ValueError, match="w=None: need finite numbers"):
        cfg_jax.classifier_free_guidance(None, np.array([0, 2]), None, null_label=3)
    mixture = cfg_jax.GaussianMixture(np.eye(2), 0.1, np.ones(2))
    with pytest.raises(ValueError, match="labels of type float32: need integers"):
        mixture.predict(jnp.zeros((1, 2)), jnp.zeros(1), jnp.array([0.5]))
