"""Every field of a config: its default, allowed values and meaning.

`configs/base.py` is a config of the defaults. `validate` checks values with this table, --help and
docs/config.md print it. The defaults are those of the CFG paper (Ho & Salimans 2022) if it gives
them for all its models, and those of ADM (Dhariwal & Nichol 2021) if the CFG paper refers to it.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cfg_jax.config import ranges
from cfg_jax.config.build import DTYPES, NETWORKS, SCHEDULES
from cfg_jax.config.ranges import (
    ANY_NUMBER,
    BELOW_ONE,
    COUNT,
    COUNT_OR_ZERO,
    FLAG,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_FRACTION,
    SIDE,
    SIDE_OR_ZERO,
    TEXT,
    Range,
    integer,
    one_of,
)
from cfg_jax.core.diffusion import HEADS
from cfg_jax.core.flow import RANGES
from cfg_jax.core.grids import GRIDS
from cfg_jax.core.losses import WEIGHTING_NAMES
from cfg_jax.core.schedules import MOST_LOGSNR
from cfg_jax.core.solvers import SOLVERS
from cfg_jax.core.timesteps import MOST_STEPS
from cfg_jax.models.transformer import CHOICES
from cfg_jax.models.trunk import LABEL_INPUTS, QKV_ORDERS


class Field(NamedTuple):
    """One field: default, allowed values, and one line on its meaning, with the unit."""

    default: Any
    range: Range
    meaning: str


_MOST_BLOCKS = 64  # a network of more takes minutes to trace
_DATA_SETS = "a data set, such as folder, npz, digits or cifar10"


def _within(least: float, most: float) -> Range:
    return ranges.number(lambda value: least <= value <= most, f"from {least:g} to {most:g}")


_LOGSNR = _within(-MOST_LOGSNR, MOST_LOGSNR)

_INTERVAL = Range(
    lambda values: (
        ranges.any_number_of(ANY_NUMBER, "").holds(values)
        and (len(values) == 0 or (len(values) == 2 and values[0] < values[1]))
    ),
    "two log-SNRs (lo, hi), or ()",
)

_SEED = {
    "seed": Field(0, integer(0, 2**32 - 1), "random seed of parameters, data order and noise"),
}

_DATA = {
    "name": Field("digits", ranges.name(_DATA_SETS), 'data set, such as "folder" or "cifar10"'),
    "split": Field(
        "train", ranges.name("a split"), '"train", "test", "all", or of TFDS also "train[:90%]"'
    ),
    "data_dir": Field("", TEXT, 'folder or .npz; of TFDS data sets, "" is ~/tensorflow_datasets'),
    "image_size": Field(
        0, SIDE_OR_ZERO, "side in pixels after centre crop and resizing; 0 for no resizing"
    ),
    "resize": Field(
        "area",
        one_of(["area", "adm"]),
        '"area" for means over areas; "adm" for box and bicubic filters, as ADM and JiT',
    ),
    "channels": Field(
        0, one_of([0, 1, 3]), "1 for grey, 3 for colour; 0 for those of the data set"
    ),
    "background": Field(
        "white", TEXT, 'colour behind transparent parts, such as "black" or "#ff8000"'
    ),
    "on_error": Field(
        "raise",
        one_of(["raise", "skip"]),
        'for pictures that cannot be decoded; "skip" leaves them out',
    ),
    "num_threads": Field(
        2, integer(1, 1000), "threads that read and decode ahead; 16 for ImageNet's JPEGs"
    ),
    "random_flip": Field(False, FLAG, "mirror left to right with probability 1/2"),
    "min_crop": Field(
        1.0, POSITIVE_FRACTION, "least fraction of a side that a random crop keeps; 1 for no crops"
    ),
}

_NETWORK = {
    "network": Field(
        "unet",
        one_of(list(NETWORKS)),
        '"unet" or "transformer" for images, "mlp" for points, "classifier" of noisy images',
    ),
}

_MODEL = {
    "channels": Field(128, SIDE, "features at the first resolution"),
    "channel_mult": Field(
        (1, 2, 2, 2),
        ranges.some(POSITIVE, "numbers above 0, at least one"),
        "width / channels; each resolution halves the last",
    ),
    "num_blocks": Field(2, integer(1, _MOST_BLOCKS), "residual blocks per resolution"),
    "attention_resolutions": Field(
        (16, 8),
        ranges.any_number_of(SIDE, f"heights in pixels, each {SIDE.allowed}"),
        "heights of feature maps with attention, pixels",
    ),
    "head_channels": Field(64, SIDE, "features per attention head"),
    "num_heads": Field(
        0, SIDE_OR_ZERO, "attention heads at every resolution; 0 derives them from head_channels"
    ),
    "qkv_order": Field("qkv_heads", one_of(QKV_ORDERS), "layout of q, k, v in one matrix"),
    "adagn": Field(
        True, FLAG, "condition by scale and shift of a norm; False adds to the features"
    ),
    "biggan_updown": Field(True, FLAG, "resample inside residual blocks; False uses convolutions"),
    "rescale_residual": Field(False, FLAG, "divide every residual sum by sqrt(2)"),
    "label_input": Field(
        "with_null", one_of(LABEL_INPUTS), 'labels of the network; "none" for no label input'
    ),
    "dropout": Field(0.0, BELOW_ONE, "rate in residual blocks"),
    "norm_groups": Field(32, SIDE, "groups of each GroupNorm; must divide every width"),
    "dtype": Field("float32", one_of(DTYPES), "type inside the network only"),
    "remat": Field(False, FLAG, "recompute blocks in the backward pass to save memory"),
}

_TRANSFORMER = {
    "patch": Field(16, SIDE, "side of a patch, pixels; must divide the image's"),
    "depth": Field(12, integer(1, 1000), "transformer blocks"),
    "width": Field(768, SIDE, "features of a token"),
    "heads": Field(12, SIDE, "attention heads"),
    "mlp": Field("swiglu", one_of(CHOICES["mlp"]), 'kind of MLP; "gelu" is DiT\'s'),
    "bottleneck": Field(
        128, SIDE_OR_ZERO, "features of a patch before its embedding; 0 for no bottleneck"
    ),
    "norm": Field("rms", one_of(CHOICES["norm"]), 'kind of norm; "layer" is DiT\'s'),
    "rotary": Field(True, FLAG, "normalise q and k, and rotate them by the token's place"),
    "in_context_tokens": Field(32, SIDE_OR_ZERO, "tokens of the label; 0 for none"),
    "in_context_start": Field(4, COUNT_OR_ZERO, "blocks before these tokens are inserted"),
    "dropout": Field(0.0, BELOW_ONE, "rate in the middle half of the blocks"),
    "dtype": _MODEL["dtype"],
    "remat": _MODEL["remat"],
}

_DIFFUSION = {
    "schedule": Field(
        "continuous",
        one_of(list(SCHEDULES)),
        '"continuous" (CFG paper), "flow" (JiT), or one of 1,000 timesteps: "linear", "cosine"',
    ),
    "logsnr_min": Field(-20.0, _LOGSNR, "noise end of the continuous schedule"),
    "logsnr_max": Field(20.0, _LOGSNR, "data end of the continuous schedule"),
    "p_mean": Field(-0.8, _within(*RANGES["p_mean"]), "mean of logit t in the flow schedule"),
    "p_std": Field(
        0.8, _within(*RANGES["p_std"]), "standard deviation of logit t in the flow schedule"
    ),
    "noise_scale": Field(
        1.0,
        _within(*RANGES["noise_scale"]),
        "deviation of noise in the flow schedule; JiT: image side / 256",
    ),
    "t_eps": Field(
        0.05, FRACTION, "smallest 1 - t in velocities of the flow schedule; 0 for no limit"
    ),
    "prediction": Field("eps", one_of(list(HEADS)), "network output"),
    "weighting": Field("eps", one_of(list(WEIGHTING_NAMES)), 'loss weighting; "flow" is JiT\'s'),
    "p_uncond": Field(0.1, FRACTION, "probability of training without the label"),
    "learned_variance": Field(False, FLAG, "C more outputs: exponent between the two variances"),
    "vlb_weight": Field(
        0.001, POSITIVE, "weight of the bound (bits/dim) in the loss of a learned variance"
    ),
    "vlb_steps": Field(1000, integer(2, MOST_STEPS), "T of the bound, number of network calls"),
    "low_res_size": Field(
        0, SIDE_OR_ZERO, "pixels of an upsampler's input image; 0 for no upsampler"
    ),
}

_OPTIM = {
    "learning_rate": Field(1e-4, POSITIVE, "step size of AdamW"),
    "warmup_steps": Field(1000, COUNT_OR_ZERO, "steps of linear warm-up from zero"),
    "anneal_steps": Field(
        0, COUNT_OR_ZERO, "step at which a linear decay reaches zero; 0 keeps the rate"
    ),
    "b1": Field(0.9, BELOW_ONE, "decay of AdamW's mean of gradients"),
    "b2": Field(0.999, BELOW_ONE, "decay of AdamW's mean of squared gradients"),
    "weight_decay": Field(0.0, NOT_NEGATIVE, "weight decay of AdamW"),
    "grad_clip": Field(
        1.0, NOT_NEGATIVE, "maximum global norm, after averaging over devices; 0 for none"
    ),
    "ema_decay": Field(0.9999, BELOW_ONE, "decay of the averaged parameters for sampling"),
}

_TRAIN = {
    "num_steps": Field(100_000, COUNT, "optimizer steps"),
    "batch_size": Field(256, integer(1, 2**24), "examples per step over all devices"),
    "num_microbatches": Field(1, COUNT, "sequential parts of a device's batch, to save memory"),
    "shard_state": Field(
        False, FLAG, "divide EMA and optimizer state among the devices, to save memory"
    ),
    "log_every": Field(100, COUNT, "steps between log entries"),
    "checkpoint_every": Field(5_000, COUNT, "steps between checkpoints"),
    "preview_every": Field(10_000, COUNT_OR_ZERO, "steps between sample grids; 0 for none"),
    "preview_w": Field(
        (0.0, 1.0, 3.0),
        ranges.some(ANY_NUMBER, "numbers, at least one"),
        "guidance weights of sample grids",
    ),
    "max_skipped_in_row": Field(10, COUNT, "consecutive non-finite steps that stop the run"),
    "hang_seconds": Field(
        1800,
        COUNT_OR_ZERO,
        "time without a step that ends the run with all stacks; 0 for never",
    ),
    "allow_config_change": Field(
        False, FLAG, "resume with different data, model or optimizer settings"
    ),
}

_CHECKPOINT = {
    "keep_latest": Field(2, COUNT, "number of newest checkpoints"),
    "keep_every": Field(0, COUNT_OR_ZERO, "also keep steps divisible by this; 0 for none"),
    "keep_best": Field(
        1,
        COUNT_OR_ZERO,
        "number with lowest mean training loss since the previous checkpoint",
    ),
}

_LOG = {
    "wandb": Field(
        "off",
        one_of(["off", "offline", "online"]),
        "Weights & Biases: not used, files only, or sent (extra [wandb])",
    ),
    "wandb_project": Field("cfg_jax", ranges.name("a project"), "project of Weights & Biases"),
}

# Defaults of model.sample and cfg-jax sample.
_SAMPLING = {
    "num_steps": Field(256, integer(2, MOST_STEPS), "T, number of network calls"),
    "respacing": Field("", TEXT, 'for timesteps: "ddim25" or "90,60,60,20,20"; "" uses num_steps'),
    "solver": Field("ancestral", one_of(list(SOLVERS)), "solver; the paper's is ancestral"),
    "grid": Field(
        "schedule", one_of(list(GRIDS)), "log-SNRs of the calls; the paper's is schedule"
    ),
    "eta": Field(0.0, NOT_NEGATIVE, "noise of ddim, dpmpp_2m and dpmpp_3m; 0 for none"),
    "churn": Field(0.0, NOT_NEGATIVE, "S_churn of heun and ddim; 0 for none"),
    "schedule": Field("constant", TEXT, 'change of w over the calls, such as "linear:least=0.5"'),
    "interval": Field(
        (), _INTERVAL, "log-SNRs (lo, hi) outside of which calls are not guided; () for none"
    ),
    "rule": Field(
        "cfg", TEXT, 'combination of the branches: "cfg", "rescale:phi=0.7", "apg:r=15,beta=-0.5"'
    ),
    "against": Field(
        "null", TEXT, 'what guidance points away from: "null", "random", a class, "null:2,7:-1"'
    ),
    "logvar_interp": Field(0.0, FRACTION, "the paper's v"),
    "clip_x": Field(True, FLAG, "clip x_hat to [-1, 1] after guidance"),
    "threshold": Field(
        0.0, FRACTION, "quantile of dynamic thresholding in place of clipping; 0 for none"
    ),
    "dtype": Field(
        "", one_of(["", *DTYPES]), 'type inside the network when sampling; "" for model.dtype'
    ),
}

_SECTIONS = {
    "data": _DATA,
    "model": _MODEL,
    "diffusion": _DIFFUSION,
    "optim": _OPTIM,
    "train": _TRAIN,
    "checkpoint": _CHECKPOINT,
    "log": _LOG,
    "sampling": _SAMPLING,
}

FIELDS: dict[str, Field] = {
    **_SEED,
    **_NETWORK,
    **{
        f"{section}.{name}": field
        for section in _SECTIONS
        for name, field in _SECTIONS[section].items()
    },
}
"""All fields, "section.name" or "name"; the model section is that of the U-Net."""

TRANSFORMER_FIELDS: dict[str, Field] = {
    f"model.{name}": field for name, field in _TRANSFORMER.items()
}
"""Fields of the model section of a transformer."""


def fields_of(network: str) -> dict[str, Field]:
    """All fields of a config with a network; those of the U-Net for any but the transformer."""
    if network != "transformer":
        return FIELDS
    return {k: v for k, v in FIELDS.items() if not k.startswith("model.")} | TRANSFORMER_FIELDS


def transformer(**changes: Any) -> ConfigDict:
    """The model section of a transformer: the defaults, those of JiT-B/16, with changes."""
    return ConfigDict({name: field.default for name, field in _TRANSFORMER.items()} | changes)


def defaults() -> ConfigDict:
    """A config of all defaults."""
    config = ConfigDict()
    for path, field in FIELDS.items():
        section, _, name = path.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        (config[section] if section else config)[name] = field.default
    return config
