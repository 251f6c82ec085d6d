"""Configs of the published JiT networks, and their translation to arguments of `Transformer`.

A config holds the arguments of the original class `JiT` as JSON values, and optionally
`noise_scale`, the standard deviation of the noise that it was trained with. Missing keys have the
defaults below. `settings` translates a preset to fields of a config of this package.

Source: Li & He 2025, arXiv 2511.13720, table 9; the scales, of the README beside the weights.
"""

import math
from collections.abc import Mapping
from typing import Any

REQUIRED = (
    *("input_size", "patch_size", "hidden_size", "depth", "num_heads", "bottleneck_dim"),
    *("in_context_len", "in_context_start"),
)
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "mlp_ratio": 4.0,
    "attn_drop": 0.0,
    "proj_drop": 0.0,
    "num_classes": 1000,
    "noise_scale": 1.0,
}

_SIZES = {
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12, "in_context_start": 4},
    "L": {"hidden_size": 1024, "depth": 24, "num_heads": 16, "in_context_start": 8},
    "H": {"hidden_size": 1280, "depth": 32, "num_heads": 16, "in_context_start": 10},
}
_OTHERS = {
    "B": {"bottleneck_dim": 128},
    "L": {"bottleneck_dim": 128},
    "H": {"bottleneck_dim": 256, "proj_drop": 0.2},
}

PRESETS: dict[str, dict[str, Any]] = {
    f"JiT-{size}/{patch}": {
        "input_size": 16 * patch,
        "patch_size": patch,
        "in_context_len": 32,
        "noise_scale": patch / 16,
        **_SIZES[size],
        **_OTHERS[size],
    }
    for size in _SIZES
    for patch in (16, 32)
}

PUBLISHED_W: dict[str, float] = {
    **{"JiT-B/16": 2.0, "JiT-L/16": 1.4, "JiT-H/16": 1.2},
    **{"JiT-B/32": 2.0, "JiT-L/32": 1.5, "JiT-H/32": 1.3},
}
"""Guidance weights published with the weights, as w = cfg - 1."""

SAMPLING_STEPS = 50
"""T of the published samples: T - 1 Heun steps and an Euler step, 2 T - 1 calls."""

_GUIDED_FROM, _GUIDED_TO = 0.1, 80.0  # a time, not included; a log-SNR above all others


def preset(name: str) -> dict[str, Any]:
    """The config of a published network; raises ValueError if the name is unknown."""
    if name not in PRESETS:
        raise ValueError(f"name={name!r} is unknown: choose one of {', '.join(PRESETS)}")
    return dict(PRESETS[name])


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with defaults, after checking that `Transformer` supports it.

    Raises ValueError if a key is unknown or missing, or if a value occurs in no published network.
    """
    for key in REQUIRED:
        if key not in config:
            raise ValueError(f"the config has no {key}: it needs {', '.join(REQUIRED)}")
    for key in config:
        if key not in REQUIRED and key not in DEFAULTS:
            known = ", ".join([*REQUIRED, *DEFAULTS])
            raise ValueError(f"{key} is not an argument of JiT: give {known}")
    full = DEFAULTS | dict(config)
    for key, only in (("mlp_ratio", 4.0), ("attn_drop", 0.0)):
        if full[key] != only:
            raise ValueError(f"{key}={full[key]!r} cannot be imported: give {only}")
    if not full["noise_scale"] > 0:
        raise ValueError(f"noise_scale={full['noise_scale']!r}: give a number above 0")
    return full


def arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `models.Transformer` for a config, without `noise_input`, `dtype` and `remat`.

    Raises ValueError as `complete`.
    """
    full = complete(config)
    return {
        "out_channels": full["in_channels"],
        "num_classes": full["num_classes"],
        "patch": full["patch_size"],
        "depth": full["depth"],
        "width": full["hidden_size"],
        "heads": full["num_heads"],
        "bottleneck": full["bottleneck_dim"],
        "in_context_tokens": full["in_context_len"],
        "in_context_start": full["in_context_start"],
        "dropout": float(full["proj_drop"]),
        "mlp": "swiglu",
        "norm": "rms",
        "rotary": True,
    }


def settings(name: str) -> dict[str, Any]:
    """Changes to configs/base.py for a preset, {"section.field": value}.

    The fields of "model" are some of a transformer's; the others have their defaults. Raises
    ValueError if the name is unknown.
    """
    config = complete(preset(name))
    of_data = ("out_channels", "num_classes")
    model = {key: value for key, value in arguments(config).items() if key not in of_data}
    return {
        "network": "transformer",
        "data.name": "imagenet2012",
        "data.image_size": config["input_size"],
        "data.resize": "adm",
        **{f"model.{key}": value for key, value in model.items()},
        "diffusion.schedule": "flow",
        "diffusion.p_mean": -0.8,
        "diffusion.p_std": 0.8,
        "diffusion.noise_scale": float(config["noise_scale"]),
        "diffusion.t_eps": 0.05,
        "diffusion.prediction": "x",
        "diffusion.weighting": "flow",
        "diffusion.p_uncond": 0.1,
        "sampling.num_steps": 2 * SAMPLING_STEPS - 1,
        "sampling.solver": "heun_flow",
        "sampling.grid": "schedule",
        "sampling.interval": (guided_from(config["noise_scale"]), _GUIDED_TO),
        "sampling.clip_x": False,
    }


def guided_from(noise_scale: float) -> float:
    """log-SNR above which the published samples are guided, for t > 0.1.

    Rounded up to four digits: an interval includes its lower end, and t = 0.1, which is a point of
    the published grid, is not guided.
    """
    logsnr = 2 * (math.log(_GUIDED_FROM / (1 - _GUIDED_FROM)) - math.log(noise_scale))
    return math.ceil(1e4 * logsnr) / 1e4
