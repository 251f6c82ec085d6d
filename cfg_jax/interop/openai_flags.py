"""Networks trained with guided-diffusion on other data, described by a JSON file.

    {"image_size": 64, "num_channels": 128, "class_cond": true, "num_classes": 12, ...}

The file has the flags of guided-diffusion's `image_train`, `classifier_train` or `super_res_train`,
or the arguments of its constructors with `kind`. Missing flags have that program's defaults. The
keys in OWN are additional: guided-diffusion has constants for them.
"""

import difflib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from cfg_jax.core.arguments import whole
from cfg_jax.interop.openai_configs import (
    CHANNEL_MULT,
    DEFAULTS,
    KINDS,
    REQUIRED,
    Preset,
    complete,
)
from cfg_jax.io.files import local
from cfg_jax.io.reading import read_json
from cfg_jax.io.text import one_line

OWN: dict[str, Any] = {
    "num_classes": 1000,
    "in_channels": 3,
    "label_names": [],
    "dataset": "folder",
    "data_dir": "",
}
"""Number of classes and of image channels, class names ("0", "1", ... if empty), and the data."""

_DIFFUSION = {
    "learn_sigma": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "predict_xstart": False,
    # These change training, speed or the number of sampling steps, not the network.
    "timestep_respacing": "",
    "use_kl": False,
    "rescale_timesteps": False,
    "rescale_learned_sigmas": False,
    "use_checkpoint": False,
    "use_fp16": False,
}
_NETWORK = {
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": 0.0,
    "class_cond": False,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
}
_FLAGS: dict[str, dict[str, Any]] = {
    "unet": {"image_size": 64} | _NETWORK | {"use_new_attention_order": False} | _DIFFUSION,
    "superres": {"large_size": 256, "small_size": 64} | _NETWORK | _DIFFUSION,
    "classifier": {
        "image_size": 64,
        "classifier_width": 128,
        "classifier_depth": 2,
        "classifier_attention_resolutions": "32,16,8",
        "classifier_use_scale_shift_norm": True,
        "classifier_resblock_updown": True,
        "classifier_pool": "attention",
        "classifier_use_fp16": False,
        "channel_mult": "",
    }
    | _DIFFUSION,
}


class OwnNetwork(NamedTuple):
    """A network of one's own, and its data.

    preset: network, as of a published checkpoint.
    label_names: names of the K classes; one for a network without labels.
    dataset, data_dir: config.data.name and config.data.data_dir of the run.
    """

    preset: Preset
    label_names: tuple[str, ...]
    dataset: str
    data_dir: str


def read(path: str | os.PathLike[str]) -> OwnNetwork:
    """The network that a JSON file describes; ValueError as `described`, naming the file."""
    try:
        values = read_json(local(path))
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}: give a JSON object of flags")
        return described(values)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error


def described(values: Mapping[str, Any]) -> OwnNetwork:
    """The network with these flags, or constructor arguments if `model_channels` is one.

    Raises ValueError for an unknown key, a value of another type, and a choice that cannot be
    imported.
    """
    own = OWN | {k: value for k, value in values.items() if k in OWN and value is not None}
    _check_types(own, OWN)
    given = {key: value for key, value in values.items() if key not in OWN}
    constructed = "model_channels" in given
    preset = _of_constructor(given, values) if constructed else _of_flags(given, own)
    config = preset.config
    full = complete(config, preset.kind)
    for key in ("image_size", "model_channels", "num_res_blocks", "in_channels", "out_channels"):
        whole(key, full[key], 1)
    channels = full["in_channels"]
    if preset.kind != "classifier" and full["out_channels"] not in (channels, 2 * channels):
        raise ValueError(
            f"out_channels={full['out_channels']} with in_channels={channels}: need {channels}, or "
            f"{2 * channels} for a learned variance"
        )
    count = full["out_channels"] if preset.kind == "classifier" else full["num_classes"] or 1
    names = tuple(map(str, own["label_names"] or range(count)))
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"label_names has {len(set(names))} names: give {count} different ones")
    return OwnNetwork(preset, names, own["dataset"], own["data_dir"])


