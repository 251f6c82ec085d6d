"""Configs of the published ADM networks, and their translation to arguments of cfg_jax.models.

A config holds the arguments of guided-diffusion's constructors as JSON values; missing keys have
guided-diffusion's defaults. `attention_resolutions` are downsampling factors (1, 2, 4, ...) in a
config, and heights in pixels in cfg_jax.models.

Source: Dhariwal & Nichol 2021 (ADM), tables 11 to 13, and the flags published with each checkpoint.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

KINDS = ("unet", "classifier", "superres")
SCHEDULES = ("linear", "cosine")

REQUIRED = (
    "image_size",
    "model_channels",
    "out_channels",
    "num_res_blocks",
    "attention_resolutions",
)
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "dropout": 0.0,
    "channel_mult": (1, 2, 4, 8),
    "conv_resample": True,
    "dims": 2,
    "num_classes": None,
    "use_checkpoint": False,
    "use_fp16": False,
    "num_heads": 1,
    "num_head_channels": -1,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "pool": "attention",
    "noise_schedule": "linear",
}


def complete(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """`config` with guided-diffusion's defaults, after checking that cfg_jax.models supports it.

    Raises ValueError if the kind or a key is unknown, if a key without default is missing, or if a
    value occurs in no published network.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(KINDS)}")
    for key in REQUIRED:
        if key not in config:
            raise ValueError(f"the config has no {key}: it needs {', '.join(REQUIRED)}")
    for key in config:
        if key not in REQUIRED and key not in DEFAULTS:
            known = ", ".join([*REQUIRED, *DEFAULTS])
            raise ValueError(f"{key} is not an argument of guided-diffusion: give {known}")
    full = DEFAULTS | dict(config)
    upsample = full["num_heads_upsample"]
    supported = {
        "dims": full["dims"] == 2,
        "conv_resample": full["conv_resample"] or full["resblock_updown"],
        "noise_schedule": full["noise_schedule"] in SCHEDULES,
        "num_heads_upsample": kind == "classifier"
        or full["num_head_channels"] != -1
        or upsample in (-1, full["num_heads"]),
        "pool": kind != "classifier" or full["pool"] == "attention",
        "num_head_channels": kind != "classifier" or full["num_head_channels"] != -1,
    }
    for key, holds in supported.items():
        if not holds:
            raise ValueError(
                f"{key}={full[key]!r} of a {kind} cannot be imported: give 2-D, learned resampling,"
                " equal numbers of heads down and up, a linear or cosine schedule and, for a"
                " classifier, attention pooling with num_head_channels"
            )
    return full


