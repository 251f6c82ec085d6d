"""Arguments of a model, refused in one line before anything is compiled."""

import dataclasses
import inspect
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.sampling.strips import Strip, Upsampler
from tests.tiny import pixel_model, tiny_classifier, tiny_config

KEY = jax.random.key(0)
PLAN = cfg_jax.plan([-5.0, 0.0, 5.0], "dpmpp_2m")
SMALL = np.zeros((2, 4, 4, 1), np.float32)


def uncompiled(config):
    """A model whose sampler cannot be called."""
    model = pixel_model(config)
    model._compiled = None
    return model


@pytest.fixture(scope="module")
def model():
    return uncompiled(tiny_config())


@pytest.fixture(scope="module")
def upsampler():
    return uncompiled(tiny_config(**{"diffusion.low_res_size": 4}))


@pytest.fixture(scope="module")
def discrete():
    return uncompiled(tiny_config(**{"diffusion.schedule": "linear"}))


def refuses(call, said, kind=ValueError):
    with pytest.raises(kind, match=said) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 350


def test_a_debugger_that_reads_the_variables_of_sample_changes_nothing(model):
    def look(frame, event, argument):
        frame.f_locals  # noqa: B018
        return look

    sys.settrace(look)
    try:
        refuses(lambda: model.sample(0, labels=[99]), "label 99: need 0..9")
    finally:
        sys.settrace(None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"labels": None},
            r"labels is missing: give one number or name per sample, such as \[0, 1\]",
        ),
        ({"labels": [1.0]}, r"labels=\[1.0\] of shape \(1,\) and type float64: need integers"),
        ({"labels": [True, 2]}, r"labels=\[True, 2\]: need integers"),
        ({"labels": [1, [2]]}, r"labels=\[1, \[2\]\]: need integers"),
        ({"labels": {1, 2}}, r"labels=\{1, 2\}: need integers"),
        ({"labels": np.array([1, 2], "timedelta64[s]")}, "labels=.*: need integers"),
        ({"labels": np.ma.masked_array([1, 2], [0, 1])}, "labels=.*: need integers"),
        ({"against": 11}, "against='11': class 11 is not one of 0..9"),
        ({"against": True}, "against=True: need 'null', 'random', a class"),
        ({"w": [True, 1.5]}, r"w=\[True, 1.5\]: need finite guidance weights"),
        ({"solver": np.array(["ddim", "ddim"])}, "solver=.*: choose one of ancestral, ddim"),
        ({"respacing": False}, "respacing=False: need a text"),
        ({"respacing": 25}, "respacing=25: need a text"),
        ({"respacing": []}, r"respacing=\[\]: need a text"),
        ({"num_steps": 10**9}, "num_steps=1000000000: need an integer from 2 to 100000"),
        ({"score_temperature": 1e-46}, "score_temperature=1e-46: need a finite number above 0"),
        ({"classifier_form": "adm"}, "classifier_form='adm' without a classifier: give one"),
        ({"classifier": "runs/c", "classifier_w": 1.0}, "classifier='runs/c': need a NoisyClass"),
        ({"classifier": False}, "classifier=False: need a NoisyClassifier"),
        ({"low_res": SMALL}, "low_res given to a model that is not an upsampler"),
    ],
)
def test_an_argument_that_means_nothing_is_refused_by_name(model, arguments, said):
    refuses(lambda: model.sample(KEY, **{"labels": [1, 2]} | arguments), said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"solver": PLAN, "num_steps": 5}, "num_steps=5 with a plan as solver, which has its own"),
        ({"solver": PLAN, "grid": "uniform"}, "grid='uniform' with a plan as solver"),
        ({"solver": PLAN, "eta": 0.5}, "eta=0.5 with a plan as solver"),
        ({"solver": cfg_jax.ddim_step, "eta": 0.5}, "eta=0.5 with a step rule as solver"),
        ({"solver": cfg_jax.ddim_step, "noise_temperature": 0.5}, "noise_temperature=0.5.*not pas"),
    ],
)
def test_a_setting_that_a_solver_of_ones_own_ignores_is_refused(model, arguments, said):
    refuses(lambda: model.sample(KEY, labels=[1, 2], **arguments), said)


def test_a_solver_of_ones_own_has_no_json(model):
    settings = model.check(SamplingSettings(solver=cfg_jax.ddim_step))
    refuses(lambda: settings.to_json(model.experiment), "has no name to record")


