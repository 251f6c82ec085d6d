"""A feature network in NumPy: what it says of an image is a matrix times its pixels."""

import numpy as np

from cfg_jax.features import FeatureNetwork, Outputs

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
