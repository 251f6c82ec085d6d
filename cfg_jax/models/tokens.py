"""Layers on the tokens of an image [B, L, D], for `transformer`.

    x <- x + gate1 attention((1 + scale1) norm(x) + shift1)
    x <- x + gate2 mlp((1 + scale2) norm(x) + shift2),    all six from Linear(SiLU(time + label))

Parameters, norms, softmax and the sum x are float32; `dtype` is the type of the products. Two
layouts differ from the published weights and change no value. The features of q and k are stored
with the pairs that rotate apart, see `positions`. Hidden features of an MLP are padded to a
multiple of 128 with zero weights, whose gradients are 0, too.

Source: Peebles & Xie 2022, arXiv 2212.09748; Li & He 2025, arXiv 2511.13720.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from cfg_jax.models import attention, ops, positions, products
from cfg_jax.models.layers import Dense, Dropout, sinusoidal_embedding, zeros

Array = jax.Array

EPSILON = 1e-6
MULTIPLE = 128
"""Hidden features of an MLP are padded to a multiple of this, a TPU's number of lanes."""

xavier = nn.initializers.xavier_uniform()
small = nn.initializers.normal(0.02)


def mlp_width(width: int, kind: str) -> int:
    """Hidden features without padding: 4 width, and two thirds of it if they are gated."""
    return int(4 * width * 2 / 3) if kind == "swiglu" else 4 * width


def padded(features: int) -> int:
    """The smallest multiple of MULTIPLE that is not less."""
    return -(-features // MULTIPLE) * MULTIPLE


class Block(nn.Module):
    """Attention and MLP, each scaled, shifted and gated by the condition: see the module.

    The call takes x [B, L, D], the number of the block [], whether it has dropout [], the condition
    [B, D] and dropout_keys [B] or None. It returns (x, None), as a scan's body.

    Args:
      heads, mlp, norm, dropout, dtype: as for `Transformer`.
      grid: rows and columns of patches, and number of tokens before them; None without rotations.
    """

    heads: int
    mlp: str
    norm: str
    grid: tuple[int, int, int] | None
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Array, number: Array, dropping: Array, condition: Array, dropout_keys: Array | None
    ) -> tuple[Array, None]:
        width = x.shape[-1]
        if dropout_keys is not None:
            dropout_keys = jax.vmap(jax.random.fold_in, (0, None))(dropout_keys, number)
        drop = functools.partial(self._drop, dropping=dropping, keys=dropout_keys)
        modulation = Dense(6 * width, zeros, self.dtype, name="modulation")(condition)
        modulation = checkpoint_name(modulation, ops.KEPT)
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=1)
        h = Norm(self.norm, name="norm_attention")(x, shift1, scale1)
        h = self._attended(h.astype(self.dtype))
        h = checkpoint_name(Dense(width, xavier, self.dtype, name="proj")(h), ops.KEPT)
        h = drop("dropout_attention", h)
        x = x + scaled(h, gate1)
        h = Norm(self.norm, name="norm_mlp")(x, shift2, scale2)
        h = drop("dropout_mlp", self._hidden(h))
        kernel_init = functools.partial(_xavier, padded_axis=0, features=mlp_width(width, self.mlp))
        h = checkpoint_name(Dense(width, kernel_init, self.dtype, name="mlp_out")(h), ops.KEPT)
        return x + scaled(h, gate2), None

    def _drop(self, name: str, h: Array, dropping: Array, keys: Array | None) -> Array:
        """`Dropout` in the blocks that have it; the others draw no bits."""
        if keys is None or not self.dropout:
            return h
        layer = Dropout(self.dropout, name=name)
        return nn.cond(dropping, lambda m, h: m(h, keys), lambda m, h: h, layer, h)

    def _hidden(self, h: Array) -> Array:
        """The MLP's hidden features [B, L, M], M padded with zeros."""
        gated, features = self.mlp == "swiglu", mlp_width(h.shape[-1], self.mlp)
        kernel_init = functools.partial(_xavier, padded_axis=1, features=features)
        size = (1 + gated) * padded(features)
        if gated:
            layer = DenseParts(size, 2, kernel_init, self.dtype, own_products=True, name="mlp_in")
            return products.swiglu(*layer(h))
        h = checkpoint_name(Dense(size, kernel_init, self.dtype, name="mlp_in")(h), ops.KEPT)
        return nn.gelu(h.astype(jnp.float32), approximate=True).astype(self.dtype)

    def _attended(self, h: Array) -> Array:
        """softmax(q k^T / sqrt(d)) v of every head: [B, L, D] to [B, L, D].

        q and k are normalised and rotated first if there is a grid.
        """
        batch, length, width = h.shape
        parts = DenseParts(3 * width, 3, xavier, self.dtype, name="qkv")(h)
        q, k, v = ((part,) for part in parts)
        if self.grid:
            rows, columns, before = self.grid
            turn = positions.rotations(rows, columns, width // self.heads, before)
            q = HeadNorm(self.heads, self.dtype, name="norm_q")(*q, *turn)
            k = HeadNorm(self.heads, self.dtype, name="norm_k")(*k, *turn)

        def by_head(part: Array) -> Array:
            return jnp.swapaxes(part, 1, 2).reshape(batch, self.heads, -1, length)

        # Each half is transposed before they are joined: joining first costs a TPU another copy.
        joined = (jnp.concatenate([*map(by_head, halves)], axis=2) for halves in (q, k, v))
        out = attention.attend_heads(*joined).reshape(batch, width, length)
        return jnp.swapaxes(out, 1, 2)


class DenseParts(nn.Module):
    """`Dense` in a number of equal parts of its features, by `products.apart`."""

    features: int
    parts: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    own_products: bool = False

    @nn.compact
    def __call__(self, h: Array) -> tuple[Array, ...]:
        kernel = self.param("kernel", self.kernel_init, (h.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,))
        h = h.astype(self.dtype)
        return products.apart(h, kernel, bias, self.parts, self.own_products)


class HeadNorm(nn.Module):
    """RMS norm of every head, with weights shared by the heads, and rotation of its pairs.

    The call takes q or k, [B, L, D] with features (2, heads, d/2), and cosines and sines [L, d/2].
    It returns the halves of the features, [B, L, D/2] each: all first and all second elements of
    the pairs.
    """

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h: Array, cosines: np.ndarray, sines: np.ndarray) -> tuple[Array, Array]:
        pairs = cosines.shape[1]
        weight = self.param("scale", nn.initializers.ones_init(), (2 * pairs,))
        x, y = (half.astype(jnp.float32) for half in jnp.split(h, 2, axis=2))
        # Sums over the features of a head, and their way back, as products with zeros and ones.
        member = np.kron(np.eye(self.heads), np.ones((pairs, 1))).astype(np.float32)
        exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        square = exact(x**2 + y**2, member) / (2 * pairs)
        factor = exact(jax.lax.rsqrt(square + EPSILON), member.T)
        weights = (jnp.tile(half, (len(h), self.heads)) for half in jnp.split(weight, 2))
        x, y = (scaled(part * factor, each) for part, each in zip((x, y), weights, strict=True))
        cosines, sines = (np.tile(table, self.heads)[None] for table in (cosines, sines))
        turned = x * cosines - y * sines, y * cosines + x * sines
        return turned[0].astype(self.dtype), turned[1].astype(self.dtype)


