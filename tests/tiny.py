"""Configs small enough to train in seconds."""

from configs import digits, mixture

_SHORT = {
    "model.channels": 8,
    "model.dropout": 0.1,
    "optim.warmup_steps": 2,
    "train.num_steps": 4,
    "train.batch_size": 16,
    "train.log_every": 2,
    "train.checkpoint_every": 2,
    "train.preview_every": 0,
    "sampling.num_steps": 4,
}


def _changed(config, overrides):
    with config.unlocked():
        config.update_from_flattened_dict(overrides)
    return config


def tiny_config(**overrides):
    """configs/digits.py shrunk; overrides are "section.field" names with values."""
    network = {
        "model.channel_mult": (1,),
        "model.attention_resolutions": (8,),
        "model.norm_groups": 4,
        "model.head_channels": 8,
    }
    return _changed(digits.get_config(), _SHORT | network | overrides)


def tiny_points(**overrides):
    """configs/mixture.py shrunk: the same program around a network that compiles fast."""
    small = {"model.num_blocks": 1, "data.size": 64}
    return _changed(mixture.get_config(), _SHORT | small | overrides)
