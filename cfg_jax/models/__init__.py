"""Networks (z, logsnr, labels, dropout_keys) -> output, and classifiers of z, in Flax Linen.

Only this folder imports Linen. The caller decides what the output means: eps, x or v.
"""

from cfg_jax.models.classifier import Classifier
from cfg_jax.models.mlp import MLP
from cfg_jax.models.transformer import Transformer
from cfg_jax.models.unet import UNet

__all__ = ["MLP", "Classifier", "Transformer", "UNet"]
