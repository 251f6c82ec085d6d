"""Networks that were trained elsewhere, as models and as runs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.config import build, derived
from cfg_jax.runtime import devices
from cfg_jax.sampling.settings import SamplingSettings
from configs import digits, digits_classifier, digits_transformer, emoji, imagenet64, mixture
from tests.tiny import randomised

SHAPE = (2,)
IMAGE = (8, 8, 1)


@pytest.fixture(scope="module")
def network():
    return cfg_jax.MLP(out_channels=2, num_classes=3, channels=8, num_blocks=1)


@pytest.fixture(scope="module")
def params(network):
    inputs = jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    return randomised(network.init(jax.random.key(0), *inputs)["params"])


def own(network, params, **options):
    return cfg_jax.Model.from_params(network, params, shape=SHAPE, **options)


def test_a_network_of_ones_own_predicts_as_called_by_hand(network, params):
    model = own(network, params, prediction="v", schedule=cfg_jax.cosine_schedule(-5.0, 5.0))
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, *SHAPE)), jnp.float32)
    logsnr, labels = jnp.array([-1.0, 2.0]), jnp.array([0, 2])
    v = network.apply({"params": params}, z, logsnr, labels)
    alpha, sigma = (each.reshape(2, 1) for each in cfg_jax.alpha_sigma(logsnr))
    expected = sigma * z + alpha * v
    np.testing.assert_allclose(model.predict(z, logsnr, labels), expected, atol=1e-5)
    assert model.schedule == cfg_jax.cosine_schedule(-5.0, 5.0)
    assert model.label_names == ("0", "1", "2")


def test_a_saved_network_is_loaded_with_its_settings_and_parameters(network, params, tmp_path):
    names = ("ant", "bee", "cat")
    saved = own(network, params, label_names=names, sampling={"num_steps": 7}, step=30)
    saved.save(tmp_path / "run")
    loaded = cfg_jax.load(tmp_path / "run")
    assert loaded.experiment == saved.experiment and loaded.sha256 == saved.sha256
    assert (loaded.step, loaded.label_names, loaded.shape) == (30, names, SHAPE)
    assert loaded.filled(SamplingSettings()).num_steps == 7
    with pytest.raises(ValueError, match="holds checkpoints"):
        saved.save(tmp_path / "run")


def test_parameters_that_could_not_be_placed_are_kept_for_the_next_try(
    network, params, monkeypatch
):
    model = own(network, params)
    with monkeypatch.context() as full, pytest.raises(MemoryError):
        full.setattr(devices, "replicate", lambda tree: (_ for _ in ()).throw(MemoryError))
        model.params  # noqa: B018
    assert "step=0" in repr(model)
    chex.assert_trees_all_equal(model.params, params)


CONFIGS = {
    "unet": (digits, IMAGE),
    "transformer": (digits_transformer, IMAGE),
    "learned variance": (imagenet64, (64, 64, 3)),
    "colour": (emoji, (32, 32, 3)),
    "points": (mixture, (2,)),
    "classifier": (digits_classifier, IMAGE),
}


@pytest.mark.parametrize("schedule", ["continuous", "linear", "cosine", "flow"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_of_a_network_makes_the_network_again(name, schedule):
    module, shape = CONFIGS[name]
    config = module.get_config()
    config.diffusion.schedule = schedule
    if config.network == "mlp" and schedule in ("linear", "cosine"):
        return  # it has no timesteps
    task = build.assemble(config, shape, 5)
    given = {
        field: config.diffusion[field]
        for field in ("prediction", "p_uncond", "learned_variance", "t_eps")
    }
    made = derived.config_of(task.network, shape, 5, task.schedule, sampling={}, **given)
    assert build.assemble(made, shape, 5) == task


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prediction": "x_and_eps"}, "network with out_channels=2: need 4 for data of shape"),
        ({"prediction": "noise"}, "config.diffusion.prediction='noise': need one of"),
        ({"p_uncnd": 0.2}, "config.diffusion.p_uncnd is not a field: did you mean"),
        ({"label_names": ["a"]}, "network with num_classes=3: need 1 for"),
        ({"schedule": "cosine"}, r"schedule='cosine': need cosine_schedule\(\)"),
        ({"sampling": {"steps": 3}}, "config.sampling.steps is not a field: did you mean"),
        ({"step": -1}, "step=-1: need an integer"),
        ({"logsnr_min": -5.0}, "logsnr_min=-5.0 beside a schedule: give it to the schedule"),
        (
            {"clip_x": False},
            r"clip_x=False is a setting of sampling: .* sampling=\{'clip_x': False",
        ),
        ({"sampling": "ddim"}, r"sampling='ddim': need a dict, such as \{'num_steps': 64\}"),
        ({"label_names": 3}, "label_names=3: need texts, one per class"),
        ({"label_names": [0, 1, 2]}, "label_names=.*: need texts"),
        ({"prediction": 3}, "prediction': 3}: Could not override field"),
        ({"sampling": {"num_steps": 64.5}}, "num_steps': 64.5}: Could not override field"),
    ],
)
def test_settings_that_do_not_fit_the_network_are_refused(network, params, options, said):
    with pytest.raises(ValueError, match=said):
        own(network, params, **options)


@pytest.mark.parametrize("shape", [2, (), (8, 8), (2.0,), (0,), "ab"])
def test_a_shape_that_no_example_has_is_refused(network, params, shape):
    with pytest.raises(
        ValueError, match=r"shape=.*: need the shape of one example, \(H, W, C\) or"
    ):
        cfg_jax.Model.from_params(network, params, shape=shape)


def test_points_are_drawn_unclipped_and_from_a_grid_of_small_gaps(network, params):
    settings = own(network, params).filled(SamplingSettings())
    assert (settings.clip_x, settings.grid) == (False, "uniform")
    given = own(network, params, sampling={"clip_x": True, "grid": "schedule"})
    assert given.filled(SamplingSettings(num_steps=4)).clip_x
    assert given.grid(4) == tuple(cfg_jax.cosine_schedule().grid(4).tolist())


def test_images_are_drawn_clipped_and_from_the_grid_of_the_schedule():
    network = build.assemble(digits.get_config(), IMAGE, 10).network
    made = derived.config_of(network, IMAGE, 10, cfg_jax.cosine_schedule(), sampling={})
    assert (made.sampling.clip_x, made.sampling.grid) == (True, "schedule")


def test_parameters_of_another_network_are_refused_by_name(network, params):
    with pytest.raises(ValueError, match=r"params/params/.*give variables\['params'\]"):
        own(network, {"params": params})
    wider = cfg_jax.MLP(out_channels=2, num_classes=3, channels=16, num_blocks=1)
    with pytest.raises(
        ValueError, match=r"has shape .*: the network needs shape .*; check the network"
    ):
        own(wider, params)
    with pytest.raises(
        ValueError, match="is missing: the network needs shape .*; check the network"
    ):
        own(network, {})
    with pytest.raises(ValueError, match="network=.*: need a UNet, .* by cfg_jax.as_predict and"):
        own("unet", params)
    with pytest.raises(ValueError, match="network of type MLP: a Classifier is for NoisyClass"):
        cfg_jax.NoisyClassifier.from_params(network, params, shape=SHAPE)
