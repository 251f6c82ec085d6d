"""Guidance away from classes, mixtures of labels and random classes; dynamic thresholding."""

import jax
import numpy as np
import pytest

import cfg_jax
from cfg_jax.config import build
from cfg_jax.sampling import against, checks
from cfg_jax.sampling.identity import identity
from cfg_jax.sampling.samples import Samples
from cfg_jax.sampling.settings import SamplingSettings
from tests.tiny import pixel_model, tiny_config

LABELS = [1, 2]
NULL = 10
NEAR = {"diffusion.logsnr_min": -4.0, "diffusion.logsnr_max": 4.0}
NAMES = ["cat", "dog", "no dog: at all", "1"]


@pytest.fixture(scope="module")
def pixels():
    return pixel_model(tiny_config(**NEAR))


@pytest.fixture(scope="module")
def without_null():
    return pixel_model(tiny_config(**NEAR, **{"model.label_input": "without_null"}))


def draw(model, labels=LABELS, **arguments):
    arguments = {"num_steps": 13, "w": 1.5, "solver": "unipc_2"} | arguments
    return model.sample_x(jax.random.key(0), labels=labels, **arguments)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("null", "null"),
        ("no label", "null"),
        ("null:1", "null"),
        ("random", "random"),
        (" dog ", "1"),
        ("2", "2"),
        ("1", "3"),
        ("null:2, dog:-1", "null:2,1:-1"),
        ("no dog: at all:0.25,cat:0.75", "2:0.25,0:0.75"),
        ("0:0.3333333,1:0.3333333,2:0.3333334", "0:0.3333333,3:0.3333333,2:0.3333334"),
        ("02", "2"),
        (1, "1"),
        (np.int32(2), "2"),
    ],
)
def test_one_setting_has_one_text_with_numbers_for_names(text, expected):
    assert against.numbered(text, NAMES) == expected


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "against='': need 'null', 'random', a class, or weights that sum to 1"),
        (None, "against=None: need"),
        ("dgo", "against='dgo': label 'dgo' is not a class: did you mean 'dog'"),
        ("cat,dog", "the weights sum to 2; need"),
        ("cat:0.5", "the weights sum to 0.5; need"),
        ("cat:nan,dog:1", "the weights sum to nan; need"),
        ("cat:0.5,cat:0.5", "a label occurs twice"),
        ("cat:0.5,0:0.5", "a label occurs twice"),
        ("random:0.5,cat:0.5", "need 'null'"),
        ("cat:x", "'cat:x' has no weight"),
    ],
)
def test_a_text_that_names_no_branch_is_refused_in_one_line(text, said):
    with pytest.raises(ValueError, match=said) as error:
        against.numbered(text, NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, labels, factors",
    [
        ("7", [7], lambda w: [1 + w, -w]),
        ("null:2,7:-1", [NULL, 7], lambda w: [1 + w, -2 * w, w]),
        ("7:0.25,3:0.75", [7, 3], lambda w: [1 + w, -0.25 * w, -0.75 * w]),
    ],
)
def test_the_second_branch_is_the_weighted_sum_of_the_labels(pixels, text, labels, factors):
    plan = cfg_jax.plan(cfg_jax.cosine_schedule(-4.0, 4.0).grid(13), "unipc_2")
    others = [np.full(2, label, np.int32) for label in labels]
    every = cfg_jax.branches(pixels.predict, np.array(LABELS, np.int32), others=others)
    guided = cfg_jax.guide(every, cfg_jax.linear_weights(plan, factors(1.5)))
    expected = cfg_jax.sample(jax.random.key(0), guided, (2, *pixels.shape), plan)
    np.testing.assert_allclose(draw(pixels, against=text), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("solver", ["ancestral", "unipc_2"])
def test_a_sample_guided_away_from_its_own_label_ignores_the_weight(pixels, solver):
    found = draw(pixels, [1, 1], against="1", w=3.0, solver=solver)
    np.testing.assert_allclose(found, draw(pixels, [1, 1], w=0.0, solver=solver), atol=2e-5)


def test_classes_and_their_weights_share_a_program(pixels, monkeypatch):
    traced = []
    predict = build.Experiment.predict
    counting = lambda *a, **k: traced.append(1) or predict(*a, **k)  # noqa: E731
    monkeypatch.setattr(build.Experiment, "predict", counting)
    fresh = pixel_model(tiny_config(**NEAR))
    texts = ("null:2,7:-1", "3:0.5,4:0.5", "0:3,9:-2")
    samples = [draw(fresh, against=text) for text in texts]
    assert len(traced) == 1
    assert len({x.tobytes() for x in samples}) == len(texts)


@pytest.mark.parametrize("settings", [{}, {"interval": (-4.0, -1.0)}, {"rule": "apg:r=2"}])
def test_a_random_class_guides_a_network_without_null_label_alike_in_any_batch(
    without_null, settings
):
    together = draw(without_null, [1, 2, 3, 2], against="random", **settings)
    keys = cfg_jax.keys.indexed(jax.random.key(0), np.arange(1, 3))
    options = {"num_steps": 13, "w": 1.5, "solver": "unipc_2", "against": "random"} | settings
    alone = without_null.sample_x(keys, labels=[2, 3], **options)
    np.testing.assert_allclose(alone, together[1:3], rtol=0, atol=2e-5)
    assert np.abs(together - draw(without_null, [1, 2, 3, 2], w=0.0)).max() > 1e-3


def test_a_random_class_without_an_interval_is_warned_of(without_null, monkeypatch):
    said = []
    monkeypatch.setattr(checks.logging, "log_first_n", lambda level, text, n: said.append(text))
    settings = SamplingSettings(w=1.0, num_steps=13, against="random")
    without_null.check(settings.replace(interval=(-4.0, 0.0)))
    assert not said
    without_null.check(settings)
    assert ["at high noise only: give an interval" in text for text in said] == [True]


def test_telemetry_of_a_negative_class_has_no_probability_of_the_label(pixels):
    arguments = {"labels": LABELS, "w": 1.0, "num_steps": 13, "telemetry": True}
    _, found = pixels.sample(jax.random.key(0), against="7", **arguments)
    assert np.isnan(found.log_prob).all() and (found.gap > 0).all()


def test_telemetry_of_a_weight_that_changes_has_no_log_weight(pixels):
    w = np.linspace(0.5, 2.0, 13)[:, None]
    arguments = {"labels": LABELS, "num_steps": 13, "telemetry": True}
    _, found = pixels.sample(jax.random.key(0), w=w, **arguments)
    assert np.isnan(found.log_weight).all() and np.isfinite(found.log_prob).all()


def test_telemetry_of_a_network_without_null_label_takes_a_random_class(without_null):
    arguments = {"labels": LABELS, "w": 1.0, "num_steps": 13, "telemetry": True}
    _, found = without_null.sample(jax.random.key(0), against="random", **arguments)
    assert (found.gap >= 0).all() and (found.gap > 0).any()


@pytest.mark.parametrize("solver", ["ancestral", "dpmpp_2m"])
def test_a_threshold_replaces_clipping(pixels, solver):
    # With quantile 1, the largest value of a sample beyond the range becomes 1 exactly.
    raw = draw(pixels, clip_x=False, solver=solver, w=200.0, num_steps=2)
    found = draw(pixels, threshold=1.0, solver=solver, w=200.0, num_steps=2)
    assert np.abs(raw).max() > 1.5
    np.testing.assert_allclose(np.abs(found).reshape(2, -1).max(axis=1), 1, atol=1e-6)
    clipped = draw(pixels, solver=solver, w=200.0, num_steps=2)
    assert (np.abs(clipped) == 1).sum() > (np.abs(found) == 1).sum()


def test_a_weight_stays_above_its_limit(pixels):
    task, defaults = pixels.experiment, pixels.config.sampling
    settings = SamplingSettings(w=2.0, num_steps=13, solver="ddim", schedule="linear:least=1.5")
    found = settings.filled(defaults).weights(task, 1).w[:, 0]
    logsnr = np.asarray(settings.filled(defaults).logsnrs(task))
    u = 2 / np.pi * np.arctan(np.exp(-logsnr / 2))
    np.testing.assert_allclose(found, [max(4 * (1 - each), 1.5) for each in u], rtol=1e-6)
    both = settings.replace(w=[0.0, -1.0]).filled(defaults).weights(task, 2).w
    np.testing.assert_allclose(both, [[0, -2 * (1 - each)] for each in u], atol=1e-6)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"against": "12"}, "against='12': class 12 is not one of 0..9"),
        ({"against": "null:2,12:-1"}, "class 12 is not one of 0..9"),
        ({"against": "eight"}, "label 'eight' is not a class"),
        ({"against": 7.0}, "against=7.0: need 'null'"),
        ({"threshold": 1.5}, "threshold=1.5: need a quantile in"),
        ({"threshold": 0.99, "clip_x": False}, "threshold=0.99 with clip_x=False"),
        ({"schedule": "cfgpp:least=1"}, "schedule='cfgpp:least=1': need one of constant, linear"),
        ({"schedule": "linear:most=1"}, "as in linear:least=0.5"),
        ({"schedule": "linear:least=inf"}, "as in linear:least=0.5"),
    ],
)
def test_what_cannot_guide_is_refused_in_one_line(pixels, settings, said, monkeypatch):
    monkeypatch.setattr(pixels, "_compiled", None)
    with pytest.raises(ValueError, match=said) as error:
        draw(pixels, **settings)
    assert "\n" not in str(error.value)


