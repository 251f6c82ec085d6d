import importlib
import pkgutil
import re

import ml_collections
import pytest

import configs
from cfg_jax.config import build
from cfg_jax.config.fields import fields_of
from cfg_jax.config.validate import (
    check_same_run,
    check_values,
    flatten,
    from_json,
    to_json,
    validate,
)
from configs import base
from tests.tiny import tiny_classifier, tiny_config

NAMES = [module.name for module in pkgutil.iter_modules(configs.__path__)]


DRAWN = {"train.preview_every": 2}


def config_of(name):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.compat
@pytest.mark.parametrize("name", NAMES)
def test_every_config_passes_its_own_checks(name):
    validate(config_of(name), num_devices=8)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mixture"])
def test_an_image_experiment_adds_no_field_to_those_of_its_network(name):
    config = config_of(name)
    # A classifier has no label input, so its config has no field for it.
    unused = {"model.label_input"} if config.network == "classifier" else set()
    assert {field for field, _ in flatten(config.to_dict())} == (
        fields_of(config.network).keys() - unused
    )


@pytest.mark.compat
@pytest.mark.parametrize("name", NAMES)
def test_a_config_comes_back_from_json_as_it_was(name):
    config = config_of(name)
    assert from_json(to_json(config)) == config


ODD = (
    *(None, True, False, -1, 0, 1, 0.5, float("nan"), float("inf"), 1e300, 10**30, 10**400),
    *("x", "", b"x", [], (), (0,), (None,), {"a": 1}, object()),
)


@pytest.mark.parametrize("field", [field for field, _ in flatten(base.get_config().to_dict())])
def test_an_odd_value_of_a_field_is_one_line_or_has_the_type_of_the_field(field):
    config = base.get_config()
    section, _, name = f".{field}".rpartition(".")
    holder = config[section.strip(".")] if section.strip(".") else config
    kind = type(holder[name])
    accepted = []
    for value in ODD:
        holder._fields[name] = value  # as a config out of a damaged checkpoint
        try:
            check_values(config)
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 300
            assert f"config.{field}" in str(error) or name in str(error)
        else:
            accepted.append(value)
    for value in accepted:
        also = {float: int, tuple: list}.get(kind, kind)
        known = isinstance(value, kind | also)
        assert known and isinstance(value, bool) == (kind is bool), value
    assert len(accepted) < len(ODD) / 3


@pytest.mark.parametrize(
    "field, value",
    [
        ("optim.b2", 1 - 1e-9),  # 1 in float32
        ("optim.learning_rate", 1e-50),  # 0 in float32
        ("optim.weight_decay", 1e39),
        ("sampling.num_steps", 300_000_000),
        ("model.num_blocks", 1_000_000),
    ],
)
def test_a_number_that_float32_or_memory_cannot_hold_is_refused(field, value):
    with pytest.raises(ValueError, match=re.escape(f"config.{field}={value}: need ")):
        check_values(tiny_config(**{field: value}))


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
        ("model.channel_mult", (1, -0.5)),
        ("model.qkv_order", "kqv"),
        ("model.label_input", "all"),
        ("data.min_crop", 0.0),
        ("data.min_crop", 1.5),
        ("data.resize", "bicubic"),
        ("diffusion.schedule", "quadratic"),
        ("diffusion.vlb_weight", 0.0),
        ("diffusion.vlb_steps", 1),
        ("optim.anneal_steps", -1),
        ("model.channel_mult", (1, "a")),
        ("seed", 2**32),
        ("network", "resnet"),
        ("train.num_steps", 0),
        ("train.preview_w", (0.0, float("nan"))),
        ("sampling.solver", "euler"),
        ("sampling.num_steps", 1),
        ("sampling.logvar_interp", 2.0),
        ("checkpoint.keep_latest", 0),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(field, value):
    config = tiny_config(**{field: value})
    with pytest.raises(ValueError, match=rf"config\.{field}.*(need|is not below)") as caught:
        validate(config, num_devices=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "nearest"),
    [
        ("train.batch_sze", "train.batch_size"),
        ("optim.lerning_rate", "optim.learning_rate"),
        ("sampling.clip", "sampling.clip_x"),
        ("sead", "seed"),
    ],
)
def test_a_misspelt_field_is_refused_and_not_ignored(field, nearest):
    said = rf"^config\.{field} is not a field: did you mean {nearest}"
    with pytest.raises(ValueError, match=said):
        validate(tiny_config(**{field: 3}), num_devices=1)


