"""Sampling settings: checks on the host, and the inputs of a compiled program."""

import ast

import jax
import numpy as np
import pytest

from cfg_jax.config import build
from cfg_jax.core.guidance import weight_per_step
from cfg_jax.sampling import program
from cfg_jax.sampling.samples import LABEL_PLANS
from cfg_jax.sampling.settings import CLASSIFIER_FORMS, SamplingSettings
from tests.programs import ROOT
from tests.tiny import tiny_config

pytestmark = pytest.mark.compat

DEFAULTS = {
    "num_steps": 4,
    "respacing": "",
    "step": "ancestral",
    "logvar_interp": 0.3,
    "clip_x": True,
}
LABELS = np.array([3, 1])


@pytest.fixture(scope="module")
def task():
    return build.assemble(tiny_config(), (8, 8, 1), 10)


def filled(**settings):
    return SamplingSettings(**settings).filled(DEFAULTS)


def test_fields_left_out_are_the_configs_and_given_ones_stay():
    assert filled() == SamplingSettings(0.0, 4, "ancestral", 0.3, True, "")
    own = {"num_steps": 7, "step": "ddim", "logvar_interp": 0.0, "clip_x": False}
    assert filled(**own) == SamplingSettings(0.0, respacing="", **own)


def test_a_respacing_takes_the_place_of_the_configs_steps_and_is_refused_beside_others():
    assert filled(respacing="ddim25").num_steps is None
    with pytest.raises(ValueError, match="num_steps=5 and respacing='ddim25': give one of them"):
        filled(respacing="ddim25", num_steps=5)


def test_weights_labels_and_keys_are_data_and_the_rest_is_what_is_compiled_for(task):
    spec, shared, batch = program.request(task, filled(w=[0.5, 2.0]), jax.random.key(0), LABELS)
    moved, others, rows = program.request(
        task, filled(w=1.0, logvar_interp=0.9), jax.random.key(1), np.array([10, 0])
    )
    assert spec == moved and hash(spec) == hash(moved)
    assert jax.tree.map(np.shape, shared) == jax.tree.map(np.shape, others)
    assert jax.tree.map(np.shape, batch) == jax.tree.map(np.shape, rows)
    np.testing.assert_array_equal(batch["w"], weight_per_step([0.5, 2.0], 4, 2).T)
    np.testing.assert_array_equal(batch["labels"], LABELS)
    assert shared["logvar_interp"] == np.float32(0.3)
    for other in ({"num_steps": 5}, {"step": "ddim"}, {"clip_x": False}):
        assert program.request(task, filled(**other), jax.random.key(0), LABELS)[0] != spec


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"step": "heun"}, "step='heun': choose one of ancestral, ddim"),
        ({"classifier_form": "grad"}, "classifier_form='grad': choose one of eps, adm"),
        ({"logvar_interp": -0.1}, "logvar_interp=-0.1"),
        ({"w": np.inf}, "w=inf: need finite"),
        ({"w": [1, 2, 3]}, "w has shape"),
        ({"classifier_w": 1.0}, "classifier_w=1.0 without a classifier"),
        ({"num_steps": 1}, "num_steps=1"),
        ({"respacing": "ddim25"}, "no timesteps"),
        ({"noise_temperature": -1}, "noise_temperature=-1"),
    ],
)
def test_a_request_that_is_refused_derives_no_key_and_compiles_nothing(task, settings, said):
    with jax.log_compiles(), pytest.raises(ValueError, match=said) as caught:
        program.request(task, filled(**settings), "no key", LABELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [[11], [-1], [0.5], 3, []])
def test_labels_that_the_network_does_not_know_are_refused_before_the_key(task, labels):
    with pytest.raises(ValueError, match="labels"):
        program.request(task, filled(), "no key", labels)


def test_json_holds_the_number_of_steps_of_any_grid_and_one_is_one():
    config = tiny_config(**{"diffusion.schedule": "linear"})
    discrete = build.assemble(config, (8, 8, 1), 10)
    values = filled(respacing="ddim25", w=1).to_json(discrete)
    assert values["num_steps"] == 25 and values["respacing"] == "ddim25"
    assert values == filled(respacing="ddim25", w=1.0).to_json(discrete)
    assert isinstance(values["w"], float) and values["clip_x"] is True


def test_the_flags_offer_the_same_choices_as_the_library():
    """Parses the source, since flags are global and the suite imports other programs."""
    tree = ast.parse((ROOT / "launch" / "flags.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    enums = [call for call in calls if getattr(call.func, "attr", "") == "DEFINE_enum"]
    choices = {ast.literal_eval(call.args[0]): ast.literal_eval(call.args[2]) for call in enums}
    assert choices == {
        "step": list(build.STEPS),
        "classifier_form": list(CLASSIFIER_FORMS),
        "label_plan": list(LABEL_PLANS),
    }
