"""Residual and attention blocks of ADM's networks.

    h + Conv(Dropout(SiLU(AdaGN(Conv(SiLU(GroupNorm(h))), emb))))
    h + Linear(softmax(q k^T / sqrt(d)) v),   q, k, v = Linear(GroupNorm(h))

Every choice that ADM compares is an argument, and ADM's own choice is its default. The last layer
of every residual branch is initialised to zero. `layers` has the parts, `ops` the operations.

Source: Dhariwal & Nichol 2021 (ADM), sections 3 and 3.1.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from cfg_jax.models import attention, ops
from cfg_jax.models.layers import Conv, Dense, Dropout, Dtype, GroupNorm, zeros

Array = jax.Array


class Downsample(nn.Module):
    """A 3 x 3 convolution with stride 2: [B, H, W, C] to [B, H/2, W/2, C]."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        # "SAME" would pad one side only and shift the image by half a pixel at every level.
        return Conv(h.shape[-1], 3, stride=2, dtype=self.dtype, name="conv")(h)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3 x 3 convolution."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        return Conv(h.shape[-1], 3, doubled=True, dtype=self.dtype, name="conv")(h)


class ResBlock(nn.Module):
    """h + Conv(Dropout(SiLU(AdaGN(Conv(SiLU(GroupNorm(h))), emb)))), both terms resampled.

    BigGAN's residual block as ADM uses it: `resample` acts between activation and convolution, and
    on the skip.

    Args:
      adagn: True: emb scales and shifts the second norm. False: emb is added before a plain norm.
      rescale: whether to divide the sum by sqrt(2).

    The call takes h [B, H, W, C], or a tuple of arrays to concatenate along C, since the way up
    gives features and skip features; emb [B, E] of noise level and label; dropout_keys [B] or None.
    """

    channels: int
    norm_groups: int
    dropout: float = 0.0
    resample: str | None = None
    adagn: bool = True
    rescale: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, h: Array | tuple[Array, ...], emb: Array, dropout_keys: Array | None
    ) -> Array:
        conv3 = functools.partial(Conv, self.channels, 3, dtype=self.dtype)
        parts = h if isinstance(h, tuple) else (h,)
        h = skip = jnp.concatenate(parts, axis=-1)
        h = ops.silu(GroupNorm(self.norm_groups, name="norm_in")(h, parts=parts))
        if self.resample == "down":
            skip, h = ops.halve(skip), ops.halve(h)
        if self.resample == "up":
            skip = ops.double(skip)
        h, bias = conv3(doubled=self.resample == "up", name="conv_in").apart(h)
        width = 2 * self.channels if self.adagn else self.channels
        modulation = Dense(width, dtype=self.dtype, name="emb")(ops.silu(emb))
        norm = GroupNorm(self.norm_groups, name="norm_out")
        if self.adagn:
            h = norm(h, *jnp.split(modulation, 2, axis=-1), input_bias=bias[None])
        else:
            h = norm(h, input_bias=bias[None] + modulation.astype(jnp.float32))
        h = Dropout(self.dropout, name="dropout")(ops.silu(h), dropout_keys)
        h = conv3(kernel_init=zeros, name="conv_out")(h)
        if skip.shape[-1] != self.channels:
            skip = Conv(self.channels, 1, dtype=self.dtype, name="conv_skip")(skip)
        return residual_sum(skip, h, self.rescale)


def residual_sum(skip: Array, h: Array, rescale: bool) -> Array:
    """skip + h, divided by sqrt(2) if `rescale`, which keeps the variance."""
    return ops.fenced((skip + h) / math.sqrt(2) if rescale else skip + h)


class Attention(nn.Module):
    """h + Linear(softmax(q k^T / sqrt(d)) v) over all pixels, q, k, v = Linear(GroupNorm(h)).

    Args:
      heads_outermost: whether the 3C features of q, k, v are laid out (heads, 3, d) instead of
        (3, heads, d). The function class is the same; ADM's checkpoints use both layouts.
      rescale: whether to divide the sum by sqrt(2).
    """

    num_heads: int
    norm_groups: int
    heads_outermost: bool = False
    rescale: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        channels = h.shape[-1]
        normed = GroupNorm(self.norm_groups, name="norm")(h).reshape(len(h), -1, channels)
        form = self.num_heads, self.heads_outermost, self.dtype
        out = SelfAttention(*form, name="qkv")(normed)
        out = Dense(channels, kernel_init=zeros, dtype=self.dtype, name="proj")(out)
        # In the shape of `out`, the sum is fused with the projection.
        return residual_sum(h.reshape(out.shape), out, self.rescale).reshape(h.shape)


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(d)) v for every head, q, k, v = Linear(h): [B, L, C] to [B, L, C].

    With `heads_outermost` the 3C features of q, k, v are laid out (heads, 3, d) instead of
    (3, heads, d).
    """

    num_heads: int
    heads_outermost: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        channels = h.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (channels, 3 * channels))
        bias = self.param("bias", zeros, (3 * channels,))
        sizes = (self.num_heads, 3) if self.heads_outermost else (3, self.num_heads)
        kernel, bias = (array.reshape(*array.shape[:-1], *sizes, -1) for array in (kernel, bias))
        if self.heads_outermost:
            kernel, bias = (jnp.swapaxes(array, -3, -2) for array in (kernel, bias))
        out = attention.attend(h.astype(self.dtype), kernel, bias)
        return jnp.moveaxis(out.reshape(len(h), channels, -1), 1, 2)


class AttentionPool(nn.Module):
    """Attention with one query, the mean of all pixels: [B, H, W, C] to [B, F].

    Pixels and their mean first get learned positions. The Flax intermediate `pooled` [B, C] is the
    input of the last projection. Radford et al. 2021, arXiv 2103.00020, section 2.4, as in ADM.
    """

    features: int
    num_heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        channels = h.shape[-1]
        tokens = h.reshape(len(h), -1, channels)
        tokens = jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
        place = self.param("position", nn.initializers.normal(channels**-0.5), tokens.shape[1:])
        tokens = (tokens + place[None]).astype(self.dtype)
        out = SelfAttention(self.num_heads, dtype=self.dtype, name="qkv")(tokens)
        pooled = out[:, 0].astype(jnp.float32)
        self.sow("intermediates", "pooled", pooled)
        return Dense(self.features, name="proj")(pooled)
