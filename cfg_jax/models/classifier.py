"""ADM's classifier of noisy images.

The classifier is the trunk of the U-Net with attention pooling in place of the upsampling half.

Source: Dhariwal & Nichol 2021 (ADM), section 4 and table 12.
"""

import jax
from flax import linen as nn

from cfg_jax.models.blocks import AttentionPool
from cfg_jax.models.trunk import Trunk

Array = jax.Array


class Classifier(Trunk):
    """(z [B, H, W, C], logsnr [B]) -> logits [B, num_classes], float32.

    Labels are 0..num_classes - 1. `Trunk` has the other arguments; the attention pool has the same
    heads as the trunk.

    Examples:
      >>> network = cfg_jax.Classifier(
      ...     num_classes=10, channels=32, channel_mult=(1, 2), attention_resolutions=(8,)
      ... )
      >>> inputs = jnp.zeros((4, 16, 16, 3)), jnp.zeros(4)
      >>> jax.eval_shape(network.init_with_output, jax.random.key(0), *inputs)[0].shape
      (4, 10)
    """

    num_classes: int

    @nn.compact
    def __call__(self, z: Array, noise: Array, dropout_keys: Array | None = None) -> Array:
        """log p(label | z) up to a constant.

        noise [B] is logsnr, or the timestep if `noise_input` is "timestep". dropout_keys [B] has
        one key per example; None turns dropout off.
        """
        self._check(z)
        h, _ = self._down(z, self._embed(noise, None, 0), dropout_keys)
        heads = self._heads(h.shape[-1])
        pool = AttentionPool(self.num_classes, heads, self._type, name="pool")
        return pool(self._normed_out(h))
