"""Configs small enough to train in seconds."""

import jax
import numpy as np

from cfg_jax import experiment
from cfg_jax.noisy_classifier import NoisyClassifier
from configs import digits, digits_features, mixture

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


_TINY_NETWORK = {
    "model.channel_mult": (1,),
    "model.attention_resolutions": (8,),
    "model.norm_groups": 4,
    "model.head_channels": 8,
}


def tiny_config(**overrides):
    """configs/digits.py shrunk; overrides are "section.field" names with values."""
    return _changed(digits.get_config(), _SHORT | _TINY_NETWORK | overrides)


def tiny_classifier():
    """configs/digits_features.py shrunk, its parameters noise: nothing about it is special."""
    config = _changed(
        digits_features.get_config(),
        _SHORT | _TINY_NETWORK | {"model.attention_resolutions": ()},
    )
    exp = experiment.assemble(config, (8, 8, 1), 10)
    shapes = jax.eval_shape(exp.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: 0.3 * rng.standard_normal(a.shape, np.float32), shapes)
    names = tuple("0123456789")
    return NoisyClassifier(config, params, step=0, shape=(8, 8, 1), label_names=names)


def tiny_points(**overrides):
    """configs/mixture.py shrunk: the same program around a network that compiles fast."""
    small = {"model.num_blocks": 1, "data.size": 64}
    return _changed(mixture.get_config(), _SHORT | small | overrides)
