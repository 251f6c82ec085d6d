"""Solvers, grids and guidance of a trained model: programs, samples, and what is refused."""

import math

import jax
import numpy as np
import pytest
from PIL import Image

import cfg_jax
from cfg_jax.config import build
from cfg_jax.core.weighting import SCHEDULES
from cfg_jax.sampling.checks import check
from cfg_jax.sampling.identity import identity, upgraded
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.program import request
from cfg_jax.sampling.samples import Samples
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.training.run import train
from tests.tiny import pixel_model, tiny_config

LABELS = [1, 2]
SOLVERS = [
    {"solver": "dpmpp_2m"},
    {"solver": "dpmpp_2m", "eta": 1.0, "grid": "karras"},
    {"solver": "dpmpp_3m", "grid": "mixed"},
    {"solver": "unipc_2", "interval": (-2.0, 3.0)},
    {"solver": "unipc_3", "schedule": "linear", "w": 0.5},
    {"solver": "deis_2", "grid": "uniform"},
    {"solver": "heun", "grid": "uniform", "churn": 3.0},
    {"solver": "dpmpp_2s", "interval": (-1.0, 1.0)},
    {"solver": "dpmpp_3s", "w": 3.0},
    {"solver": "ddim", "eta": 0.5, "schedule": "pcs"},
    {"solver": "pcg", "grid": "uniform"},
]


NEAR = {"diffusion.logsnr_min": -4.0, "diffusion.logsnr_max": 4.0}


@pytest.fixture(scope="module")
def pixels():
    return pixel_model(tiny_config(**NEAR))


def draw(model, labels=LABELS, **arguments):
    arguments = {"num_steps": 13, "w": 1.0} | arguments
    return model.sample_x(jax.random.key(0), labels=labels, **arguments)


def test_solver_grid_weight_schedule_interval_and_noise_share_one_program(pixels, monkeypatch):
    traced = []
    predict = build.Experiment.predict
    counting = lambda *a, **k: traced.append(1) or predict(*a, **k)  # noqa: E731
    monkeypatch.setattr(build.Experiment, "predict", counting)
    samples = [draw(pixels, **settings) for settings in SOLVERS]
    assert len(traced) == 1
    assert len({x.tobytes() for x in samples}) == len(SOLVERS)


@pytest.mark.parametrize("settings", SOLVERS)
def test_a_sample_is_the_same_in_any_batch_with_every_solver(pixels, settings):
    together = draw(pixels, [1, 2, 3, 2], **settings)
    keys = cfg_jax.keys.indexed(jax.random.key(0), np.arange(1, 3))
    alone = pixels.sample_x(keys, labels=[2, 3], **({"num_steps": 13, "w": 1.0} | settings))
    np.testing.assert_allclose(alone, together[1:3], rtol=0, atol=2e-5)


@pytest.mark.parametrize("rule", ["rescale:phi=0.7", "apg:r=2,beta=-0.5", "zero_star"])
@pytest.mark.parametrize("solver", ["ancestral", "heun"])
def test_a_sample_is_the_same_in_any_batch_with_every_rule(pixels, rule, solver):
    settings = {"rule": rule, "solver": solver, "grid": "uniform", "w": 2.0}
    together = draw(pixels, [1, 2, 3, 2], **settings)
    keys = cfg_jax.keys.indexed(jax.random.key(0), np.arange(1, 3))
    alone = pixels.sample_x(keys, labels=[2, 3], num_steps=13, **settings)
    np.testing.assert_allclose(alone, together[1:3], rtol=0, atol=2e-5)


@pytest.mark.parametrize("solver", ["ancestral", "ddim"])
def test_guidance_as_data_draws_what_the_plain_form_draws(pixels, solver):
    everywhere = draw(pixels, solver=solver, interval=(-1e3, 1e3))
    np.testing.assert_allclose(everywhere, draw(pixels, solver=solver), rtol=0, atol=2e-5)


