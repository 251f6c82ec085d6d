"""Sampling settings: checks on the host, and the inputs of a compiled program."""

import ast

import jax
import numpy as np
import pytest

from cfg_jax.config import build
from cfg_jax.core.grids import GRIDS
from cfg_jax.core.guidance import weight_per_step
from cfg_jax.core.solvers import SOLVERS
from cfg_jax.sampling import program
from cfg_jax.sampling.checks import check, check_trained
from cfg_jax.sampling.samples import LABEL_PLANS
from cfg_jax.sampling.settings import CLASSIFIER_FORMS, SamplingSettings
from configs import base
from launch import solver
from tests.programs import ROOT
from tests.tiny import tiny_config

pytestmark = pytest.mark.compat

DEFAULTS = base.get_config().sampling.to_dict() | {"num_steps": 4, "logvar_interp": 0.3}
LABELS = np.array([3, 1])


@pytest.fixture(scope="module")
def task():
    return build.assemble(tiny_config(), (8, 8, 1), 10)


def filled(**settings):
    return SamplingSettings(**settings).filled(DEFAULTS)


def test_fields_left_out_are_the_configs_and_given_ones_stay():
    assert filled() == SamplingSettings(**DEFAULTS)
    own = {"num_steps": 7, "solver": "ddim", "logvar_interp": 0.0, "clip_x": False}
    own |= {"schedule": "linear", "interval": (-1.0, 3.0), "rule": "apg:r=2", "grid": "karras"}
    assert filled(**own) == SamplingSettings(**(DEFAULTS | own))


def test_the_noise_of_the_config_belongs_to_its_own_solver():
    config = DEFAULTS | {"solver": "ddim", "eta": 0.5}
    assert SamplingSettings().filled(config).eta == 0.5
    assert SamplingSettings(solver="unipc_2").filled(config).eta == 0.0
    assert SamplingSettings(solver="dpmpp_2m", eta=1.0).filled(config).eta == 1.0


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
    for other in ({"num_steps": 5}, {"solver": "ddim"}, {"clip_x": False}):
        assert program.request(task, filled(**other), jax.random.key(0), LABELS)[0] != spec


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"solver": "euler"}, "solver='euler': choose one of ancestral, ddim"),
        ({"classifier_form": "grad"}, "classifier_form='grad': choose one of eps, adm"),
        ({"logvar_interp": -0.1}, "logvar_interp=-0.1"),
        ({"w": np.inf}, "w=inf: need finite"),
        ({"w": [1, 2, 3]}, "w has shape"),
        ({"classifier_w": 1.0}, "classifier_w=1.0 without a classifier"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_steps": 1, "solver": "dpmpp_2m"}, "num_steps=1: solver='dpmpp_2m' needs at least 2"),
        ({"num_steps": 2, "solver": "heun"}, "num_steps=2: solver='heun' needs at least 3"),
        ({"respacing": "ddim25"}, "no timesteps"),
        ({"noise_temperature": -1}, "noise_temperature=-1"),
    ],
)
def test_a_request_that_is_refused_derives_no_key_and_compiles_nothing(task, settings, said):
    with jax.log_compiles(), pytest.raises(ValueError, match=said) as caught:
        program.request(task, filled(**settings), "no key", LABELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_steps": 0}, "num_steps=0: need an integer of at least 1"),
        ({"num_steps": 5.9}, "num_steps=5.9: need an integer"),
        ({"num_steps": True}, "num_steps=True: need an integer"),
        ({"clip_x": "False"}, "clip_x='False': choose True or False"),
        ({"clip_x": 0}, "clip_x=0: choose True or False"),
        ({"w": None}, "w=None: need finite guidance weights"),
        ({"w": "1"}, "w='1': need finite guidance weights"),
        ({"classifier_w": None}, "classifier_w=None: need a finite number"),
        ({"logvar_interp": "0.3"}, "logvar_interp='0.3': need a number"),
        ({"logvar_interp": [0.1, 0.2]}, r"logvar_interp=\[0.1, 0.2\]: need a number"),
        ({"noise_temperature": "1"}, "noise_temperature='1': need"),
        ({"score_temperature": None}, "score_temperature=None: need"),
        ({"solver": ["ddim"]}, "solver=.*: choose one of ancestral, ddim"),
    ],
)
def test_settings_of_another_type_are_refused_and_not_converted(task, settings, said):
    with pytest.raises(ValueError, match=said) as caught:
        check(filled(**settings), task, guided_by_classifier=False)
    assert "\n" not in str(caught.value)


def test_json_of_numpy_scalars_is_that_of_numbers_and_a_weight_per_sample_has_none(task):
    assert filled(w=np.float64(1.5)).to_json(task) == filled(w=1.5).to_json(task)
    with pytest.raises(ValueError, match="give one weight for all samples"):
        filled(w=[0.5, 1.0]).to_json(task)


@pytest.mark.parametrize(("p_uncond", "only"), [(0.0, 0.0), (1.0, -1.0)])
def test_a_branch_that_was_never_trained_is_refused(p_uncond, only):
    check_trained(filled(w=only), p_uncond)
    check_trained(filled(w=[only, only]), p_uncond)
    check_trained(filled(w=3.0), 0.1)
    for w in (1.0, -0.5, -1 - only, [only, 1.0]):
        with pytest.raises(ValueError, match=rf"p_uncond={p_uncond:g} .*; use w={only:g}"):
            check_trained(filled(w=w), p_uncond)


@pytest.mark.parametrize("labels", [[11], [-1], [0.5], 3, []])
def test_labels_that_the_network_does_not_know_are_refused_before_the_key(task, labels):
    with pytest.raises(ValueError, match="labels? ?.*: need|labels is empty"):
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
    sources = [(ROOT / "launch" / f"{name}.py").read_text() for name in ("flags", "solver")]
    tree = ast.parse("\n".join(sources))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    enums = [call for call in calls if getattr(call.func, "attr", "") == "DEFINE_enum"]
    choices = {ast.literal_eval(call.args[0]): ast.literal_eval(call.args[2]) for call in enums}
    assert choices == {
        "classifier_form": list(CLASSIFIER_FORMS),
        "label_plan": list(LABEL_PLANS),
        "grid": list(GRIDS),
    }
    assert sorted(solver._SOLVERS) == sorted(SOLVERS)
    assert solver._DTYPES == build.DTYPES


@pytest.mark.parametrize(
    "prediction, settings",
    [
        ("v", {}),
        ("x", {"classifier_w": 1.0}),
        ("x", {"score_temperature": 0.9}),
    ],
)
def test_a_grid_that_begins_with_noise_alone_takes_x_hat_from_the_network(prediction, settings):
    config = tiny_config()
    config.diffusion.schedule, config.diffusion.prediction = "flow", prediction
    task = build.assemble(config, (8, 8, 1), 10)
    with pytest.raises(ValueError, match="grid='schedule' with .*; use grid='uniform'"):
        filled(solver="dpmpp_2m", **settings).plan(task)
    assert filled(solver="dpmpp_2m", grid="uniform", **settings).plan(task).num_calls == 4
