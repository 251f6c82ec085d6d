"""Configs of the published JiT networks, and their translation to arguments of `Transformer`.

A config holds the arguments of the original class `JiT` as JSON values, and optionally
`noise_scale`, the standard deviation of the noise that it was trained with. Missing keys have the
defaults below.

Source: Li & He 2025, arXiv 2511.13720, table 9.
"""

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
        "noise_scale": float(full["noise_scale"]),
        "dropout": float(full["proj_drop"]),
        "mlp": "swiglu",
        "norm": "rms",
        "rotary": True,
    }