def test_samples_of_a_plan_are_those_of_the_library(pixels):
    plan = cfg_jax.plan(cfg_jax.cosine_schedule(-4.0, 4.0).grid(13), "unipc_2")
    every = cfg_jax.branches(pixels.predict, np.array(LABELS, np.int32), null_label=10)
    w = cfg_jax.weights(plan, 1.0, interval=(-2.0, 3.0))
    shape = (2, *pixels.shape)
    expected = cfg_jax.sample(jax.random.key(0), cfg_jax.guide(every, w), shape, plan)
    found = draw(pixels, solver="unipc_2", interval=(-2.0, 3.0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_an_interval_halves_the_network_calls_outside(pixels, monkeypatch):
    sizes = []
    predict = build.Experiment.predict

    def counting(self, params, **inputs):
        network = predict(self, params, **inputs)

        def counted(z, logsnr, labels):
            jax.debug.callback(lambda _: sizes.append(len(labels)), logsnr[0])
            return network(z, logsnr, labels)

        return counted

    monkeypatch.setattr(build.Experiment, "predict", counting)
    fresh = pixel_model(tiny_config(**NEAR))
    settings = SamplingSettings(solver="unipc_2", num_steps=12, interval=(-2.0, 3.0), w=1.0)
    fresh.draw(jax.random.key(0), settings, labels=LABELS)
    jax.effects_barrier()
    filled = settings.filled(fresh.config.sampling)
    guided = int(filled.weights(fresh.experiment, 2).guided.sum())
    each = sorted(set(sizes))
    assert 0 < guided < 12 and each[1] == 2 * each[0]
    devices = 2 // each[0]  # the batch is divided among them
    assert sizes.count(each[1]) == guided * devices
    assert sizes.count(each[0]) == (12 - guided) * devices


def test_a_model_guided_by_itself_ignores_the_weight(pixels):
    guided = draw(pixels, solver="unipc_2", weaker=pixels, w=3.0)
    np.testing.assert_allclose(guided, draw(pixels, solver="unipc_2", w=0.0), rtol=0, atol=5e-5)


def test_a_weaker_model_of_another_network_guides_too(pixels):
    small = pixel_model(tiny_config(**NEAR | {"model.dropout": 0.2}), key=3)
    assert small.experiment != pixels.experiment
    found = draw(pixels, solver="unipc_2", weaker=small, w=1.0)
    labels = np.array(LABELS, np.int32)
    plan = cfg_jax.plan(cfg_jax.cosine_schedule(-4.0, 4.0).grid(13), "unipc_2")
    every = cfg_jax.branches(pixels.predict, labels, weaker=small.predict)
    guided = cfg_jax.guide(every, cfg_jax.weights(plan, 1.0))
    expected = cfg_jax.sample(jax.random.key(0), guided, (2, *pixels.shape), plan)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"solver": "dpm"}, "solver='dpm': choose one of ancestral, ddim, dpmpp_2m"),
        ({"grid": "log"}, "grid='log': choose one of schedule, uniform, mixed, karras"),
        ({"schedule": "ramp"}, "schedule='ramp': choose one of constant, linear"),
        ({"rule": "cfg++"}, r"rule='cfg\+\+': choose one of cfg, rescale, apg, zero_star"),
        ({"rule": "apg:q=1"}, "rule='apg:q=1': apg takes eta, r, beta, as in apg:eta=0,r=15"),
        ({"rule": "zero_star:zero_calls=inf"}, "zero_calls=inf: need an integer"),
        ({"schedule": "cfgpp", "solver": "unipc_2"}, "schedule='cfgpp' with solver='unipc_2'"),
        ({"schedule": "cfgpp", "solver": "ddim", "w": 3.0}, "w=3.0 with schedule='cfgpp'"),
        ({"solver": "pcg", "num_steps": 12}, "such as 11 or 13"),
        ({"solver": "pcg", "num_steps": 3}, "Langevin steps are unstable above 1.6"),
        ({"rule": "rescale"}, "rule='rescale': rescale takes phi, space"),
        ({"rule": "apg:r=x"}, "'r=x' is not NAME=NUMBER"),
        ({"rule": None, "w": math.nan}, "w=nan"),
        ({"interval": (3.0, -2.0)}, r"interval=\(3.0, -2.0\): need \(lo, hi\)"),
        ({"interval": (1.0,)}, "interval=.*: need"),
        ({"interval": (200.0, 300.0)}, "none of the 13 calls is inside"),
        ({"solver": "heun", "num_steps": 3}, "solver='heun' on a grid whose first gap"),
        ({"solver": "dpmpp_3s", "num_steps": 3}, "num_steps=3: solver='dpmpp_3s' needs at least 4"),
        ({"solver": "unipc_2", "eta": 0.5}, "eta=0.5 with solver='unipc_2'"),
        ({"solver": "unipc_2", "churn": 2.0}, "with solver='unipc_2', which does not use it"),
        ({"solver": "ddim", "eta": 2.0}, "eta=2.0: need a number from 0 to 1"),
        ({"eta": -1.0}, "eta=-1.0: need a number of at least 0"),
        ({"churn": "3"}, "churn='3': need a number of at least 0"),
        (
            {"solver": "unipc_2", "noise_temperature": 0.9},
            "noise_temperature=0.9 with solver='unipc_2', which draws no noise",
        ),
        ({"weaker": "runs/a"}, "weaker='runs/a': need a Model"),
        ({"w": np.ones((5, 2))}, "w has shape"),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_one_line(pixels, settings, said, monkeypatch):
    monkeypatch.setattr(pixels, "_compiled", None)
    with pytest.raises(ValueError, match=said) as error:
        draw(pixels, **settings)
    assert "\n" not in str(error.value)


