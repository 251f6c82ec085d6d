"""What do the modules pass to each other?

    Predict  = (z [B, ...], logsnr [B], labels [B]) -> eps_hat [B, ...]    parameters bound
    Denoiser = (z [B, ...], logsnr [B])             -> eps_hat [B, ...]    labels and guidance bound

Networks and exact oracles become a Predict; guidance turns a Predict into a Denoiser; the loss
calls a Predict and a sampler scans a Denoiser. Nothing else crosses between those modules.

Shape letters: B batch, H W C image height, width and channels (images are NHWC; `...` where any
data shape will do), T sampling steps, K classes or mixture components, D devices.
"""

from collections.abc import Callable

import jax

Array = jax.Array
Key = jax.Array
Predict = Callable[[Array, Array, Array], Array]
Denoiser = Callable[[Array, Array], Array]
