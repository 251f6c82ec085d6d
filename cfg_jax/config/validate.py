"""Validation of a config, on its own and against the config of a run that is continued.

All checks precede compilation and writing. Checkpoints hold configs as JSON.
"""

import dataclasses
import difflib
import json
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cfg_jax.config.build import NETWORKS, SCHEDULES, STEPS
from cfg_jax.core.diffusion import HEADS
from cfg_jax.core.guidance import only_trained_w
from cfg_jax.core.losses import WEIGHTINGS
from cfg_jax.models.trunk import LABEL_INPUTS, QKV_ORDERS

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200

Rule = tuple[Callable[[Any], bool], str]


def _is_number(value: Any) -> bool:
    """Whether value is a number that float32 holds; True and False are none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= _MOST


def _integer(least: int, most: int) -> Rule:
    def holds(value: Any) -> bool:
        integer = isinstance(value, int) and not isinstance(value, bool)
        return integer and least <= value <= most

    return holds, f"an integer from {least} to {most}"


def _number(holds: Callable[[Any], bool], allowed: str) -> Rule:
    return (lambda value: _is_number(value) and holds(value), f"a number {allowed}")


def _one_of(names) -> Rule:
    kinds = tuple({type(name) for name in names})
    allowed = f"one of {', '.join(map(repr, names))}"
    return (lambda value: type(value) in kinds and value in names, allowed)


def _are_numbers(values) -> bool:
    several = isinstance(values, tuple | list) and len(values) > 0
    return several and all(map(_is_number, values))


_MOST = float(np.finfo(np.float32).max)
_NOT_NEGATIVE = _number(lambda value: value >= 0, "of at least 0")
_POSITIVE = _number(lambda value: bool(np.float32(value) > 0), "above 0, also in float32")
_FRACTION = _number(lambda value: 0 <= value <= 1, "in [0, 1]")
# A decay that float32 rounds to 1 makes Adam divide by zero.
_BELOW_ONE = _number(
    lambda value: 0 <= value and bool(np.float32(value) < 1), "in [0, 1), in float32 too"
)
_ANY_NUMBER = _number(lambda value: True, "that float32 holds")
_TEXT: Rule = (lambda value: isinstance(value, str), "a text")
_FLAG: Rule = (lambda value: isinstance(value, bool), "True or False")

_SIDE = _integer(1, 2**14)

# Fields by range.
_RANGES: list[tuple[Rule, str]] = [
    (_integer(0, 2**31 - 1), "optim.warmup_steps optim.anneal_steps train.preview_every"),
    (_integer(0, 2**31 - 1), "checkpoint.keep_every checkpoint.keep_best train.hang_seconds"),
    (_integer(1, 2**31 - 1), "train.num_steps train.batch_size train.num_microbatches"),
    (_integer(1, 2**31 - 1), "train.log_every train.checkpoint_every train.max_skipped_in_row"),
    (_integer(1, 2**31 - 1), "checkpoint.keep_latest"),
    (_integer(0, 2**14), "data.image_size diffusion.low_res_size model.num_heads"),
    (_integer(1, 2**14), "model.channels model.head_channels model.norm_groups"),
    (_integer(1, 1000), "data.num_threads model.num_blocks"),
    (_integer(2, 100_000), "diffusion.vlb_steps sampling.num_steps"),
    (_NOT_NEGATIVE, "optim.weight_decay optim.grad_clip"),
    (_ANY_NUMBER, "diffusion.logsnr_min diffusion.logsnr_max"),
    (_FLAG, "data.random_flip model.adagn model.biggan_updown model.rescale_residual model.remat"),
    (_FLAG, "diffusion.learned_variance sampling.clip_x train.allow_config_change"),
    (_POSITIVE, "diffusion.vlb_weight optim.learning_rate"),
    (_FRACTION, "diffusion.p_uncond sampling.logvar_interp"),
    (_BELOW_ONE, "model.dropout optim.b1 optim.b2 optim.ema_decay"),
]
RULES: dict[str, Rule] = {field: rule for rule, fields in _RANGES for field in fields.split()} | {
    "seed": _integer(0, 2**32 - 1),
    "network": _one_of(list(NETWORKS)),
    "data.name": (lambda value: isinstance(value, str) and value != "", "the name of a data set"),
    "data.split": (lambda value: isinstance(value, str) and value != "", "the name of a split"),
    "data.data_dir": _TEXT,
    "data.background": _TEXT,
    "data.min_crop": _number(lambda value: 0 < value <= 1, "in (0, 1]"),
    "data.channels": _one_of([0, 1, 3]),
    "data.on_error": _one_of(["raise", "skip"]),
    "model.channel_mult": (
        lambda values: _are_numbers(values) and min(values) > 0,
        "numbers above 0, at least one",
    ),
    "model.attention_resolutions": (
        lambda values: (
            isinstance(values, tuple | list) and all(_SIDE[0](value) for value in values)
        ),
        f"heights in pixels, each {_SIDE[1]}",
    ),
    "model.qkv_order": _one_of(QKV_ORDERS),
    "model.label_input": _one_of(LABEL_INPUTS),
    "model.dtype": _one_of(["float32", "bfloat16"]),
    "diffusion.schedule": _one_of(list(SCHEDULES)),
    "diffusion.prediction": _one_of(list(HEADS)),
    "diffusion.weighting": _one_of(list(WEIGHTINGS)),
    "train.preview_w": (_are_numbers, "numbers, at least one"),
    "sampling.step": _one_of(list(STEPS)),
    "sampling.respacing": _TEXT,
}

# The sections whose fields are known; `data` and `model` have those of the data and network.
_KNOWN = {field for field in RULES if not field.startswith(("data.", "model."))}

_CONTENT = "meta.data.fingerprint.content"
# Fields that may change when a run resumes: duration, intervals, paths and memory use.
_FREE_AT_RESUME = set(
    "data.data_dir data.on_error data.num_threads model.remat train.num_steps "
    "train.num_microbatches train.log_every train.checkpoint_every train.preview_every "
    "train.preview_w train.max_skipped_in_row train.hang_seconds train.allow_config_change "
    "meta.data.class_counts".split()
)
_FREE_SECTIONS = ("checkpoint.", "sampling.")

# Fields missing from configs of earlier checkpoints, with the values used then.
_ADDED: dict[str, dict[str, Any]] = {
    "data": {"min_crop": 1.0, "channels": 0, "background": "white", "on_error": "raise"},
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
    """Checks the range of every value, and that values fit each other and the devices.

    Raises ValueError with one line: the field, its value, what is allowed. A misspelt field would
    be ignored, so fields that are unknown or missing are refused.
    """
    check_values(config)
    batch_size, parts = config.train.batch_size, config.train.num_microbatches
    if batch_size % (num_devices * parts):
        raise ValueError(
            f"config.train.batch_size={batch_size} on {num_devices} devices in {parts} "
            f"microbatches: need a multiple of {num_devices * parts}"
        )


def check_values(config: ConfigDict) -> None:
    """The checks of `validate` that do not depend on the devices."""
    values = dict(flatten(config.to_dict()))
    _check_fields(values)
    for field, (holds, allowed) in RULES.items():
        if field in values and not holds(values[field]):
            raise ValueError(f"config.{field}={_SHORT.repr(values[field])}: need {allowed}")
    known = {field.name for field in dataclasses.fields(NETWORKS[values["network"]])}
    if unknown := [name for name in config.model if name not in known]:
        raise ValueError(
            f"config.model.{unknown[0]} is not an argument of "
            f"config.network={values['network']!r}: use a model section for this network"
        )
    _check_diffusion(values)


def _check_fields(values: Mapping[str, Any]) -> None:
    """Checks that all fields outside `data` and `model` are there, and no others."""
    for field in values:
        of_section = field.startswith(("data.", "model.")) and field.count(".") == 1
        if field not in _KNOWN and not of_section:
            near = " or ".join(difflib.get_close_matches(field, _KNOWN, n=2, cutoff=0))
            raise ValueError(f"config.{field} is not a field: did you mean {near}?")
    if missing := sorted(_KNOWN - values.keys()):
        raise ValueError(f"config.{missing[0]} is missing: start from configs/base.py")


def _check_diffusion(values: Mapping[str, Any]) -> None:
    """Checks that schedule, grid, labels and network fit each other."""
    low, high = values["diffusion.logsnr_min"], values["diffusion.logsnr_max"]
    if not low < high:
        raise ValueError(
            f"config.diffusion.logsnr_min={low} is not below logsnr_max={high}: "
            "the paper uses -20 and 20"
        )
    schedule, num_steps = values["diffusion.schedule"], values["sampling.num_steps"]
    if schedule == "continuous" and values["sampling.respacing"]:
        raise ValueError(
            f"config.sampling.respacing={values['sampling.respacing']!r}: the continuous schedule "
            'has no timesteps; use "" and set num_steps'
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
    _check_previews(values)
    if values["diffusion.low_res_size"] and values["network"] != "unet":
        raise ValueError(
            f"config.diffusion.low_res_size={values['diffusion.low_res_size']}: only "
            "config.network='unet' upsamples; set it to 0"
        )


def _check_previews(values: Mapping[str, Any]) -> None:
    """Checks that previews need no branch of guidance that p_uncond leaves untrained."""
    only = only_trained_w(values["diffusion.p_uncond"])
    draws = values["network"] != "classifier" and not values["diffusion.low_res_size"]
    if only is None or not draws or not values["train.preview_every"]:
        return
    guidable = values.get("model.label_input", "with_null") == "with_null"
    if guidable and any(w != only for w in values["train.preview_w"]):
        raise ValueError(
            f"config.train.preview_w={values['train.preview_w']} with config.diffusion.p_uncond="
            f"{values['diffusion.p_uncond']:g}, which trains one branch of guidance only: need "
            f"({only},)"
        )


def flatten(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("section.field", value) for every field."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def to_json(config: ConfigDict) -> dict:
    """The config as plain JSON values."""
    return json.loads(config.to_json())


def from_json(values: dict) -> ConfigDict:
    """Inverse of `to_json`; also reads JSON of earlier versions. Lists become tuples."""

    def restored(value):
        if isinstance(value, dict):
            return {name: restored(entry) for name, entry in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ConfigDict(restored(_completed(values)))


def _completed(values: Mapping) -> dict:
    """JSON values of a config, completed with fields added to the package later."""
    added = dict(_ADDED)
    if values.get("network") == "unet":
        added["model"] = _ADDED_TO_UNET
    known = {name: added[name] | dict(values[name]) for name in added if name in values}
    return {**values, **known}


def check_same_run(now: Mapping, before: Mapping, workdir: str) -> None:
    """Raises ValueError if config or data differ from those of the run to be continued.

    The error names the first field that differs, with both values.

    Args:
      now, before: JSON values of config and data, at this start and in the checkpoint.
      workdir: folder of the run, for the error.
    """
    plain = (_completed(json.loads(json.dumps(tree))) for tree in (now, before))
    now, before = (dict(flatten(tree)) for tree in plain)
    before.setdefault(_CONTENT, now.get(_CONTENT))  # runs older than this field
    for field in sorted(now.keys() | before.keys()):
        if field in _FREE_AT_RESUME or field.startswith(_FREE_SECTIONS):
            continue
        if now.get(field) != before.get(field):
            name = field if field.startswith("meta.") else f"config.{field}"
            raise ValueError(
                f"{name}={now.get(field)!r}, but the run in {workdir} was started with "
                f"{before.get(field)!r}: use that value, another workdir, or "
                "config.train.allow_config_change=True"
            )
