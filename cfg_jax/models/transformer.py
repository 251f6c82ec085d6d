"""Transformers on patches of pixels or latents: JiT, and DiT by other arguments.

    x <- x + gate1 attention((1 + scale1) norm(x) + shift1)
    x <- x + gate2 mlp((1 + scale2) norm(x) + shift2),    all six from Linear(SiLU(time + label))

Parameters, norms, softmax and the sum x are float32; `dtype` is the type of the products. The
blocks are one scan over stacked parameters, or two, before and after the in-context tokens are
inserted, so compile time does not grow with the depth.

Source: Li & He 2025, arXiv 2511.13720 (JiT); Peebles & Xie 2022, arXiv 2212.09748 (DiT).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cfg_jax.models import ops, positions
from cfg_jax.models.layers import Dense, LabelEmbedding, zeros
from cfg_jax.models.tokens import (
    Block,
    Norm,
    TimeEmbedding,
    from_patches,
    small,
    to_patches,
    xavier,
)

Array = jax.Array

CHOICES = {
    "mlp": ("swiglu", "gelu"),
    "norm": ("rms", "layer"),
    "noise_input": ("time", "timestep"),
}


class Transformer(nn.Module, kw_only=True):
    """(z [B, H, W, C], noise [B], labels [B]) -> [B, H, W, out_channels], float32.

    The defaults are JiT-B/16. DiT has mlp="gelu", norm="layer", bottleneck=0, rotary=False and
    in_context_tokens=0.

    The parameter `position` [N, D], the added table of positions, is constant: its gradient is 0.
    An optimizer with weight decay would shrink it, so exclude it from the decay. Hidden features of
    the MLP that are padding have zero weights, and their gradients are 0.

    Args:
      out_channels: number of outputs: C for one head, 2C for two or for a learned variance.
      num_classes: number of labels besides the null label num_classes; 0 for no label input.
      patch: side of a patch in pixels.
      depth: number of blocks.
      width: number of features D of a token, a multiple of 4.
      heads: number of attention heads.
      mlp: "swiglu", W3(SiLU(W1 h) * W2 h), or "gelu", W2(GELU(W1 h)).
      bottleneck: features to which a patch is projected before D; 0 projects to D at once.
      norm: "rms", with weights, or "layer", without.
      rotary: whether q and k are normalised per head (RMS, with weights) and rotated by the token's
        row and column; D / heads must then be a multiple of 4.
      in_context_tokens: number of tokens with the label's embedding, put before the image's.
      in_context_start: number of blocks before these tokens are inserted.
      noise_input: meaning of the call's second argument, "time" t in 0..1 or "timestep" in 0..1000.
        For "time", z is t x + (1 - t) n eps, on the straight path from noise
        to data, n its noise scale.
      dropout: dropout rate after attention's projection and before the MLP's last one, in the
        blocks depth//4 to 3 (depth//4) - 1.
      dtype: type of the matrix products, "float32" or "bfloat16".
      remat: whether the backward pass recomputes whole blocks to save memory. Otherwise it
        recomputes all but products and attention.

    Examples:
      >>> network = cfg_jax.Transformer(
      ...     out_channels=3, patch=4, depth=2, width=32, heads=4, in_context_tokens=0
      ... )
      >>> inputs = jnp.zeros((4, 16, 16, 3)), jnp.zeros(4), jnp.zeros(4, jnp.int32)
      >>> jax.eval_shape(network.init_with_output, jax.random.key(0), *inputs)[0].shape
      (4, 16, 16, 3)
    """

    out_channels: int
    num_classes: int = 0
    patch: int = 16
    depth: int = 12
    width: int = 768
    heads: int = 12
    mlp: str = "swiglu"
    bottleneck: int = 128
    norm: str = "rms"
    rotary: bool = True
    in_context_tokens: int = 32
    in_context_start: int = 4
    noise_input: str = "time"
    dropout: float = 0.0
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        z: Array,
        noise: Array,
        labels: Array | None = None,
        dropout_keys: Array | None = None,
    ) -> Array:
        """The network's output.

        Args:
          z: [B, H, W, C], H and W multiples of `patch`.
          noise: [B], see `noise_input`.
          labels: [B] int32 in 0..num_classes, others give NaN; ignored if num_classes is 0.
          dropout_keys: [B], one key per example; None turns dropout off.

        Raises ValueError if z or an argument is of a wrong shape or value, or labels are missing.
        """
        self._check(z, labels)
        rows, columns = (side // self.patch for side in z.shape[1:3])
        label = jnp.zeros((len(z), self.width))
        if self.num_classes and labels is not None:
            embed = LabelEmbedding(self.num_classes + 1, self.width, 0.02, name="label_embedding")
            label = embed(labels)
        time = TimeEmbedding(self.width, name="time_embedding")(noise)
        condition = ops.silu(time + label)
        x = self._embed(z, rows, columns)
        extra = self.in_context_tokens
        cut = self.in_context_start if extra else self.depth
        if cut:
            scan = self._scan("blocks", range(cut), (rows, columns, 0))
            x = scan(x, condition, dropout_keys)
        if extra:
            tokens = self.param("in_context", small, (extra, self.width))[None] + label[:, None]
            x = jnp.concatenate([tokens, x], axis=1)
            scan = self._scan("blocks_in_context", range(cut, self.depth), (rows, columns, extra))
            x = scan(x, condition, dropout_keys)[:, extra:]
        modulation = Dense(2 * self.width, zeros, self._type, name="modulation_out")(condition)
        h = Norm(self.norm, name="norm_out")(x, *jnp.split(modulation, 2, axis=1))
        h = Dense(self.patch**2 * self.out_channels, zeros, name="out")(h)
        return from_patches(h, rows, columns, self.patch)

    @property
    def _type(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)

    def _embed(self, z: Array, rows: int, columns: int) -> Array:
        """Tokens [B, N, D] of the patches, with their positions."""
        h = to_patches(z, self.patch)
        if self.bottleneck:
            kernel = self.param("bottleneck", xavier, (h.shape[-1], self.bottleneck))
            h = h.astype(self._type) @ kernel.astype(self._type)
        h = Dense(self.width, xavier, self._type, name="embed")(h).astype(jnp.float32)
        table = functools.partial(positions.position_table, rows, columns, self.width)
        position = self.param("position", lambda key: jnp.asarray(table()))
        return h + jax.lax.stop_gradient(position)[None]

    def _scan(
        self, name: str, span: range, grid: tuple[int, int, int]
    ) -> Callable[[Array, Array, Array | None], Array]:
        """(x, condition, dropout_keys) -> x, the blocks with numbers in `span`.

        Their parameters are [len(span), ...].
        """
        kept = () if self.remat else (ops.KEPT,)
        policy = jax.checkpoint_policies.save_only_these_names(*kept)
        block = nn.remat(Block, prevent_cse=False, policy=policy)
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast),
            length=len(span),
        )
        number, quarter = np.asarray(span), self.depth // 4
        dropping = (number >= quarter) & (number < 3 * quarter)
        form = self.heads, self.mlp, self.norm, grid if self.rotary else None
        blocks = scanned(*form, self.dropout, self._type, name=name)
        return lambda x, *given: blocks(x, jnp.asarray(number), jnp.asarray(dropping), *given)[0]

    def _check(self, z: Array, labels: Array | None) -> None:
        """Raises ValueError unless the inputs and these arguments are compatible."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {allowed}")
        if z.ndim != 4 or z.shape[1] % self.patch or z.shape[2] % self.patch:
            raise ValueError(
                f"images of shape {z.shape[1:]}: patches of {self.patch} x {self.patch} need "
                f"[H, W, C] with H and W multiples of {self.patch}; change patch"
            )
        divisor = self.heads * (4 if self.rotary else 1)
        if self.width % 4 or self.width % divisor:
            raise ValueError(
                f"width={self.width}: need a multiple of 4 and, with {self.heads} heads and "
                f"rotary={self.rotary}, of {divisor}; change width or heads"
            )
        if self.in_context_tokens and not 0 <= self.in_context_start < self.depth:
            raise ValueError(
                f"in_context_start={self.in_context_start}: need 0..{self.depth - 1}, since "
                f"there are {self.depth} blocks; or set in_context_tokens to 0"
            )
        if self.num_classes and labels is None:
            raise ValueError(
                f"labels are missing: this network of {self.num_classes + 1} labels needs them"
            )