def test_a_sample_without_guidance_ignores_the_rules_state_and_its_neighbours(pixels):
    for rule in ("zero_star", "apg:r=2,beta=-0.5"):
        settings = {"solver": "unipc_2", "rule": rule, "num_steps": 13}
        keys = cfg_jax.keys.indexed(jax.random.key(0), np.arange(2))
        both = pixels.sample_x(keys, labels=LABELS, w=[0.0, 2.0], **settings)
        alone = pixels.sample_x(keys[:1], labels=LABELS[:1], w=0.0, **settings)
        np.testing.assert_allclose(both[:1], alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "p_uncond, settings",
    [
        (1.0, {"w": -1.0, "interval": (-2.0, 2.0)}),
        (1.0, {"w": -1.0, "schedule": "linear"}),
        (0.0, {"w": 0.0, "schedule": "cfgpp", "solver": "ddim"}),
    ],
)
def test_weights_of_a_call_that_need_an_untrained_branch_are_refused(p_uncond, settings):
    model = pixel_model(tiny_config(**NEAR | {"diffusion.p_uncond": p_uncond}))
    with pytest.raises(ValueError, match="never showed this model an example"):
        model.check(SamplingSettings(num_steps=13, **settings))


def test_a_config_that_cannot_sample_is_refused_before_training(tmp_path):
    config = tiny_config(**{"sampling.solver": "heun"})
    with pytest.raises(ValueError, match="solver='heun' on a grid whose first gap"):
        train(config, tmp_path)


def test_previews_that_cannot_be_drawn_are_refused_before_training(tmp_path):
    settings = {"sampling.solver": "ddim", "sampling.schedule": "cfgpp", "train.preview_w": (0, 3)}
    with pytest.raises(ValueError, match="w=3.0 with config.sampling.schedule='cfgpp': need w in"):
        train(tiny_config(**settings), tmp_path)


def test_log_probabilities_are_not_reported_where_they_are_not_defined(pixels):
    arguments = {"labels": LABELS, "w": 1.0, "num_steps": 13, "telemetry": True}
    _, found = pixels.sample(jax.random.key(0), **arguments)
    assert np.isfinite(found.log_prob).all() and np.isfinite(found.log_weight).all()
    _, other = pixels.sample(jax.random.key(0), solver="unipc_2", **arguments)
    assert np.isnan(other.log_prob).all() and np.isnan(other.log_weight).all()


