"""Validation of a config, on its own and against the config of a run that is continued.

All checks precede compilation and writing. Checkpoints hold configs as JSON.
"""

import dataclasses
import json
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from cfg_jax.config.build import NETWORKS
from cfg_jax.config.fields import FIELDS, fields_of
from cfg_jax.config.nearest import nearest
from cfg_jax.core.guidance import only_trained_w
from cfg_jax.core.names import meant

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200

# The sections whose fields are known; `data` and `model` have those of the data and network.
_KNOWN = {field for field in FIELDS if not field.startswith(("data.", "model."))}

_CONTENT = "meta.data.fingerprint.content"
# Of a data set under the same name, which no value brings back.
_EXAMPLES = ("meta.data.fingerprint.files", _CONTENT)
# Fields that may change when a run resumes: duration, intervals, paths and memory use.
_FREE_AT_RESUME = set(
    "data.data_dir data.on_error data.num_threads model.remat train.num_steps "
    "train.num_microbatches train.shard_state train.log_every train.checkpoint_every "
    "train.preview_every train.preview_w train.max_skipped_in_row train.hang_seconds "
    "train.allow_config_change meta.data.class_counts".split()
)
_FREE_SECTIONS = ("checkpoint.", "log.", "sampling.")

ADDED_TO_SAMPLING: dict[str, Any] = {
    "grid": "schedule",
    "eta": 0.0,
    "churn": 0.0,
    "schedule": "constant",
    "interval": (),
    "rule": "cfg",
    "against": "null",
    "threshold": 0.0,
    "dtype": "",
}
"""Fields of `sampling` that came with the solvers, with the values used before."""

# Fields missing from configs of earlier checkpoints, with the values used then.
_ADDED: dict[str, dict[str, Any]] = {
    "data": {
        "resize": "area",
        "min_crop": 1.0,
        "channels": 0,
        "background": "white",
        "on_error": "raise",
    },
    "diffusion": {
        "schedule": "continuous",
        "p_mean": -0.8,
        "p_std": 0.8,
        "noise_scale": 1.0,
        "t_eps": 0.05,
        "learned_variance": False,
        "vlb_weight": 0.001,
        "vlb_steps": 1000,
        "low_res_size": 0,
    },
    "optim": {"anneal_steps": 0},
    "train": {"hang_seconds": 1800, "shard_state": False},
    "sampling": {"respacing": "", **ADDED_TO_SAMPLING},
}
_ADDED_SECTIONS = {"log": {"wandb": "off", "wandb_project": "cfg_jax"}}
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
    network = values["network"]
    for name, field in fields_of(network if isinstance(network, str) else "").items():
        if name in values and not field.range.holds(values[name]):
            found = _SHORT.repr(values[name])
            hint = meant(name.rpartition(".")[2], values[name], field.range.names)
            raise ValueError(f"config.{name}={found}: need {field.range.allowed}{hint}")
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
            near = " or ".join(nearest(field, _KNOWN))
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
    continuous = schedule in ("continuous", "flow")
    if continuous and values["sampling.respacing"]:
        raise ValueError(
            f"config.sampling.respacing={values['sampling.respacing']!r}: the {schedule} schedule "
            'has no timesteps; use "" and set num_steps'
        )
    if values["diffusion.weighting"] == "flow" and schedule != "flow":
        raise ValueError(
            f"config.diffusion.weighting='flow' with schedule={schedule!r}: it needs 'flow', whose "
            "noise scale it uses"
        )
    if not continuous and num_steps > 1000:
        raise ValueError(
            f"config.sampling.num_steps={num_steps}: the {schedule} schedule has 1000 timesteps"
        )
    p_uncond = values["diffusion.p_uncond"]
    if values.get("model.label_input", "with_null") != "with_null" and p_uncond > 0:
        raise ValueError(
            f"config.diffusion.p_uncond={p_uncond}: label_input={values['model.label_input']!r} "
            "has no null label to train; set it to 0, or label_input to 'with_null'"
        )
    if values["network"] == "transformer" and values["optim.weight_decay"]:
        raise ValueError(
            f"config.optim.weight_decay={values['optim.weight_decay']} with a transformer: it "
            "would shrink the constant table of positions; set it to 0"
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
    """Inverse of `to_json`; also reads JSON of earlier versions. Lists become tuples.

    Raises ValueError for JSON that is not an object.
    """
    if not isinstance(values, dict):
        raise ValueError(f"a config is {type(values).__name__}: need a JSON object")

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
    if "step" in known.get("sampling", {}):
        known["sampling"]["solver"] = known["sampling"].pop("step")
    return {**_ADDED_SECTIONS, **values, **known}


def check_same_run(
    now: Mapping,
    before: Mapping,
    workdir: str,
    *,
    advice: str = "use that value, another workdir, or config.train.allow_config_change=True",
) -> None:
    """Raises ValueError if config or data differ from those of the run to be continued.

    The error names the first field that differs, with both values.

    Args:
      now, before: JSON values of config and data, at this start and in the checkpoint.
      workdir: folder of the run, for the error.
      advice: end of the error.
    """
    plain = (_completed(json.loads(json.dumps(tree))) for tree in (now, before))
    now, before = (dict(flatten(tree)) for tree in plain)
    before.setdefault(_CONTENT, now.get(_CONTENT))  # runs older than this field
    for field in sorted(now.keys() | before.keys()):
        if field in _FREE_AT_RESUME or field.startswith(_FREE_SECTIONS):
            continue
        if now.get(field) != before.get(field):
            if field.startswith(_EXAMPLES):
                raise ValueError(
                    f"the data has other examples than when the run in {workdir} was started "
                    f"({field} was {before.get(field)!r}, is {now.get(field)!r}): bring back those "
                    "that are gone, use another workdir, or config.train.allow_config_change=True"
                )
            name = field if field.startswith("meta.") else f"config.{field}"
            raise ValueError(
                f"{name}={now.get(field)!r}, but the run in {workdir} was started with "
                f"{before.get(field)!r}: {advice}"
            )
