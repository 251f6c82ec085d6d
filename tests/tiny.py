"""A config small enough to train in seconds, and a run of it to share."""

from configs import digits


def tiny_config(**overrides):
    """configs/digits.py shrunk; overrides are "section.field" names with values."""
    config = digits.get_config()
    small = {
        "model.channels": 8,
        "model.norm_groups": 4,
        "model.head_channels": 8,
        "model.channel_mult": (1, 2),
        "model.dropout": 0.1,
        "optim.warmup_steps": 2,
        "train.num_steps": 4,
        "train.batch_size": 16,
        "train.log_every": 2,
        "train.checkpoint_every": 2,
        "train.preview_every": 0,
        "sampling.num_steps": 4,
    }
    with config.unlocked():
        config.update_from_flattened_dict(small | overrides)
    return config