def test_branches_that_exclude_each_other_are_refused(pixels, without_null):
    with pytest.raises(ValueError, match="against='7' with a weaker model: give one"):
        draw(pixels, against="7", weaker=pixels)
    with pytest.raises(ValueError, match="no null label; use w=0 and a classifier, or against="):
        draw(without_null, against="null:2,7:-1")
    only = pixel_model(tiny_config(**NEAR, **{"diffusion.p_uncond": 1.0}))
    with pytest.raises(ValueError, match="against='7': training with p_uncond=1 never showed"):
        draw(only, w=-1.0, against="7")


def test_a_network_that_always_saw_its_label_is_guided_away_from_a_class():
    model = pixel_model(tiny_config(**NEAR, **{"diffusion.p_uncond": 0.0}))
    assert np.isfinite(draw(model, against="7")).all()
    with pytest.raises(ValueError, match="never showed this model an example without its label"):
        draw(model, against="null:2,7:-1")


def test_results_name_the_class_by_number_and_old_digests_stay(pixels):
    def values(**settings):
        return Samples(pixels, 10, sampling=SamplingSettings(num_steps=13, **settings)).swept()

    name = pixels.label_names[7]
    assert values(against=name) == values(against="7")
    assert identity(values(against="7"))["against"] == "7"
    assert identity(values(threshold=0.9))["threshold"] == 0.9
    assert not {"against", "threshold"} & identity(values()).keys()
