"""Which network denoises images?

ADM's U-Net: residual blocks with AdaGN at each resolution, BigGAN up- and downsampling between
resolutions, self-attention at chosen ones, conditioned on logsnr and on a label that may be null.

Source: Dhariwal & Nichol 2021 (ADM), section 3 and table 11.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from cfg_jax.models.layers import (
    Attention,
    GroupNorm,
    LabelEmbedding,
    LogsnrEmbedding,
    ResBlock,
    zeros,
)

Array = jax.Array


class UNet(nn.Module):
    """(z [B, H, W, C], logsnr [B], labels [B]) -> [B, H, W, out_channels], float32.

    Args:
      out_channels: C for one head, 2C for two.
      num_classes: labels are 0..num_classes, the last one null; 0 for a network without labels.
      channels: features at the first resolution.
      channel_mult: features at each resolution, in units of `channels`; halving between them.
      num_blocks: residual blocks at each resolution (ADM's depth).
      attention_resolutions: heights at which every block is followed by attention.
      head_channels: features per attention head.
      num_heads: heads at every resolution where their number is fixed instead; 0 for head_channels.
      dropout: rate in every residual block.
      norm_groups: groups of each GroupNorm.
      dtype: "float32" or "bfloat16", of convolutions and matrix products.
      remat: recompute each block's inside in the backward pass instead of keeping it.
    """

    out_channels: int
    num_classes: int = 0
    channels: int = 128
    channel_mult: Sequence[int] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention_resolutions: Sequence[int] = (16, 8)
    head_channels: int = 64
    num_heads: int = 0
    dropout: float = 0.0
    norm_groups: int = 32
    dtype: str = "float32"
    remat: bool = False

    def _block(self, channels: int, name: str, resample: str | None = None) -> nn.Module:
        block = nn.remat(ResBlock) if self.remat else ResBlock
        return block(
            channels, self.norm_groups, self.dropout, resample, jnp.dtype(self.dtype), name=name
        )

    def _attend(self, h: Array, name: str) -> Array:
        heads = self.num_heads or h.shape[-1] // self.head_channels
        return Attention(heads, self.norm_groups, jnp.dtype(self.dtype), name=name)(h)

    @nn.compact
    def __call__(
        self, z: Array, logsnr: Array, labels: Array, dropout_keys: Array | None = None
    ) -> Array:
        """Dropout acts when dropout_keys [B] are given, one key per example, and only then."""
        self._check(z)
        dtype = jnp.dtype(self.dtype)
        emb = LogsnrEmbedding(self.channels, dtype, name="logsnr_embedding")(logsnr)
        if self.num_classes:
            embed = LabelEmbedding(self.num_classes, emb.shape[-1], name="label_embedding")
            emb = emb + embed(labels).astype(dtype)

        width = [self.channels * mult for mult in self.channel_mult]
        h = nn.Conv(width[0], (3, 3), dtype=dtype, name="conv_in")(z.astype(dtype))
        skips = [h]
        for level, channels in enumerate(width):
            for i in range(self.num_blocks):
                h = self._block(channels, f"down_{level}_{i}")(h, emb, dropout_keys)
                if h.shape[1] in self.attention_resolutions:
                    h = self._attend(h, f"down_{level}_{i}_attention")
                skips.append(h)
            if level < len(width) - 1:
                h = self._block(channels, f"down_{level}", "down")(h, emb, dropout_keys)
                skips.append(h)

        h = self._block(width[-1], "middle_0")(h, emb, dropout_keys)
        h = self._attend(h, "middle_attention")
        h = self._block(width[-1], "middle_1")(h, emb, dropout_keys)

        for level, channels in reversed(list(enumerate(width))):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(channels, f"up_{level}_{i}")(h, emb, dropout_keys)
                if h.shape[1] in self.attention_resolutions:
                    h = self._attend(h, f"up_{level}_{i}_attention")
            if level:
                h = self._block(channels, f"up_{level}", "up")(h, emb, dropout_keys)

        h = nn.silu(GroupNorm(self.norm_groups, name="norm_out")(h)).astype(jnp.float32)
        return nn.Conv(self.out_channels, (3, 3), kernel_init=zeros, name="conv_out")(h)

    def _check(self, z: Array) -> None:
        halvings = 2 ** (len(self.channel_mult) - 1)
        if z.ndim != 4 or z.shape[1] % halvings or z.shape[2] % halvings:
            raise ValueError(
                f"images of shape {z.shape[1:]}: {len(self.channel_mult)} resolutions need "
                f"[H, W, C] with H and W multiples of {halvings}; change channel_mult"
            )
        sizes = [z.shape[1] >> level for level in range(len(self.channel_mult))]
        for resolution in self.attention_resolutions:
            if resolution not in sizes:
                raise ValueError(
                    f"attention_resolutions has {resolution}, but the heights here are {sizes}"
                )
        for channels, size in zip(
            (self.channels * mult for mult in self.channel_mult), sizes, strict=True
        ):
            if channels % self.norm_groups:
                raise ValueError(
                    f"norm_groups={self.norm_groups} does not divide {channels} channels"
                )
            attends = size in self.attention_resolutions or size == sizes[-1]
            if attends and channels % (self.num_heads or self.head_channels):
                raise ValueError(
                    f"num_heads={self.num_heads}, head_channels={self.head_channels}: one head "
                    f"size has to divide the {channels} channels that attend at {size} x {size}"
                )