def test_a_model_is_no_classifier(model):
    refuses(lambda: model.sample(KEY, labels=[1], classifier=model), "classifier=.*: need a Noisy")


@pytest.mark.parametrize("name", ["sample", "sample_x", "trajectory"])
def test_every_setting_and_input_is_spelt_out_where_completion_reads_it(model, name):
    spelt = inspect.signature(getattr(model, name)).parameters
    for field in dataclasses.fields(SamplingSettings):
        assert spelt[field.name].default == field.default
        assert spelt[field.name].kind is inspect.Parameter.KEYWORD_ONLY
    inputs = inspect.signature(model.check).parameters
    assert spelt.keys() >= inputs.keys() - {"settings"} | {"key"}
    assert all(each.kind is not each.VAR_KEYWORD for each in spelt.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"guidance_scale": 7.5},
            "guidance_scale=7.5 is not an argument of sample: use w=6.5, since w",
        ),
        ({"cfg_scale": [1.0, 2.0]}, r"cfg_scale=\[1.0, 2.0\] is not .*: use w, since w is s - 1"),
        (
            {"num_inference_steps": 9},
            "num_inference_steps=9 is not an argument of sample: use num_steps",
        ),
        (
            {"generator": KEY},
            "generator=.* is not an argument of sample: use key, a seed such as 0",
        ),
        ({"class_labels": [1]}, "class_labels=.*: use labels, one number or name per sample"),
        ({"num_images_per_prompt": 4}, r"num_images_per_prompt=4 .* such as labels=\[7\] \* 4"),
        ({"negative_prompt": "3"}, "negative_prompt='3' .*: use against"),
        ({"clip_sample": True}, "clip_sample=True .*: use clip_x$"),
        ({"thresholding": True}, "thresholding=True .*: use threshold, a quantile such as 0.995"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas=True .*: use grid='karras'"),
        ({"torch_dtype": "bf16"}, "torch_dtype='bf16' .*: use dtype='bfloat16'"),
        ({"prediction_type": "sample"}, "prediction_type='sample' .* trained network, see model.c"),
        ({"num_train_timesteps": 9}, "num_train_timesteps=9 .*: use none, since it belongs to the"),
        ({"nun_steps": 4}, r"nun_steps=4 is not an argument of sample: did you mean num_steps\?"),
        (
            {"colour": 1},
            "colour=1 is not an argument of sample: choose among key, labels, w, num_steps",
        ),
    ],
)
def test_a_keyword_of_another_library_or_misspelt_is_answered_with_ours(model, arguments, said):
    refuses(lambda: model.sample(KEY, labels=[1], **arguments), said, TypeError)


def test_a_call_without_a_key_or_with_too_many_values_says_how_it_is_written(model):
    refuses(lambda: model.sample(labels=[1]), "sample without a key: give a seed", TypeError)
    said = r"sample takes only key and labels by position: pass 3.0 by keyword, as w=3.0"
    refuses(lambda: model.sample(0, [1], 3.0), said, TypeError)
    said = "telemetry=True is not an argument of trajectory: choose"
    refuses(lambda: model.trajectory(0, [1], telemetry=True), said, TypeError)


@pytest.mark.parametrize("key", [0.5, None, True, "0", [1, 2], -1, 2**32])
def test_a_key_that_is_no_seed_is_refused(model, key):
    refuses(lambda: model.sample(key, labels=[1, 2]), f"key={re.escape(repr(key))}: need a")


@pytest.mark.parametrize("settings", [None, 2.0, {"w": 1.0}])
def test_settings_of_another_type_are_refused(model, settings):
    for call in (
        lambda: model.check(settings, [1]),
        lambda: model.draw(KEY, settings, labels=[1]),
        lambda: Strip(model, [1], [0.0], settings=settings).check(),
    ):
        refuses(call, "settings=.*: need SamplingSettings")


@pytest.mark.parametrize(
    ("low_res", "said"),
    [
        (SMALL.astype(np.uint8), r"low_res=uint8\[2, 4, 4, 1\]: need floats .* images / 127.5 - 1"),
        (SMALL + 200, "low_res has values of 200: need images in"),
        (SMALL * np.nan, "low_res has values of nan"),
        (SMALL > 0, "low_res=bool.*: need floats"),
        (SMALL * 1j, "low_res=complex64.*: need floats"),
        ([[1], [1, 2]], r"low_res=\[\[1\], \[1, 2\]\]: need floats"),
    ],
)
def test_small_images_out_of_their_range_are_refused(upsampler, low_res, said):
    refuses(lambda: upsampler.sample(KEY, labels=[1, 2], low_res=low_res), said)
    refuses(lambda: upsampler.predict(np.ones((2, 8, 8, 1)), 0.0, [1, 2], low_res), said)