def test_a_weaker_model_of_other_data_is_refused(pixels):
    other = Model(
        pixels.config,
        pixels.params,
        step=0,
        shape=pixels.shape,
        label_names=tuple("abcdefghij"),
    )
    with pytest.raises(ValueError, match="weaker: a model of .* cannot guide one of"):
        draw(pixels, weaker=other)


def test_telemetry_comes_with_the_same_images(pixels):
    arguments = {"labels": LABELS, "w": [1.0, 2.0], "num_steps": 13, "solver": "unipc_2"}
    pictures, found = pixels.sample(
        jax.random.key(0), telemetry=True, interval=(-2, 3), **arguments
    )
    plain = pixels.sample(jax.random.key(0), interval=(-2, 3), **arguments)
    assert np.abs(pictures.astype(int) - plain).max() <= 1
    assert all(np.shape(value) == (13, 2) for value in found[1:]) and found.logsnr.shape == (13,)
    guided = (found.logsnr >= -2) & (found.logsnr < 3)
    np.testing.assert_array_equal(found.gap.any(axis=1), guided)


def test_the_trajectory_ends_in_the_sample_and_makes_an_animation(pixels, tmp_path):
    arguments = {"labels": LABELS, "num_steps": 13, "solver": "dpmpp_2m"}
    frames = pixels.trajectory(jax.random.key(0), calls=5, **arguments)
    assert frames.shape == (5, 2, *pixels.shape) and frames.dtype == np.uint8
    last = pixels.sample(jax.random.key(0), **arguments)
    assert np.abs(frames[-1].astype(int) - last).max() <= 1
    cfg_jax.images.save_gif(tmp_path / "a.gif", frames)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == len(np.unique(frames, axis=0))
        assert gif.size == cfg_jax.images.grid(frames[-1][None]).shape[1::-1]
    with pytest.raises(ValueError, match="calls=14: need an integer from 1 to 13"):
        pixels.trajectory(jax.random.key(0), calls=14, **arguments)
    with pytest.raises(ValueError, match="need uint8 \\[n, B, H, W, C\\]"):
        cfg_jax.images.save_gif(tmp_path / "b.gif", frames[0])


def test_telemetry_needs_a_second_branch():
    task = build.assemble(tiny_config(**{"model.label_input": "without_null"}), (8, 8, 1), 10)
    settings = SamplingSettings().filled(tiny_config().sampling)
    with pytest.raises(ValueError, match="telemetry of a network without a null label"):
        request(task, settings, "no key", np.array([1]), record="telemetry")


def test_noise_of_a_solver_and_a_learned_variance_exclude_each_other():
    config = tiny_config(**{"diffusion.learned_variance": True})
    task = build.assemble(config, (8, 8, 1), 10)
    settings = SamplingSettings(solver="ddim", eta=0.5).filled(config.sampling)
    with pytest.raises(ValueError, match="eta=0.5, churn=0.0 with a network that learns"):
        check(settings, task, guided_by_classifier=False)
    fast = SamplingSettings(solver="unipc_2").filled(config.sampling)
    check(fast, task, guided_by_classifier=False)


def test_json_names_what_changes_samples_and_old_digests_stay(pixels):
    def values(**settings):
        return Samples(pixels, 10, sampling=SamplingSettings(num_steps=13, **settings)).swept()

    plain = values()
    assert plain["solver"] == "ancestral" and plain["interval"] == [] and plain["weaker"] is None
    old = identity(plain)
    assert "solver" not in old and old["step"] == "ancestral" and "grid" not in old
    assert upgraded(old) == plain
    for settings in SOLVERS[:-1]:
        assert identity(values(**settings)) != old
    guided = values(interval=(-2.0, 3.0), schedule="linear")
    assert guided["interval"] == [-2.0, 3.0] and identity(guided)["schedule"] == "linear"
    assert set(SCHEDULES) >= {guided["schedule"]}
