"""ADM's U-Net, the denoiser of images.

The U-Net is the trunk followed by an upsampling half, which concatenates the trunk's features of
the same resolution.

Source: Dhariwal & Nichol 2021 (ADM), section 3 and table 11.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cfg_jax.models.layers import Conv, zeros
from cfg_jax.models.trunk import LABEL_INPUTS, Trunk

Array = jax.Array


class UNet(Trunk):
    """(z [B, H, W, C], logsnr [B], labels [B]) -> [B, H, W, out_channels], float32.

    Args:
      out_channels: number of outputs: C for one head, 2C for two, plus C for a learned variance.
      num_classes: number of labels, 0..num_classes - 1; 0 for no label input.
      label_input: "with_null" adds the null label num_classes, "without_null" has only the classes,
        "none" removes the label input.

    `Trunk` has the other arguments.

    Examples:
      >>> network = cfg_jax.UNet(
      ...     out_channels=3, channels=32, channel_mult=(1, 2), attention_resolutions=(8,)
      ... )
      >>> inputs = jnp.zeros((4, 16, 16, 3)), jnp.zeros(4), jnp.zeros(4, jnp.int32)
      >>> jax.eval_shape(network.init_with_output, jax.random.key(0), *inputs)[0].shape
      (4, 16, 16, 3)
    """

    out_channels: int
    num_classes: int = 0
    label_input: str = "with_null"

    @nn.compact
    def __call__(
        self,
        z: Array,
        noise: Array,
        labels: Array | None = None,
        dropout_keys: Array | None = None,
        low_res: Array | None = None,
    ) -> Array:
        """The network's output.

        Args:
          z: [B, H, W, C].
          noise: [B] logsnr, or the timestep if `noise_input` is "timestep".
          labels: [B] int32; ignored by a network without label input.
          dropout_keys: [B], one key per example; None turns dropout off.
          low_res: [B, h, w, C] images, enlarged bilinearly to H x W and concatenated to z; only for
            a network initialised with low_res.
        """
        self._check(z)
        if self.label_input not in LABEL_INPUTS:
            raise ValueError(f"label_input={self.label_input!r}: choose one of {LABEL_INPUTS}")
        if low_res is not None:
            enlarged = jax.image.resize(low_res, (*z.shape[:3], low_res.shape[-1]), "bilinear")
            z = jnp.concatenate([z, enlarged], axis=-1)
        emb = self._embed(noise, labels, self._num_labels)
        h, skips = self._down(z, emb, dropout_keys)
        for level, channels in reversed(list(enumerate(self.widths))):
            for i in range(self.num_blocks + 1):
                h = self._block(channels, f"up_{level}_{i}")((h, skips.pop()), emb, dropout_keys)
                if h.shape[1] in self.attention_resolutions:
                    h = self._attended(h, f"up_{level}_{i}_attention")
            if level:
                h = self._resampled(h, emb, dropout_keys, f"up_{level}", "up")
        conv = Conv(self.out_channels, 3, kernel_init=zeros, name="conv_out")
        return conv(self._normed_out(h))

    @property
    def _num_labels(self) -> int:
        if not self.num_classes or self.label_input == "none":
            return 0
        return self.num_classes + (self.label_input == "with_null")
