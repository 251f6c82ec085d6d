"""Which pieces are ADM's networks made of?

    AdaGN(h, emb) = GroupNorm(h) (1 + scale) + shift,   scale, shift = Linear(SiLU(emb))

Parameters and normalisation statistics are float32; `dtype` is what convolutions and matrix
products compute in. Dropout draws from one key per example, so that a step does not depend on how
its batch is split over devices. The last layer of every residual branch starts at zero.

Source: Dhariwal & Nichol 2021 (ADM), sections 3 and 3.1.
"""

import math
import zlib

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array
Dtype = jnp.dtype

zeros = nn.initializers.zeros_init()


def sinusoidal_embedding(position: Array, features: int, max_period: float = 10_000.0) -> Array:
    """[cos(position f), sin(position f)], f geometric from 1 to 1 / max_period: [B] to [B, F].

    Vaswani et al. 2017, arXiv 1706.03762, section 3.5, in the order that ADM uses.
    """
    half = features // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half) / half)
    angles = position[:, None] * frequencies[None, :]
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return jnp.pad(embedding, ((0, 0), (0, features % 2)))


def logsnr_position(logsnr: Array) -> Array:
    """1000 arctan(exp(-logsnr / 2)) / (pi / 2): 0 for data, 1000 for noise, even in u.

    Salimans & Ho 2022, arXiv 2202.00512, `inv_cos` input; the factor gives ADM's range of steps.
    """
    return 2000 / math.pi * jnp.arctan(jnp.exp(-logsnr / 2))


class LogsnrEmbedding(nn.Module):
    """Linear(SiLU(Linear(sinusoidal(position(logsnr))))): [B] to [B, 4 features]."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, logsnr: Array) -> Array:
        h = sinusoidal_embedding(logsnr_position(logsnr), self.features)
        h = nn.Dense(4 * self.features, dtype=self.dtype)(h)
        return nn.Dense(4 * self.features, dtype=self.dtype)(nn.silu(h))


class LabelEmbedding(nn.Module):
    """A learned vector for each of num_classes labels and for the null label, num_classes.

    NaN for any other label: inside a compiled program nothing can be raised, and the nearest
    valid label would be a wrong answer that looks right.
    """

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, labels: Array) -> Array:
        table = self.param(
            "embedding", nn.initializers.normal(1.0), (self.num_classes + 1, self.features)
        )
        known = (labels >= 0) & (labels <= self.num_classes)
        return jnp.where(known[:, None], table[jnp.where(known, labels, 0)], jnp.nan)


class GroupNorm(nn.Module):
    """(h - mean) / std over groups of channels, times weight (1 + scale), plus bias and shift.

    Everything that follows the two statistics is one multiply-add per element, with coefficients
    [B, C]: the plain and the adaptive norm cost the same, and no intermediate is kept for the
    backward pass.

    Args of the call:
      h: [B, ..., C]; statistics in float32, result in h's dtype.
      scale, shift: [B, C] or None; AdaGN's two conditioning vectors.
    """

    groups: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, h: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        channels = h.shape[-1]
        weight = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", zeros, (channels,))
        # Reduced over pixels first: that keeps channels, the dimension that is contiguous, whole.
        pixels = tuple(range(1, h.ndim - 1))
        wide = h.astype(jnp.float32)
        mean = self._group_mean(jnp.mean(wide, axis=pixels))
        square = self._group_mean(jnp.mean(wide**2, axis=pixels))
        factor = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + self.epsilon) * weight[None]
        offset = bias[None] - mean * factor
        if scale is not None:
            gain = 1 + scale.astype(jnp.float32)
            factor, offset = factor * gain, offset * gain + shift.astype(jnp.float32)
        spread = (h.shape[0],) + (1,) * (h.ndim - 2) + (channels,)
        return (wide * factor.reshape(spread) + offset.reshape(spread)).astype(h.dtype)

    def _group_mean(self, values: Array) -> Array:
        """[B, C] to [B, C], each channel's value replaced by the mean of its group."""
        batch, channels = values.shape
        means = values.reshape(batch, self.groups, -1).mean(axis=2)
        return jnp.repeat(means, channels // self.groups, axis=1)


class Dropout(nn.Module):
    """Zeroes a share `rate` of the features and rescales the rest; identity without keys.

    Args of the call:
      h: [B, ...].
      keys: [B] keys or None; each layer folds in its own place in the network.
    """

    rate: float

    @nn.compact
    def __call__(self, h: Array, keys: Array | None) -> Array:
        if keys is None or self.rate == 0:
            return h
        place = zlib.crc32("/".join(self.path).encode())

        def draw(key):
            return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - self.rate, h.shape[1:])

        return jnp.where(jax.vmap(draw)(keys), h / (1 - self.rate), 0).astype(h.dtype)


def downsample(h: Array) -> Array:
    """Mean of 2 x 2 pixels: [B, H, W, C] to [B, H/2, W/2, C]."""
    batch, height, width, channels = h.shape
    return h.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def upsample(h: Array) -> Array:
    """Each pixel twice in both directions: [B, H, W, C] to [B, 2H, 2W, C]."""
    return jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)


class ResBlock(nn.Module):
    """h + Conv(Dropout(SiLU(AdaGN(Conv(SiLU(GroupNorm(h))), emb)))), both sides resampled alike.

    BigGAN's residual block as ADM uses it: `resample` acts between activation and convolution,
    and on the skip.

    Args of the call:
      h: [B, H, W, C].
      emb: [B, E] embedding of logsnr and label.
      dropout_keys: [B] keys or None.
    """

    channels: int
    norm_groups: int
    dropout: float = 0.0
    resample: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array, emb: Array, dropout_keys: Array | None) -> Array:
        conv3 = {"kernel_size": (3, 3), "dtype": self.dtype}
        resample = {None: lambda h: h, "down": downsample, "up": upsample}[self.resample]
        skip = resample(h)
        h = nn.silu(GroupNorm(self.norm_groups, name="norm_in")(h))
        h = nn.Conv(self.channels, name="conv_in", **conv3)(resample(h))
        modulation = nn.Dense(2 * self.channels, dtype=self.dtype, name="emb")(nn.silu(emb))
        scale, shift = jnp.split(modulation, 2, axis=-1)
        h = nn.silu(GroupNorm(self.norm_groups, name="norm_out")(h, scale, shift))
        h = Dropout(self.dropout, name="dropout")(h, dropout_keys)
        h = nn.Conv(self.channels, kernel_init=zeros, name="conv_out", **conv3)(h)
        if skip.shape[-1] != self.channels:
            skip = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="conv_skip")(skip)
        return skip + h


class Attention(nn.Module):
    """h + Linear(softmax(q k^T / sqrt(d)) v) over all pixels, q, k, v = Linear(GroupNorm(h)).

    Args of the call:
      h: [B, H, W, C].
    """

    num_heads: int
    norm_groups: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        batch, height, width, channels = h.shape
        normed = GroupNorm(self.norm_groups, name="norm")(h).reshape(batch, -1, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(normed)
        heads = qkv.reshape(batch, -1, 3, self.num_heads, channels // self.num_heads)
        out = jax.nn.dot_product_attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2])
        out = out.reshape(batch, height, width, channels)
        return h + nn.Dense(channels, kernel_init=zeros, dtype=self.dtype, name="proj")(out)
