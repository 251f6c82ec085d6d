"""What is minimised in training?

    E ||eps_hat(z, label) - eps||^2,   z = alpha x + sigma eps,   label <- null with p_uncond

Ho & Salimans 2022, Algorithm 1, with the weightings of Salimans & Ho 2022 (arXiv 2202.00512)
beside the paper's own. Reduction over the batch and gradients are left to the caller.
"""

from collections.abc import Callable

import jax.numpy as jnp

from cfg_jax import keys as keys_lib
from cfg_jax.diffusion import diffuse, expand
from cfg_jax.guidance import drop_labels
from cfg_jax.schedules import CosineSchedule
from cfg_jax.types import Array, Key, Predict

WEIGHTINGS: dict[str, Callable[[Array], Array]] = {
    "eps": lambda logsnr: jnp.ones_like(logsnr),
    "x": lambda logsnr: jnp.exp(-logsnr),
    "v": lambda logsnr: 1 + jnp.exp(-logsnr),
    "truncated_snr": lambda logsnr: jnp.maximum(jnp.exp(-logsnr), 1.0),
}
"""Weight of ||eps - eps_hat||^2 that makes it the squared error of eps, of x, of v, or
max(snr, 1) times that of x, through ||eps - eps_hat||^2 = snr ||x - x_hat||^2."""


def diffusion_loss(
    key: Key,
    predict: Predict,
    x: Array,
    labels: Array,
    *,
    schedule: CosineSchedule,
    p_uncond: float,
    null_label: int,
    weighting: str = "eps",
) -> tuple[Array, dict[str, Array]]:
    """weight(logsnr) mean((eps_hat(z, label) - eps)^2), one number per example.

    u is uniform on [0, 1], so logsnr follows the schedule's density.

    Args:
      key: [] or, for draws that do not depend on the batch around an example, [B]; consumed.
      predict: (z, logsnr, labels) -> eps_hat, called once.
      x: [B, ...] clean data in [-1, 1].
      labels: [B] int32, none of them null_label.
      schedule: u -> logsnr.
      p_uncond: probability in [0, 1] of training an example without its label.
      null_label: the label that stands for "no label".
      weighting: one of `WEIGHTINGS`.

    Returns:
      The loss [B], mean over the data axes, and a dict of arrays [B]: `logsnr`, `dropped` (True
      where the label was), `eps_mse` (the unweighted error).

    Raises:
      ValueError: an unknown weighting, p_uncond outside [0, 1].
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting={weighting!r}: choose one of {', '.join(WEIGHTINGS)}")
    if not 0 <= p_uncond <= 1:
        raise ValueError(f"p_uncond={p_uncond}: a probability, between 0 and 1")
    label_keys, u_keys, eps_keys = keys_lib.split(keys_lib.per_example(key, x.shape[0]), 3)
    seen = drop_labels(label_keys, labels, p_uncond=p_uncond, null_label=null_label)
    logsnr = schedule(keys_lib.uniform(u_keys))
    eps = keys_lib.normal(eps_keys, x.shape)
    eps_hat = predict(diffuse(x, eps, logsnr), logsnr, seen)
    # The weight goes under the square: at logsnr_min it is 5e8, its root keeps float32 digits.
    error = expand(jnp.sqrt(WEIGHTINGS[weighting](logsnr)), x) * (eps_hat - eps)
    data_axes = tuple(range(1, x.ndim))
    aux = {
        "logsnr": logsnr,
        "dropped": seen == null_label,
        "eps_mse": jnp.mean((eps_hat - eps) ** 2, axis=data_axes),
    }
    return jnp.mean(error**2, axis=data_axes), aux
