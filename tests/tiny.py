"""Configs that train in seconds, and networks that compile immediately."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import cfg_jax
from cfg_jax.config import build
from cfg_jax.models import Classifier, UNet
from cfg_jax.models.layers import Dropout
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.storage import checkpoint
from configs import digits, digits_classifier, mixture

DIGITS = tuple("0123456789")

RUN_ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiler options that halve compile time at the cost of slower code."""

_SHORT = {
    "model.channels": 8,
    "model.dropout": 0.1,
    "optim.warmup_steps": 2,
    "train.num_steps": 4,
    "train.batch_size": 16,
    "train.log_every": 2,
    "train.checkpoint_every": 2,
    "train.preview_every": 0,
    "sampling.solver": "ancestral",
    "sampling.eta": 0.0,
    "sampling.num_steps": 4,
}
_NETWORK = {
    "model.channel_mult": (1,),
    "model.attention_resolutions": (8,),
    "model.norm_groups": 4,
    "model.head_channels": 8,
}


def _changed(config, overrides):
    with config.unlocked():
        config.update_from_flattened_dict(overrides)
    return config


def tiny_config(**overrides):
    """Shrunk configs/digits.py; overrides map "section.field" to values."""
    return _changed(digits.get_config(), _SHORT | _NETWORK | overrides)


def tiny_classifier(**overrides):
    """Shrunk configs/digits_classifier.py; previews are requested, but none must be drawn."""
    own = {
        "model.attention_resolutions": (),
        "optim.learning_rate": 2e-2,
        "train.batch_size": 64,
        "train.preview_every": 2,
    }
    return _changed(digits_classifier.get_config(), _SHORT | _NETWORK | own | overrides)


def tiny_points(**overrides):
    """Shrunk configs/mixture.py with a fast-compiling network."""
    small = {"model.num_blocks": 1, "data.size": 64}
    return _changed(mixture.get_config(), _SHORT | small | overrides)


def small_unet(**overrides):
    """The smallest network with every part of a U-Net."""
    settings = dict(
        out_channels=1,
        num_classes=3,
        channels=8,
        channel_mult=(1, 2),
        num_blocks=1,
        attention_resolutions=(4,),
        head_channels=8,
        norm_groups=4,
    )
    return UNet(**(settings | overrides))


class PixelUNet(UNet):
    """Interface of a U-Net with two layers per pixel, which compile immediately."""

    @nn.compact
    def __call__(self, z, noise, labels=None, dropout_keys=None, low_res=None):
        if low_res is not None:
            shape = (*z.shape[:3], low_res.shape[-1])
            z = jnp.concatenate([z, jax.image.resize(low_res, shape, "bilinear")], axis=-1)
        emb = self._embed(noise, labels, self._num_labels)
        h = nn.Dense(8)(z) + nn.Dense(8)(emb)[:, None, None]
        return nn.Dense(self.out_channels)(Dropout(self.dropout)(jnp.tanh(h), dropout_keys))


class PixelClassifier(Classifier):
    """Interface of a classifier with two layers on all pixels."""

    @nn.compact
    def __call__(self, z, noise, dropout_keys=None):
        h = nn.Dense(8)(z.reshape(len(z), -1)) + nn.Dense(8)(self._embed(noise, None, 0))
        return nn.Dense(self.num_classes)(Dropout(self.dropout)(jnp.tanh(h), dropout_keys))


@contextlib.contextmanager
def pixel_networks():
    """Context in which these two networks replace the U-Net and the classifier."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.NETWORKS, "unet", PixelUNet)
        patch.setitem(build.NETWORKS, "classifier", PixelClassifier)
        yield


def randomised(params, key=0):
    """Random parameters of the same shapes, without zeros, which makes every path matter."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(key)
    drawn = []
    for leaf in leaves:
        spread = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.3
        centre = float(leaf.ndim == 1)
        drawn.append(jnp.asarray(centre + spread * rng.standard_normal(leaf.shape), leaf.dtype))
    return jax.tree.unflatten(tree, drawn)


def shaken_model(workdir):
    """A run's model with perturbed parameters: no layer is zero, and labels matter."""
    loaded = cfg_jax.load(workdir)
    rng = np.random.default_rng(0)
    shaken = jax.tree.map(
        lambda a: a + 0.1 * rng.standard_normal(a.shape).astype(np.float32), loaded.params
    )
    return loaded.with_params(shaken, loaded.step)


def random_model(config, *, shape=(8, 8, 1), label_names=DIGITS, key=0):
    """Model or classifier with random parameters."""
    described = build.assemble(config, shape, len(label_names))
    params = randomised(jax.eval_shape(described.init, jax.random.key(0)), key)
    kind = NoisyClassifier if config.network == "classifier" else cfg_jax.Model
    return kind(config, params, step=7, shape=shape, label_names=label_names)


def pixel_model(config, **arguments):
    """`random_model` with a network that compiles immediately."""
    with pixel_networks():
        return random_model(config, **arguments)


def parameters(workdir):
    """EMA parameters at the end of a run."""
    return checkpoint.load_ema(workdir / "checkpoints").ema


def records(workdir):
    """Log records of a run, one dict per line."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
