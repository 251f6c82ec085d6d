"""Is this config one that can be run, and is it the one that a run was started with?

Every rule is checked before anything is compiled or written. Configs travel in checkpoints as
JSON.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from cfg_jax.config.build import NETWORKS, SCHEDULES, STEPS
from cfg_jax.core.diffusion import HEADS
from cfg_jax.core.losses import WEIGHTINGS
from cfg_jax.models.trunk import LABEL_INPUTS, QKV_ORDERS

Rule = tuple[Callable[[Any], bool], str]


def _at_least(least: float) -> Rule:
    return (lambda value: value >= least, f"at least {least}")


def _one_of(names) -> Rule:
    return (lambda value: value in names, f"one of {', '.join(map(repr, names))}")


_POSITIVE: Rule = (lambda value: value > 0, "above 0")
_SHARE: Rule = (lambda value: 0 <= value <= 1, "in [0, 1]")
_BELOW_ONE: Rule = (lambda value: 0 <= value < 1, "in [0, 1)")
_POSITIVE_EACH: Rule = (
    lambda values: len(values) > 0 and all(isinstance(v, int | float) and v > 0 for v in values),
    "numbers above 0, at least one",
)

RULES: dict[str, Rule] = {
    "seed": (lambda value: 0 <= value < 2**32, "from 0 to 4294967295"),
    "network": _one_of(list(NETWORKS)),
    "data.name": (bool, "the name of a data set"),
    "data.image_size": _at_least(0),
    "data.num_threads": _at_least(1),
    "data.min_crop": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "model.channels": _at_least(1),
    "model.channel_mult": _POSITIVE_EACH,
    "model.num_blocks": _at_least(1),
    "model.head_channels": _at_least(1),
    "model.num_heads": _at_least(0),
    "model.qkv_order": _one_of(QKV_ORDERS),
    "model.label_input": _one_of(LABEL_INPUTS),
    "model.dropout": _BELOW_ONE,
    "model.norm_groups": _at_least(1),
    "model.dtype": _one_of(["float32", "bfloat16"]),
    "diffusion.schedule": _one_of(list(SCHEDULES)),
    "diffusion.prediction": _one_of(list(HEADS)),
    "diffusion.weighting": _one_of(list(WEIGHTINGS)),
    "diffusion.p_uncond": _SHARE,
    "diffusion.vlb_weight": _POSITIVE,
    "diffusion.vlb_steps": _at_least(2),
    "diffusion.low_res_size": _at_least(0),
    "optim.learning_rate": _POSITIVE,
    "optim.warmup_steps": _at_least(0),
    "optim.anneal_steps": _at_least(0),
    "optim.b1": _BELOW_ONE,
    "optim.b2": _BELOW_ONE,
    "optim.weight_decay": _at_least(0),
    "optim.grad_clip": _at_least(0),
    "optim.ema_decay": _BELOW_ONE,
    "train.num_steps": _at_least(1),
    "train.batch_size": _at_least(1),
    "train.num_microbatches": _at_least(1),
    "train.log_every": _at_least(1),
    "train.checkpoint_every": _at_least(1),
    "train.preview_every": _at_least(0),
    "train.preview_w": (
        lambda values: len(values) > 0 and all(isinstance(v, int | float) for v in values),
        "numbers, at least one",
    ),
    "train.max_skipped_in_row": _at_least(1),
    "train.hang_seconds": _at_least(0),
    "checkpoint.keep_latest": _at_least(1),
    "checkpoint.keep_every": _at_least(0),
    "checkpoint.keep_best": _at_least(0),
    "sampling.num_steps": _at_least(2),
    "sampling.step": _one_of(list(STEPS)),
    "sampling.logvar_interp": _SHARE,
}

_CONTENT = "meta.data.fingerprint.content"
# What may differ when a run is resumed: how long, how often, and where things are kept.
_FREE_AT_RESUME = {
    "data.data_dir",
    "data.num_threads",
    "train.num_steps",
    "train.num_microbatches",
    "train.log_every",
    "train.checkpoint_every",
    "train.preview_every",
    "train.preview_w",
    "train.max_skipped_in_row",
    "train.hang_seconds",
    "train.allow_config_change",
    "model.remat",
}
_FREE_SECTIONS = ("checkpoint.", "sampling.")

# Fields that configs of earlier checkpoints do not have, and what those were made with.
_ADDED = {
    "data": {"min_crop": 1.0},
    "diffusion": {
        "schedule": "continuous",
        "learned_variance": False,
        "vlb_weight": 0.001,
        "vlb_steps": 1000,
        "low_res_size": 0,
    },
    "optim": {"anneal_steps": 0},
    "train": {"hang_seconds": 1800},
    "sampling": {"respacing": ""},
}
_ADDED_TO_UNET = {
    "qkv_order": "qkv_heads",
    "adagn": True,
    "biggan_updown": True,
    "rescale_residual": False,
    "label_input": "with_null",
}


def validate(config: ConfigDict, num_devices: int) -> None:
    """Checks every value's range, and that values fit each other, the batch and the devices.

    Raises:
      ValueError: one line with the field, its value, what is allowed.
    """
    values = dict(flatten(config.to_dict()))
    for field, value in values.items():
        numbers = value if isinstance(value, tuple | list) else [value]
        for number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"config.{field}={value}: need a finite number")
    for field, (holds, allowed) in RULES.items():
        if field in values and not holds(values[field]):
            raise ValueError(f"config.{field}={values[field]!r}: need {allowed}")
    known = {field.name for field in dataclasses.fields(NETWORKS[values["network"]])}
    for name in config.model:
        if name not in known:
            raise ValueError(
                f"config.model.{name} is no argument of config.network={values['network']!r}: "
                "give a config whose model section is that network's"
            )
    _check_diffusion(values)
    batch_size, parts = values["train.batch_size"], values["train.num_microbatches"]
    if batch_size % (num_devices * parts):
        raise ValueError(
            f"config.train.batch_size={batch_size} on {num_devices} devices in {parts} "
            f"microbatches: need a multiple of {num_devices * parts}"
        )


def _check_diffusion(values: Mapping[str, Any]) -> None:
    """That the schedule, the grid and the labels of a config fit each other."""
    low, high = values["diffusion.logsnr_min"], values["diffusion.logsnr_max"]
    if not low < high:
        raise ValueError(
            f"config.diffusion.logsnr_min={low} is not below logsnr_max={high}: "
            "the paper has -20 and 20"
        )
    schedule, num_steps = values["diffusion.schedule"], values["sampling.num_steps"]
    if schedule == "continuous" and values["sampling.respacing"]:
        raise ValueError(
            f"config.sampling.respacing={values['sampling.respacing']!r}: the continuous schedule "
            'has no timesteps; leave it "" and set num_steps'
        )
    if schedule != "continuous" and num_steps > 1000:
        raise ValueError(
            f"config.sampling.num_steps={num_steps}: the {schedule} schedule has 1000 timesteps"
        )
    p_uncond = values["diffusion.p_uncond"]
    if values.get("model.label_input", "with_null") != "with_null" and p_uncond > 0:
        raise ValueError(
            f"config.diffusion.p_uncond={p_uncond}: label_input={values['model.label_input']!r} "
            "has no null label to train; set it to 0, or label_input to 'with_null'"
        )
    if values["diffusion.low_res_size"] and values["network"] != "unet":
        raise ValueError(
            f"config.diffusion.low_res_size={values['diffusion.low_res_size']}: only "
            "config.network='unet' upsamples; set it to 0"
        )


def flatten(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("section.field", value) of every field."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def to_json(config: ConfigDict) -> dict:
    """The config as plain JSON values."""
    return json.loads(config.to_json())


def from_json(values: dict) -> ConfigDict:
    """The config that `to_json` was given, by an earlier version too; lists become tuples again."""

    def restored(value):
        if isinstance(value, dict):
            return {name: restored(entry) for name, entry in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ConfigDict(restored(_completed(values)))


def _completed(values: Mapping) -> dict:
    """A config's JSON values with the fields that it was written too early to have."""
    added = dict(_ADDED)
    if values.get("network") == "unet":
        added["model"] = _ADDED_TO_UNET
    known = {name: added[name] | dict(values[name]) for name in added if name in values}
    return {**values, **known}


def check_same_run(now: Mapping, before: Mapping, workdir: str) -> None:
    """Refuses to continue a run under settings, or with data, that would make it another one.

    Args:
      now, before: JSON values of config and data, of this start and of the checkpoint.
      workdir: named in the error.

    Raises:
      ValueError: the first field that differs, with both values.
    """
    now, before = (
        dict(flatten(_completed(json.loads(json.dumps(tree))))) for tree in (now, before)
    )
    before.setdefault(_CONTENT, now.get(_CONTENT))  # runs older than this field
    for field in sorted(now.keys() | before.keys()):
        if field in _FREE_AT_RESUME or field.startswith(_FREE_SECTIONS):
            continue
        if now.get(field) != before.get(field):
            raise ValueError(
                f"{field}={now.get(field)!r}, but the run in {workdir} was started with "
                f"{before.get(field)!r}: use that value, another --workdir, or "
                "--config.train.allow_config_change=True"
            )