class TimeEmbedding(nn.Module):
    """Linear(SiLU(Linear(sinusoidal(time)))): time [B] to [B, features], float32.

    Products are float32, also on a TPU: for times in 0..1 the features change slowly, and bfloat16
    has steps of 1/256 near 1.
    """

    features: int

    @nn.compact
    def __call__(self, time: Array) -> Array:
        with jax.default_matmul_precision("float32"):
            h = Dense(self.features, small)(sinusoidal_embedding(time, 256))
            return Dense(self.features, small)(ops.silu(h))


class Norm(nn.Module):
    """(1 + scale) norm(h) + shift in float32, for h [B, L, D], shift and scale [B, D].

    norm(h) is h / sqrt(mean h^2 + 1e-6) * weight ("rms") or (h - mean) / std ("layer"), over D.
    """

    kind: str

    @nn.compact
    def __call__(self, h: Array, shift: Array, scale: Array) -> Array:
        h, factor = h.astype(jnp.float32), 1 + scale.astype(jnp.float32)
        if self.kind == "layer":
            h = h - jnp.mean(h, axis=-1, keepdims=True)
        else:
            factor *= self.param("scale", nn.initializers.ones_init(), h.shape[-1:])[None]
        h = h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + EPSILON)
        return ops.affine(h, factor, shift.astype(jnp.float32))


def scaled(h: Array, factor: Array) -> Array:
    """factor h in float32, for h [B, L, D] and factor [B, D]."""
    factor = factor.astype(jnp.float32)
    return ops.affine(h.astype(jnp.float32), factor, jnp.zeros_like(factor))


def to_patches(z: Array, side: int) -> Array:
    """[B, H, W, C] to [B, N, side * side * C]: rows of patches, in each rows, columns, channels."""
    batch, height, width, channels = z.shape
    rows, columns = height // side, width // side
    z = z.reshape(batch * rows, side, columns, side * channels)
    return jnp.swapaxes(z, 1, 2).reshape(batch, rows * columns, side * side * channels)


def from_patches(h: Array, rows: int, columns: int, side: int) -> Array:
    """The inverse of `to_patches`."""
    h = h.reshape(len(h) * rows, columns, side, -1)
    return jnp.swapaxes(h, 1, 2).reshape(-1, rows * side, columns * side, h.shape[-1] // side)


def _xavier(key: Array, shape: Sequence[int], *, padded_axis: int, features: int) -> Array:
    """Xavier-uniform weights of the shape without padding, with zeros for the padding.

    The padded axis holds one or more groups of `features`, each padded by itself.
    """
    groups = shape[padded_axis] // padded(features)
    real = [*shape]
    real[padded_axis] = groups * features
    kernel = xavier(key, real)
    split = [*real[:padded_axis], groups, features, *real[padded_axis + 1 :]]
    margins = [(0, 0)] * 3
    margins[padded_axis + 1] = (0, padded(features) - features)
    return jnp.pad(kernel.reshape(split), margins).reshape(shape)