@pytest.mark.parametrize("respacing", ["ddim" + "9" * 5000, "9" * 300])
def test_a_respacing_of_very_many_digits_is_refused(discrete, respacing):
    refuses(lambda: discrete.sample(KEY, labels=[1], respacing=respacing), "respacing='.*: give '")


Z = np.ones((2, 8, 8, 1), np.float32)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((Z, 0.0, 1), r"labels=1: need integers \[B\]"),
        ((Z, 0.0, [1]), r"labels of shape \(1,\) for a batch of 2"),
        ((Z, 0.0, [1, 11]), "label 11: need 0..9, or 10"),
        ((Z, 0.0, jnp.array([1, -1])), "label -1: need 0..9"),
        ((Z, 0.0, [1, 2**40]), "label 1099511627776: need 0..9"),
        ((Z, np.zeros(3), [1, 2]), r"logsnr of shape \(3,\) for a batch of 2"),
        ((Z, None, [1, 2]), "logsnr=None: need numbers"),
        ((Z[..., 0], 0.0, [1, 2]), r"z of shape \(2, 8, 8\): this model needs"),
        ((Z.astype(np.uint8), 0.0, [1, 2]), "z=uint8.*: need floats"),
        ((Z, 0.0, [1, 2], SMALL), "low_res given to a model that is not an upsampler"),
    ],
)
def test_predict_refuses_what_does_not_fit_its_network(model, arguments, said):
    refuses(lambda: model.predict(*arguments), said)


def test_predict_broadcasts_one_log_snr(model):
    np.testing.assert_array_equal(
        model.predict(Z, 0.5, [1, 2]), model.predict(Z, jnp.full(2, 0.5), jnp.array([1, 2]))
    )


def test_a_classifier_needs_one_label_and_log_snr_per_image():
    classifier = pixel_model(tiny_classifier())
    refuses(lambda: classifier.log_prob(Z, 0.0, [1]), r"labels of shape \(1,\) for a batch of 2")
    refuses(lambda: classifier.log_prob(Z, np.zeros(3), [1, 2]), r"logsnr of shape \(3,\)")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"weights": None}, "weights=None: need a list of finite numbers"),
        ({"weights": 1.0}, "weights=1.0: need a list of finite numbers"),
        ({"weights": "12"}, "weights='12': need a list of finite numbers"),
        ({"weights": ["1"]}, r"weights=\['1'\]: need a list"),
        ({"weights": [True]}, r"weights=\[True\]: need a list"),
        ({"classifier_weights": 1.0}, "classifier_weights=1.0: need a list"),
        ({"seed": None}, "seed=None: need an integer from 0 to 4294967295"),
        ({"seed": True}, "seed=True: need an integer"),
        ({"seed": -1}, "seed=-1: need an integer"),
        ({"seed": 2**32}, "seed=4294967296: need an integer"),
    ],
)
def test_a_strip_of_no_numbers_is_refused(model, arguments, said):
    refuses(
        lambda: Strip(**{"model": model, "labels": [1], "weights": [0.0]} | arguments).check(), said
    )


def test_an_upsampler_of_no_batch_is_refused(upsampler):
    small = pixel_model(tiny_config(), shape=(4, 4, 1))
    refuses(
        lambda: Upsampler(upsampler, batch_size=0).check(small), "batch_size=0: need an integer"
    )


@pytest.mark.parametrize(
    "labels", [np.array([1, 2], object), np.array(["1", 2], object), range(1, 3)]
)
def test_labels_of_any_container_are_labels(model, labels):
    assert model.check(SamplingSettings(w=np.float32(1), num_steps=np.array(4)), labels)


@pytest.mark.parametrize("workdir", [None, 3, b"runs", ["runs"], "a\0b"])
def test_a_workdir_that_is_no_path_is_refused(workdir):
    refuses(lambda: cfg_jax.load(workdir), "is no path|has a NUL character")


@pytest.mark.parametrize("step", ["3", True, -1, 1.5])
def test_a_step_that_is_no_number_is_refused(step):
    refuses(lambda: cfg_jax.load("runs/none", step=step), f"step={step!r}: need an integer")
