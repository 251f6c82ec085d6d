"""What do the modules pass to each other?

    Predict  = (z [B, ...], logsnr [B], labels [B]) -> eps_hat [B, ...]    parameters bound
    Denoiser = (z [B, ...], logsnr [B])             -> eps_hat [B, ...]    labels and guidance bound

Networks and exact oracles become a Predict; guidance turns a Predict into a Denoiser; the loss
calls a Predict and a sampler scans a Denoiser. Nothing else crosses between those modules. Where
a network also learns the variance of its steps, a `Prediction` stands for eps_hat in both.

Shape letters: B batch, H W C image height, width and channels (images are NHWC; `...` where any
data shape will do), T sampling steps, K classes or mixture components, D devices.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Key = jax.Array
Predict = Callable[[Array, Array, Array], Array]
Denoiser = Callable[[Array, Array], Array]


class Prediction(NamedTuple):
    """An eps_hat and the learned variance of the step that follows it.

    eps_hat: [B, ...].
    logvar_interp: [B, ...], the exponent v of `posterior` for every element; 0 the lower and 1 the
      upper bound of the variance (Nichol & Dhariwal 2021, arXiv 2102.09672, equation 15).
    """

    eps_hat: Array
    logvar_interp: Array


def eps_of(output: Array | Prediction) -> Array:
    """The eps_hat of what a Predict or a Denoiser gave."""
    return output.eps_hat if isinstance(output, Prediction) else output


def with_eps(output: Array | Prediction, eps_hat: Array) -> Array | Prediction:
    """`output` with another eps_hat; a learned variance stays as it is."""
    return output._replace(eps_hat=eps_hat) if isinstance(output, Prediction) else eps_hat


def chosen(table: Array, labels: Array) -> Array:
    """table[i, labels[i]], such as log p(label | z) from that of every label: [B] from [B, K].

    NaN where there is no such column: inside a compiled program nothing can be raised.
    """
    known = (labels >= 0) & (labels < table.shape[1])
    column = jnp.where(known, labels, 0)[:, None]
    return jnp.where(known, jnp.take_along_axis(table, column, axis=1)[:, 0], jnp.nan)