@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("sampling.solver", "DDIM", "ddim"),
        ("diffusion.prediction", "epsilon", "eps"),
        ("diffusion.schedule", "continous", "continuous"),
        ("model.dtype", "bf16", "bfloat16"),
    ],
)
def test_a_name_of_another_library_or_misspelt_is_answered_with_ours(field, value, meant):
    said = rf"^config\.{field}='{value}': need one of .*; did you mean {meant}\?$"
    with pytest.raises(ValueError, match=said):
        validate(tiny_config(**{field: value}), num_devices=1)


def test_a_config_without_one_of_the_fields_is_refused():
    config = tiny_config()
    with config.unlocked():
        del config.optim.b1
    with pytest.raises(ValueError, match=r"^config\.optim\.b1 is missing: start from"):
        validate(config, num_devices=1)


def test_a_batch_must_divide_over_devices_and_microbatches():
    config = tiny_config(**{"train.batch_size": 24, "train.num_microbatches": 2})
    validate(config, num_devices=4)
    with pytest.raises(ValueError, match=r"batch_size=24 on 8 devices.*multiple of 16"):
        validate(config, num_devices=8)


def test_a_model_section_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"config\.model\.\w+ is not an argument.*'mlp'"):
        validate(tiny_config(network="mlp"), num_devices=1)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"sampling.respacing": "ddim25"}, "respacing='ddim25'.*continuous schedule"),
        (
            {"diffusion.schedule": "linear", "sampling.num_steps": 1001},
            "num_steps=1001.*1000 timesteps",
        ),
        ({"model.label_input": "without_null"}, "p_uncond=0.1.*no null label"),
        ({"model.label_input": "none"}, "p_uncond=0.1.*no null label"),
        ({"diffusion.p_uncond": 0.0, **DRAWN}, r"preview_w=.*p_uncond=0, .*need \(0.0,\)"),
        ({"diffusion.p_uncond": 1.0, **DRAWN}, r"preview_w=.*p_uncond=1, .*need \(-1.0,\)"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides, said):
    with pytest.raises(ValueError, match=said) as caught:
        validate(tiny_config(**overrides), num_devices=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("p_uncond", "w"), [(0.0, 0.0), (1.0, -1.0)])
def test_previews_of_one_branch_are_drawn_at_its_weight_or_not_at_all(p_uncond, w):
    one_branch = {"diffusion.p_uncond": p_uncond}
    validate(tiny_config(**one_branch, **DRAWN, **{"train.preview_w": (w,)}), num_devices=1)
    validate(tiny_config(**one_branch), num_devices=1)
    validate(tiny_classifier(**one_branch, **DRAWN), num_devices=1)


def test_a_config_written_before_a_field_was_added_means_what_it_meant():
    now = to_json(tiny_config())
    before = {name: dict(now[name]) if isinstance(now[name], dict) else now[name] for name in now}
    for section, names in {
        "data": ["min_crop", "resize"],
        "model": ["qkv_order", "adagn", "biggan_updown", "rescale_residual", "label_input"],
        "diffusion": [
            *("schedule", "learned_variance", "vlb_weight", "vlb_steps", "low_res_size"),
        ],
        "optim": ["anneal_steps"],
        "sampling": ["respacing"],
    }.items():
        for name in names:
            del before[section][name]
    assert from_json(before) == tiny_config()
    check_same_run(now, before, "runs/x")


def test_a_run_of_one_resize_is_not_resumed_with_the_other_and_opening_gets_it():
    before = to_json(tiny_config())
    del before["data"]["resize"]
    adm = tiny_config(**{"data.resize": "adm"})
    said = r"^config\.data\.resize='adm', but the run in runs/x was started with 'area'"
    with pytest.raises(ValueError, match=said):
        check_same_run(to_json(adm), before, "runs/x")
    assert build.data_arguments(adm)["resize"] == "adm"


def test_a_run_may_go_on_longer_but_not_with_another_seed():
    before = to_json(tiny_config())
    longer = tiny_config(**{"train.num_steps": 99, "sampling.num_steps": 7})
    check_same_run(to_json(longer), before, "runs/x")
    with pytest.raises(
        ValueError, match=r"^config\.seed=5.*runs/x.*started with 0.*allow_config_change"
    ):
        check_same_run(to_json(tiny_config(seed=5)), before, "runs/x")


def test_two_heads_ask_the_network_for_twice_the_channels():
    config = tiny_config(**{"diffusion.prediction": "x_and_eps"})
    assert build.assemble(config, (8, 8, 3), 10).network.out_channels == 6
    assert isinstance(config, ml_collections.ConfigDict)