def _of_constructor(given: dict[str, Any], values: Mapping[str, Any]) -> Preset:
    kind, low_res_size = given.pop("kind", "unet"), given.pop("small_size", 0)
    if (kind == "superres") != bool(low_res_size):
        raise ValueError(f"kind={kind!r} with small_size={low_res_size}: only superres has one")
    known = dict.fromkeys(REQUIRED, 1) | {key: value for key, value in DEFAULTS.items() if value}
    known |= {"attention_resolutions": [1], "channel_mult": [1], "dropout": 0.0}
    _check_types(given, {key: value for key, value in known.items() if key in given})
    named = {"num_classes", "in_channels"} & set(values)
    return Preset(kind, given | {key: values[key] for key in named}, low_res_size)


def _of_flags(given: dict[str, Any], own: dict[str, Any]) -> Preset:
    inferred = "superres" if "large_size" in given else "unet"
    inferred = "classifier" if any(key.startswith("classifier_") for key in given) else inferred
    kind = given.pop("kind", inferred)
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(KINDS)}")
    known = _FLAGS[kind]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, [*known, *OWN], n=3, cutoff=0)
            raise ValueError(f"{key} is not a flag of a {kind}: did you mean {' or '.join(near)}?")
    _check_types(flags := known | given, known)
    if flags["diffusion_steps"] != 1000:
        raise ValueError(f"diffusion_steps={flags['diffusion_steps']}: only 1000 can be imported")
    config = _classifier(flags, own) if kind == "classifier" else _denoiser(flags, own)
    prediction = "x" if flags["predict_xstart"] else "eps"
    return Preset(kind, config, flags.get("small_size", 0), prediction)


def _denoiser(flags: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    channels = own["in_channels"]
    same = (
        *("num_res_blocks", "dropout", "num_heads", "num_head_channels", "num_heads_upsample"),
        *("use_scale_shift_norm", "resblock_updown", "noise_schedule"),
    )
    size = flags.get("large_size") or flags["image_size"]
    # A large network of super_res_train has the widths of 256 pixels.
    like = min(size, 256) if "large_size" in flags else size
    return {name: flags[name] for name in same} | {
        "image_size": size,
        "in_channels": channels,
        "model_channels": flags["num_channels"],
        "out_channels": channels * (2 if flags["learn_sigma"] else 1),
        "num_classes": own["num_classes"] if flags["class_cond"] else None,
        "attention_resolutions": _factors(flags["attention_resolutions"], size),
        "channel_mult": _channel_mult(flags["channel_mult"], like),
        "use_new_attention_order": flags.get("use_new_attention_order", False),
    }


def _classifier(flags: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    size = flags["image_size"]
    return {
        "image_size": size,
        "in_channels": own["in_channels"],
        "model_channels": flags["classifier_width"],
        "out_channels": own["num_classes"],
        "num_res_blocks": flags["classifier_depth"],
        "attention_resolutions": _factors(flags["classifier_attention_resolutions"], size),
        "channel_mult": _channel_mult(flags["channel_mult"], size),
        "num_head_channels": 64,
        "use_scale_shift_norm": flags["classifier_use_scale_shift_norm"],
        "resblock_updown": flags["classifier_resblock_updown"],
        "pool": flags["classifier_pool"],
        "noise_schedule": flags["noise_schedule"],
    }


def _factors(heights: str, size: int) -> tuple[int, ...]:
    """Downsampling factors of "32,16,8", heights in pixels."""
    try:
        return tuple(size // int(height) for height in heights.split(",") if height)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"attention_resolutions={heights!r}: give heights as '16,8'") from None


def _channel_mult(text: str, size: int) -> tuple[float, ...]:
    """The numbers of "1,2,3,4", or those of guided-diffusion for a size."""
    if not text and size not in CHANNEL_MULT:
        raise ValueError(f"channel_mult is missing for {size} pixels: give it, as '1,2,2'")
    try:
        return tuple(map(float, text.split(","))) if text else CHANNEL_MULT[size]
    except ValueError:
        raise ValueError(f"channel_mult={text!r}: give numbers, as '1,2,2'") from None


def _check_types(values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises ValueError for a value of another type than its default; an integer is a float too."""
    for key, default in known.items():
        value, kind = values[key], type(default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{key}={value!r}: give a {kind.__name__}, as {json.dumps(default)}")
