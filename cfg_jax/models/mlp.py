"""A denoiser of vectors, such as points in the plane.

The MLP is a residual perceptron, conditioned on logsnr and label like the U-Net.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cfg_jax.models import ops
from cfg_jax.models.layers import (
    Dense,
    Dropout,
    LabelEmbedding,
    NoiseEmbedding,
    logsnr_position,
    zeros,
)

Array = jax.Array


class MLP(nn.Module):
    """(z [B, D], logsnr [B], labels [B]) -> [B, out_channels], float32.

    Args:
      out_channels: number of outputs, D for one head, 2D for two.
      num_classes: number of labels besides the null label num_classes; 0 for no label input.
      channels: number of hidden features.
      num_blocks: number of residual blocks h + Dense(SiLU(LayerNorm(h) * (1 + scale) + shift)).
      dropout: dropout rate in every block.
      dtype: type of the matrix products, "float32" or "bfloat16".

    Examples:
      >>> network = cfg_jax.MLP(out_channels=2, num_classes=3, channels=8, num_blocks=1)
      >>> inputs = jnp.zeros((5, 2)), jnp.zeros(5), jnp.zeros(5, jnp.int32)
      >>> jax.eval_shape(network.init_with_output, jax.random.key(0), *inputs)[0].shape
      (5, 2)
    """

    out_channels: int
    num_classes: int = 0
    channels: int = 128
    num_blocks: int = 3
    dropout: float = 0.0
    dtype: str = "float32"
    noise_input = "logsnr"  # a constant here, an argument of `Trunk`

    @nn.compact
    def __call__(
        self, z: Array, logsnr: Array, labels: Array, dropout_keys: Array | None = None
    ) -> Array:
        """The output; dropout_keys [B] has one key per example, None turns dropout off."""
        if z.ndim != 2:
            raise ValueError(f"data of shape {z.shape[1:]}: the MLP needs vectors, z [B, D]")
        dtype = jnp.dtype(self.dtype)
        position = logsnr_position(logsnr)
        emb = NoiseEmbedding(self.channels, dtype, name="logsnr_embedding")(position)
        if self.num_classes:
            embed = LabelEmbedding(self.num_classes + 1, emb.shape[-1], name="label_embedding")
            emb = emb + embed(labels)
        h = Dense(self.channels, dtype=dtype, name="in")(z)
        for i in range(self.num_blocks):
            modulation = Dense(2 * self.channels, dtype=dtype, name=f"emb_{i}")(ops.silu(emb))
            scale, shift = jnp.split(modulation, 2, axis=-1)
            branch = nn.LayerNorm(dtype=dtype, name=f"norm_{i}")(h) * (1 + scale) + shift
            branch = Dropout(self.dropout, name=f"dropout_{i}")(ops.silu(branch), dropout_keys)
            h = h + Dense(self.channels, dtype=dtype, name=f"out_{i}")(branch)
        h = ops.silu(h).astype(jnp.float32)
        return Dense(self.out_channels, kernel_init=zeros, name="out")(h)
