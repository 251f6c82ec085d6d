"""Feature networks (one linear in NumPy, one untrained classifier) and images of noise."""

import jax
import numpy as np

from cfg_jax.config import build
from cfg_jax.evaluation import Reference, accumulate
from cfg_jax.evaluation.networks import FeatureNetwork, Outputs
from cfg_jax.metrics import Moments
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from configs import digits_features

ALL_METRICS = ("fid", "sfid", "is", "precision_recall")
_RNG = np.random.default_rng(7)
POOL, LOGITS, SPATIAL = (_RNG.standard_normal((64, width)) / 100 for width in (6, 10, 4))


def seen(images, spatial=False):
    """Outputs of uint8 images [B, 8, 8, 1], float32."""
    pixels = images.reshape(len(images), 64).astype(np.float64)
    layers = [pixels @ matrix for matrix in (POOL, LOGITS, SPATIAL)]
    pool, logits, places = (layer.astype(np.float32) for layer in layers)
    return Outputs(pool, logits, places if spatial else None)


def plain_network(name="pixels", spatial=False):
    return FeatureNetwork(name, f"sha of {name}", "none", lambda images: seen(images, spatial))


TOTAL = 45


def images_at(index):
    """Images drawn with their index as seed."""
    draws = [np.random.default_rng(int(i)).integers(0, 256, (8, 8, 1), np.uint8) for i in index]
    return np.stack(draws)


def accumulated(folder, batch_size=8, images_at=images_at, network=None, identity="a", **options):
    """Sums over `TOTAL` noise images, stored in `folder`."""
    return accumulate.accumulate(
        images_at,
        TOTAL,
        network or plain_network(spatial=True),
        folder,
        identity={"name": identity},
        batch_size=batch_size,
        **options,
    )


def noise_reference(network, spatial=True, rows=True):
    """Reference of 30 noise images, embedded with `seen`."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (30, 8, 8, 1), np.uint8)
    outputs = seen(images, spatial)
    pool, places = (
        None if a is None else Moments(a.mean(axis=0), np.cov(a.T), len(a))
        for a in (outputs.features, outputs.spatial)
    )
    rows = outputs.features if rows else None
    return Reference("noise", "f" * 64, network.sha256, (8, 8, 1), 30, pool, places, rows)


def clean_classifier():
    """Shrunk configs/digits_features.py with random parameters."""
    config = digits_features.get_config()
    small = {"channels": 8, "channel_mult": (1,), "norm_groups": 4, "head_channels": 8}
    with config.unlocked():
        config.model.update(small | {"attention_resolutions": ()})
    exp = build.assemble(config, (8, 8, 1), 10)
    shapes = jax.eval_shape(exp.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: 0.3 * rng.standard_normal(a.shape, np.float32), shapes)
    names = tuple("0123456789")
    return NoisyClassifier(config, params, step=0, shape=(8, 8, 1), label_names=names)
