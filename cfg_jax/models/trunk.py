"""The part that ADM's U-Net and classifier share.

The trunk embeds noise level and label. Residual blocks follow at each of several resolutions, each
half the previous one, with attention at selected resolutions. Two blocks around attention are last.

Source: Dhariwal & Nichol 2021 (ADM), section 3 and tables 1 to 3.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from cfg_jax.models import ops
from cfg_jax.models.blocks import Attention, Downsample, ResBlock, Upsample
from cfg_jax.models.layers import (
    Conv,
    GroupNorm,
    LabelEmbedding,
    NoiseEmbedding,
    logsnr_position,
)

Array = jax.Array

LABEL_INPUTS = ("with_null", "without_null", "none")
NOISE_INPUTS = ("logsnr", "timestep")
QKV_ORDERS = ("qkv_heads", "heads_qkv")


class Trunk(nn.Module, kw_only=True):
    """The encoder half and the middle of ADM's networks.

    Args:
      channels: number of features at the first resolution.
      channel_mult: factors; resolution i has channel_mult[i] * channels features and half the
        height and width of resolution i - 1.
      num_blocks: number of residual blocks per resolution (ADM's depth).
      attention_resolutions: image heights at which attention follows every block.
      head_channels: number of features per attention head.
      num_heads: number of heads at every resolution; 0 means features / head_channels.
      qkv_order: order of the 3C features from which attention takes q, k and v: "qkv_heads" is
        (q, k, v), each with all heads; "heads_qkv" is (head 1, head 2, ...), each with q, k and v.
      adagn: True: the embedding scales and shifts each block's second norm. False: the embedding is
        added before that norm.
      biggan_updown: True: residual blocks change the resolution. False: a strided convolution
        halves the resolution; pixel doubling, then a convolution, doubles the resolution.
      rescale_residual: whether to divide every residual sum by sqrt(2).
      noise_input: meaning of the call's second argument, "logsnr" or a "timestep" in 0..1000.
      dropout: dropout rate in every residual block.
      norm_groups: number of groups of each GroupNorm.
      dtype: type of convolutions and matrix products, "float32" or "bfloat16".
      remat: whether the backward pass recomputes residual blocks and attention to save memory.

    Examples:
      >>> Trunk(channels=32, channel_mult=(1, 2)).widths
      [32, 64]
    """

    channels: int = 128
    channel_mult: Sequence[float] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention_resolutions: Sequence[int] = (16, 8)
    head_channels: int = 64
    num_heads: int = 0
    qkv_order: str = "qkv_heads"
    adagn: bool = True
    biggan_updown: bool = True
    rescale_residual: bool = False
    noise_input: str = "logsnr"
    dropout: float = 0.0
    norm_groups: int = 32
    dtype: str = "float32"
    remat: bool = False

    @property
    def _type(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)

    @property
    def widths(self) -> list[int]:
        """Features at each resolution."""
        return [int(self.channels * mult) for mult in self.channel_mult]

    def _maybe_remat(self, block: type[nn.Module]) -> type[nn.Module]:
        return nn.remat(block) if self.remat else block

    def _heads(self, channels: int) -> int:
        return self.num_heads or channels // self.head_channels

    def _block(self, channels: int, name: str, resample: str | None = None) -> nn.Module:
        form = resample, self.adagn, self.rescale_residual, self._type
        block = self._maybe_remat(ResBlock)
        return block(channels, self.norm_groups, self.dropout, *form, name=name)

    def _resampled(
        self, h: Array, emb: Array, dropout_keys: Array | None, name: str, way: str
    ) -> Array:
        if self.biggan_updown:
            return self._block(h.shape[-1], name, way)(h, emb, dropout_keys)
        return {"down": Downsample, "up": Upsample}[way](self._type, name=name)(h)

    def _attended(self, h: Array, name: str) -> Array:
        form = self.qkv_order == "heads_qkv", self.rescale_residual, self._type
        attention = self._maybe_remat(Attention)
        return attention(self._heads(h.shape[-1]), self.norm_groups, *form, name=name)(h)

    def _embed(self, noise: Array, labels: Array | None, num_labels: int) -> Array:
        """Embedding [B, 4 channels] of noise level [B] and, if num_labels is not 0, label [B].

        It is float32, as `NoiseEmbedding`.
        """
        position = logsnr_position(noise) if self.noise_input == "logsnr" else noise
        emb = NoiseEmbedding(self.channels, self._type, name="logsnr_embedding")(position)
        if not num_labels:
            return emb
        if labels is None:
            raise ValueError(f"labels are missing: this network of {num_labels} labels needs them")
        embed = LabelEmbedding(num_labels, emb.shape[-1], name="label_embedding")
        return emb + embed(labels)

    def _down(self, h: Array, emb: Array, dropout_keys: Array | None) -> tuple[Array, list[Array]]:
        """The middle features, and the skip features for the upsampling half, in order."""
        h = Conv(self.widths[0], 3, dtype=self._type, name="conv_in")(h.astype(self._type))
        skips = [h]
        for level, channels in enumerate(self.widths):
            for i in range(self.num_blocks):
                h = self._block(channels, f"down_{level}_{i}")(h, emb, dropout_keys)
                if h.shape[1] in self.attention_resolutions:
                    h = self._attended(h, f"down_{level}_{i}_attention")
                skips.append(h)
            if level < len(self.widths) - 1:
                h = self._resampled(h, emb, dropout_keys, f"down_{level}", "down")
                skips.append(h)
        h = self._block(self.widths[-1], "middle_0")(h, emb, dropout_keys)
        h = self._attended(h, "middle_attention")
        return self._block(self.widths[-1], "middle_1")(h, emb, dropout_keys), skips

    def _normed_out(self, h: Array) -> Array:
        return ops.silu(GroupNorm(self.norm_groups, name="norm_out")(h)).astype(jnp.float32)

    def _check(self, z: Array) -> None:
        """Raises ValueError unless z's shape and these arguments are compatible."""
        for name, allowed in (("qkv_order", QKV_ORDERS), ("noise_input", NOISE_INPUTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {allowed}")
        halvings = 2 ** (len(self.channel_mult) - 1)
        if z.ndim != 4 or z.shape[1] % halvings or z.shape[2] % halvings:
            raise ValueError(
                f"images of shape {z.shape[1:]}: {len(self.channel_mult)} resolutions need "
                f"[H, W, C] with H and W multiples of {halvings}; change channel_mult"
            )
        sizes = [z.shape[1] >> level for level in range(len(self.channel_mult))]
        for height in self.attention_resolutions:
            if height not in sizes:
                raise ValueError(
                    f"attention_resolutions has {height}: choose from the heights {sizes}"
                )
        for channels, size in zip(self.widths, sizes, strict=True):
            if channels % self.norm_groups:
                raise ValueError(
                    f"norm_groups={self.norm_groups}: need a divisor of the {channels} channels"
                )
            attends = size in self.attention_resolutions or size == sizes[-1]
            if attends and channels % (self.num_heads or self.head_channels):
                raise ValueError(
                    f"num_heads={self.num_heads}, head_channels={self.head_channels}: need a "
                    f"divisor of the {channels} channels of attention at {size} x {size}"
                )
