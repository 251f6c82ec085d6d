import importlib
import pkgutil

import ml_collections
import pytest

import configs
from cfg_jax import configuration, experiment
from configs import base
from tests.tiny import tiny_config

NAMES = [module.name for module in pkgutil.iter_modules(configs.__path__)]


def config_of(name):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", NAMES)
def test_every_config_passes_its_own_checks(name):
    configuration.validate(config_of(name), num_devices=8)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mixture"])
def test_an_image_experiment_adds_no_field_to_the_base(name):
    assert {k for k, _ in configuration.flatten(config_of(name).to_dict())} == {
        k for k, _ in configuration.flatten(base.get_config().to_dict())
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_config_comes_back_from_json_as_it_was(name):
    config = config_of(name)
    assert configuration.from_json(configuration.to_json(config)) == config


def test_imagenet_configs_carry_the_paper_values():
    # Ho & Salimans 2022, section 4, and Dhariwal & Nichol 2021, table 11.
    small, large = config_of("imagenet64"), config_of("imagenet128")
    for config in (small, large):
        assert (config.diffusion.logsnr_min, config.diffusion.logsnr_max) == (-20, 20)
        assert tuple(config.model.attention_resolutions) == (32, 16, 8)
        assert config.optim.ema_decay == 0.9999
    assert (small.sampling.logvar_interp, small.train.num_steps) == (0.3, 400_000)
    assert (large.sampling.logvar_interp, large.train.num_steps) == (0.2, 2_700_000)
    assert (small.train.batch_size, small.optim.learning_rate) == (2048, 3e-4)
    assert (large.train.batch_size, large.optim.learning_rate) == (256, 1e-4)
    assert (small.model.dropout, large.model.dropout) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optim.learning_rate", float("nan")),
        ("optim.learning_rate", 0.0),
        ("optim.ema_decay", 1.0),
        ("diffusion.p_uncond", 1.5),
        ("diffusion.p_uncond", -0.1),
        ("diffusion.logsnr_min", 21.0),
        ("diffusion.logsnr_max", float("inf")),
        ("diffusion.prediction", "noise"),
        ("diffusion.weighting", "snr"),
        ("model.dtype", "float16"),
        ("model.dropout", 1.0),
        ("model.channel_mult", ()),
        ("model.channel_mult", (1.5, 2.0)),
        ("model.channel_mult", (1, "a")),
        ("seed", 2**32),
        ("network", "transformer"),
        ("train.num_steps", 0),
        ("train.preview_w", (0.0, float("nan"))),
        ("sampling.step", "heun"),
        ("sampling.num_steps", 1),
        ("sampling.logvar_interp", 2.0),
        ("checkpoint.keep_latest", 0),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(field, value):
    config = tiny_config(**{field: value})
    with pytest.raises(ValueError, match=rf"config\.{field}.*(need|is not below)") as caught:
        configuration.validate(config, num_devices=1)
    assert "\n" not in str(caught.value)


def test_a_batch_must_divide_over_devices_and_microbatches():
    config = tiny_config(**{"train.batch_size": 24, "train.num_microbatches": 2})
    configuration.validate(config, num_devices=4)
    with pytest.raises(ValueError, match=r"batch_size=24 on 8 devices.*multiple of 16"):
        configuration.validate(config, num_devices=8)


def test_a_model_section_of_another_network_is_refused():
    with pytest.raises(
        ValueError, match=r"config\.model\.attention_resolutions is no argument.*'mlp'"
    ):
        configuration.validate(tiny_config(network="mlp"), num_devices=1)


def test_a_run_may_go_on_longer_but_not_with_another_seed():
    before = configuration.to_json(tiny_config())
    longer = tiny_config(**{"train.num_steps": 99, "sampling.num_steps": 7})
    configuration.check_same_run(configuration.to_json(longer), before, "runs/x")
    with pytest.raises(ValueError, match=r"seed=5.*runs/x.*started with 0.*allow_config_change"):
        configuration.check_same_run(configuration.to_json(tiny_config(seed=5)), before, "runs/x")


def test_two_heads_ask_the_network_for_twice_the_channels():
    config = tiny_config(**{"diffusion.prediction": "x_and_eps"})
    assert experiment.assemble(config, (8, 8, 3), 10).network.out_channels == 6
    assert isinstance(config, ml_collections.ConfigDict)