def arguments(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Arguments of `models.UNet` (kinds "unet" and "superres") or `Classifier` for a config.

    Omits `noise_input`, `dtype`, `remat` and, since the data decides them, `num_classes` and
    `out_channels`. Raises ValueError as `complete`.
    """
    full = complete(config, kind)
    levels = len(full["channel_mult"])
    fixed_size = full["num_head_channels"] != -1
    same = {
        "channels": full["model_channels"],
        "channel_mult": tuple(full["channel_mult"]),
        "num_blocks": full["num_res_blocks"],
        # guided-diffusion also ignores a factor that the network does not reach.
        "attention_resolutions": tuple(
            full["image_size"] // factor
            for factor in sorted(full["attention_resolutions"])
            if factor in [2**level for level in range(levels)]
        ),
        "head_channels": full["num_head_channels"] if fixed_size else 64,
        "num_heads": 0 if fixed_size else full["num_heads"],
        "qkv_order": "qkv_heads" if full["use_new_attention_order"] else "heads_qkv",
        "adagn": full["use_scale_shift_norm"],
        "biggan_updown": full["resblock_updown"],
        "dropout": float(full["dropout"]),
        "norm_groups": 32,
    }
    if kind == "classifier":
        return same
    return same | {"label_input": "without_null" if full["num_classes"] else "none"}


class Preset(NamedTuple):
    """A network of guided-diffusion.

    kind, config: arguments of `complete`.
    low_res_size: side of an upsampler's input in pixels.
    prediction: meaning of the output, "eps" or "x".
    """

    kind: str
    config: dict[str, Any]
    low_res_size: int = 0
    prediction: str = "eps"


CHANNEL_MULT: dict[int, tuple[float, ...]] = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def _network(image_size: int, attention: tuple[int, ...] = (32, 16, 8), **others) -> dict[str, Any]:
    """Arguments that published networks share; `attention` holds heights in pixels."""
    shared = {
        "image_size": image_size,
        "channel_mult": CHANNEL_MULT[image_size],
        "attention_resolutions": tuple(image_size // height for height in attention),
        "use_scale_shift_norm": True,
        "resblock_updown": True,
    }
    return shared | others


def _diffusion(image_size: int, **others) -> dict[str, Any]:
    shared = {"model_channels": 256, "num_res_blocks": 2, "out_channels": 6, "num_classes": 1000}
    return _network(image_size, **(shared | others))


def _classifier(image_size: int, **others) -> dict[str, Any]:
    shared = {"model_channels": 128, "num_res_blocks": 2, "out_channels": 1000}
    return _network(image_size, **(shared | others), num_head_channels=64, pool="attention")


_HEADS_OF_64 = {"num_head_channels": 64}
_UPSAMPLER = {"model_channels": 192, "channel_mult": CHANNEL_MULT[256]}

PRESETS: dict[str, Preset] = {
    "64x64_diffusion": Preset(
        "unet",
        _diffusion(
            64,
            model_channels=192,
            num_res_blocks=3,
            dropout=0.1,
            use_new_attention_order=True,
            noise_schedule="cosine",
            **_HEADS_OF_64,
        ),
    ),
    "128x128_diffusion": Preset("unet", _diffusion(128, num_heads=4)),
    "256x256_diffusion": Preset("unet", _diffusion(256, **_HEADS_OF_64)),
    "256x256_diffusion_uncond": Preset("unet", _diffusion(256, num_classes=None, **_HEADS_OF_64)),
    "512x512_diffusion": Preset("unet", _diffusion(512, **_HEADS_OF_64)),
    "64x64_classifier": Preset(
        "classifier", _classifier(64, num_res_blocks=4, noise_schedule="cosine")
    ),
    "128x128_classifier": Preset("classifier", _classifier(128)),
    "256x256_classifier": Preset("classifier", _classifier(256)),
    "512x512_classifier": Preset("classifier", _classifier(512)),
    "64_256_upsampler": Preset("superres", _diffusion(256, **_UPSAMPLER, num_heads=4), 64),
    "128_512_upsampler": Preset(
        "superres", _diffusion(512, **_UPSAMPLER, **_HEADS_OF_64, attention=(32, 16)), 128
    ),
}


def preset(name: str) -> tuple[str, dict[str, Any]]:
    """(kind, config) of a published checkpoint; raises ValueError if the name is unknown."""
    if name not in PRESETS:
        raise ValueError(f"name={name!r} is unknown: choose one of {', '.join(PRESETS)}")
    return PRESETS[name].kind, dict(PRESETS[name].config)


def settings(network: str | Preset) -> dict[str, Any]:
    """Changes to configs/base.py for a network or a published name, {"section.field": value}.

    The model section of a classifier has only these fields, no `label_input`. Raises as `preset`.
    """
    if isinstance(network, str):
        network = Preset(*preset(network), PRESETS[network].low_res_size)
    kind, config = network.kind, network.config
    values = {
        "network": "classifier" if kind == "classifier" else "unet",
        "data.name": "imagenet2012",
        "data.image_size": config["image_size"],
        "diffusion.schedule": config.get("noise_schedule", "linear"),
        "diffusion.p_uncond": 0.0,
        "sampling.num_steps": 250,
        "sampling.solver": "ancestral",
    }
    values |= {f"model.{key}": value for key, value in arguments(config, kind).items()}
    if kind != "classifier":
        learned = config["out_channels"] == 2 * config.get("in_channels", 3)
        values["diffusion.learned_variance"] = learned
        if not learned:
            values["sampling.logvar_interp"] = 1.0  # guided-diffusion samples with the larger one
        values["diffusion.prediction"] = network.prediction
        values["diffusion.low_res_size"] = network.low_res_size
    return values
