"""Building blocks of ADM's networks.

    AdaGN(h, emb) = GroupNorm(h) * (1 + scale) + shift,   scale, shift = Linear(SiLU(emb))

Every choice that ADM compares is an argument, and ADM's own choice is its default. Parameters and
normalisation statistics are float32; `dtype` is the type of convolutions and matrix products.
Dropout has one key per example, so a step does not depend on how its batch is split over devices.
The last layer of every residual branch is initialised to zero.

Source: Dhariwal & Nichol 2021 (ADM), sections 3 and 3.1.
"""

import functools
import math
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from cfg_jax.models import ops

Array = jax.Array
Dtype = jnp.dtype

zeros = nn.initializers.zeros_init()


def sinusoidal_embedding(position: Array, features: int, max_period: float = 10_000.0) -> Array:
    """[cos(position f), sin(position f)], f geometric from 1 to 1 / max_period: [B] to [B, F].

    Vaswani et al. 2017, arXiv 1706.03762, section 3.5, in ADM's order.
    """
    half = features // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half) / half)
    angles = position[:, None] * frequencies[None, :]
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return jnp.pad(embedding, ((0, 0), (0, features % 2)))


def logsnr_position(logsnr: Array) -> Array:
    """1000 arctan(exp(-logsnr / 2)) / (pi / 2): 0 for data, 1000 for noise, linear in u.

    Salimans & Ho 2022, arXiv 2202.00512, input `inv_cos`, scaled to ADM's range of timesteps.
    """
    return 2000 / math.pi * jnp.arctan(jnp.exp(-logsnr / 2))


class Dense(nn.Module):
    """h W + b: [..., F] to [..., features]; the product in `dtype`, the sum with b in float32."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (h.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,))
        return ops.add_bias(h.astype(self.dtype) @ kernel.astype(self.dtype), bias)


class Conv(nn.Module):
    """A convolution [B, H, W, F] to [B, H', W', features], with `dtype` as in `Dense`.

    It keeps H and W unless there is a stride; `doubled` convolves the input doubled by
    `ops.double`.
    """

    features: int
    kernel_size: int
    stride: int = 1
    doubled: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Dtype = jnp.float32

    def __call__(self, h: Array) -> Array:
        return ops.add_bias(*self.apart(h))

    @nn.compact
    def apart(self, h: Array) -> tuple[Array, Array]:
        """The convolution without its bias, and the bias [features].

        A `GroupNorm` that follows adds the bias to its coefficients instead of to every pixel.
        """
        side = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (side, side, h.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,))
        h, kernel = h.astype(self.dtype), kernel.astype(self.dtype)
        if self.doubled:
            return ops.convolve_doubled(h, kernel), bias
        return ops.convolve(h, kernel, self.stride), bias


class NoiseEmbedding(nn.Module):
    """Linear(SiLU(Linear(sinusoidal(position)))): position [B] in 0..1000 to [B, 4 features].

    The result is float32: every block uses it, and its gradient is the sum over the blocks.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, position: Array) -> Array:
        h = sinusoidal_embedding(position, self.features)
        h = Dense(4 * self.features, dtype=self.dtype)(h)
        h = Dense(4 * self.features, dtype=self.dtype)(ops.silu(h))
        return h.astype(jnp.float32)


class LabelEmbedding(nn.Module):
    """A learned vector for each of num_labels labels, including the null label.

    NaN for any other label: a compiled program cannot raise, and clamping would hide the error.
    """

    num_labels: int
    features: int
    std: float = 1.0

    @nn.compact
    def __call__(self, labels: Array) -> Array:
        shape = (self.num_labels, self.features)
        table = self.param("embedding", nn.initializers.normal(self.std), shape)
        known = (labels >= 0) & (labels < self.num_labels)
        return jnp.where(known[:, None], table[jnp.where(known, labels, 0)], jnp.nan)


class GroupNorm(nn.Module):
    """((h - mean) / std * weight + bias) * (1 + scale) + shift, mean and std per group of channels.

    The call takes h [B, ..., C] and the vectors scale and shift, [B, C] each. Plain GroupNorm has
    neither (None), AdaGN has both. Either is one multiply-add per element with coefficients [B, C],
    so both cost the same and the backward pass stores no intermediate. Statistics are float32; the
    result has h's dtype.

    Two arguments save passes over memory. `parts` are arrays whose concatenation along C is h, in
    order: the sums over a part are fused with the operation that makes it. `input_bias` [C] is
    added to h: it changes the coefficients only.
    """

    groups: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        h: Array,
        scale: Array | None = None,
        shift: Array | None = None,
        *,
        parts: Sequence[Array] = (),
        input_bias: Array | None = None,
    ) -> Array:
        channels = h.shape[-1]
        weight = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", zeros, (channels,))
        b = jnp.zeros((1, channels)) if input_bias is None else input_bias[None]
        means, squares = zip(*map(ops.moments, parts or (h,)), strict=True)
        mean, square = jnp.concatenate(means, axis=-1), jnp.concatenate(squares, axis=-1)
        square = self._group_mean(square + 2 * b * mean + b**2)  # the mean of (h + b)^2
        mean = self._group_mean(mean + b)
        factor = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + self.epsilon) * weight[None]
        offset = bias[None] + (b - mean) * factor
        if scale is not None:
            gain = 1 + scale.astype(jnp.float32)
            factor, offset = factor * gain, offset * gain
        if shift is not None:
            offset = offset + shift.astype(jnp.float32)
        return ops.affine(h, factor, offset)

    def _group_mean(self, values: Array) -> Array:
        """The mean of each channel's group, repeated for every channel: [B, C] to [B, C]."""
        batch, channels = values.shape
        means = values.reshape(batch, self.groups, -1).mean(axis=2)
        return jnp.repeat(means, channels // self.groups, axis=1)


class Dropout(nn.Module):
    """Zeroes a fraction `rate` of the features h [B, ...] and rescales the rest.

    Identity without keys; each layer folds its module path into the keys [B].
    """

    rate: float

    @nn.compact
    def __call__(self, h: Array, keys: Array | None) -> Array:
        if keys is None or self.rate == 0:
            return h
        place = zlib.crc32("/".join(self.path).encode())

        def draw(key):
            return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - self.rate, h.shape[1:])

        # Fused into a convolution, random bits take most of a TPU's time to compile it.
        kept = jax.lax.optimization_barrier(jax.vmap(draw)(keys))
        return jnp.where(kept, h / (1 - self.rate), 0).astype(h.dtype)


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
            h = norm(h, *jnp.split(modulation, 2, axis=-1), input_bias=bias)
        else:
            summed = h.astype(jnp.float32) + modulation.astype(jnp.float32)[:, None, None]
            h = norm(summed.astype(self.dtype), input_bias=bias)
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
        out = ops.attend(h.astype(self.dtype), kernel, bias)
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
