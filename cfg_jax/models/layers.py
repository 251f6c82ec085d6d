"""Layers of the networks: embeddings, dense layers, convolutions, norm and dropout.

    AdaGN(h, emb) = GroupNorm(h) * (1 + scale) + shift,   scale, shift = Linear(SiLU(emb))

Parameters and normalisation statistics are float32; `dtype` is the type of convolutions and matrix
products. Dropout has one key per example, so a step does not depend on how its batch is split over
devices. `blocks` builds ADM's blocks from them.

Source: Dhariwal & Nichol 2021 (ADM), sections 3 and 3.1.
"""

import math
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from cfg_jax.models import ops, products

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
    """h W + b: [..., F] to [..., features], in `dtype`; b is added in float32 before rounding."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (h.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,))
        return ops.add_bias(h.astype(self.dtype) @ products.rounded(kernel, self.dtype), bias)


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

    The result is float32, so that the gradients of all blocks are summed in float32.
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
    order: the sums over a part are fused with the operation that makes it. `input_bias`, [B, C] or
    [1, C], is added to h: it changes the coefficients only.
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
        b = jnp.zeros((1, channels)) if input_bias is None else input_bias
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

        # Fused into a convolution, the random bits would dominate its compile time for a TPU.
        kept = jax.lax.optimization_barrier(jax.vmap(draw)(keys))
        return jnp.where(kept, h / (1 - self.rate), 0).astype(h.dtype)
