"""Training losses of denoisers and of noisy classifiers.

    E ||eps_hat(z, label) - eps||^2,   z = alpha x + sigma eps,   label <- null with p_uncond
    + vlb_weight (bound on -log p(x) in bits/dim), which trains only the variance of a Prediction
    E -log p(label | z) for a classifier of noisy data, z from the same process

Sources: Ho & Salimans 2022, Algorithm 1; Salimans & Ho 2022 (arXiv 2202.00512) for weightings;
Nichol & Dhariwal 2021 (arXiv 2102.09672) for the hybrid loss, with its bound in `likelihood`;
Dhariwal & Nichol 2021 for the classifier. The caller reduces over the batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import data, function, labels_of, number, text_of, whole
from cfg_jax.core.diffusion import diffuse, expand, predict_x
from cfg_jax.core.guidance import drop_labels
from cfg_jax.core.likelihood import bits_per_dim, bound_term
from cfg_jax.core.types import Array, Key, Output, Predict, Prediction, chosen, eps_for, eps_of

WEIGHTINGS: dict[str, Callable[[Array], Array]] = {
    "eps": lambda logsnr: jnp.ones_like(logsnr),
    "x": lambda logsnr: jnp.exp(-logsnr),
    "v": lambda logsnr: 1 + jnp.exp(-logsnr),
    "truncated_snr": lambda logsnr: jnp.maximum(jnp.exp(-logsnr), 1.0),
}
"""Weight of ||eps - eps_hat||^2 = snr ||x - x_hat||^2 that gives the squared error of eps, x or v,
or max(snr, 1) times the squared error of x."""


def diffusion_loss(
    key: Key,
    predict: Predict,
    x: Array,
    labels: Array,
    *,
    schedule: Callable[[Array], Array],
    p_uncond: float,
    null_label: int,
    weighting: str = "eps",
    vlb_weight: float = 0.0,
    vlb_steps: int = 1000,
) -> tuple[Array, dict[str, Array]]:
    """weight(logsnr) mean((eps_hat(z, label) - eps)^2) + vlb_weight vlb, one number per example.

    u is uniform on [0, 1], so logsnr follows the schedule's density. vlb is T times `bound_term` at
    u, an unbiased estimate of the diffusion and decoder parts of the bound. Its gradient reaches
    only logvar_interp, because eps_hat is treated as data; x_hat is not clipped.

    Args:
      key: [] or [B], consumed; [B] keys make draws independent of the order of the batch.
      predict: (z, logsnr, labels) -> eps_hat or `Prediction`, called once.
      x: [B, ...] clean data in [-1, 1]; 8-bit levels k / 127.5 - 1 if vlb_weight is above 0.
      labels: [B] int32, without null_label.
      schedule: u -> logsnr.
      p_uncond: probability in [0, 1] of training an example without its label.
      null_label: the label that stands for "no label".
      weighting: one of `WEIGHTINGS`.
      vlb_weight: lambda of the hybrid loss, 0.001 in its paper; 0 leaves a variance untrained.
      vlb_steps: T, at least 2; for a discrete schedule, its number of timesteps.

    Returns the loss [B], mean over the data axes, and a dict of arrays [B]: `logsnr`, `dropped`
    (whether the label is dropped), `eps_mse` (the unweighted error) and, if vlb_weight is above 0,
    `vlb` (bits per dimension).

    Raises ValueError if weighting is unknown, p_uncond is outside [0, 1], vlb_weight is negative or
    not finite, vlb_steps is below 2, or vlb_weight is above 0 and predict returns no `Prediction`;
    if x has no floats, labels are not [B] integers, or eps_hat is not of x's shape.
    Source: Ho & Salimans 2022, Algorithm 1; Nichol & Dhariwal 2021, equation 16.
    """
    _check(weighting, p_uncond, vlb_weight, vlb_steps)
    x = data("x", x)
    labels = labels_of(labels, x.shape[0])
    function("predict", predict, "(z, logsnr, labels) -> eps_hat")
    function("schedule", schedule, "u -> logsnr, such as cfg_jax.cosine_schedule()")
    label_keys, u_keys, eps_keys = keys_lib.split(keys_lib.per_example(key, x.shape[0]), 3)
    seen = drop_labels(label_keys, labels, p_uncond=p_uncond, null_label=null_label)
    u = keys_lib.uniform(u_keys)
    logsnr = schedule(u)
    eps = keys_lib.normal(eps_keys, x.shape)
    z = diffuse(x, eps, logsnr)
    output = predict(z, logsnr, seen)
    # The root of the weight, 5e8 at logsnr_min, goes inside the square for float32 precision.
    root = expand(jnp.sqrt(WEIGHTINGS[weighting](logsnr)), x)
    loss = _mean_square(root * (eps_for(z, output) - eps))
    aux = {"logsnr": logsnr, "dropped": seen == null_label}
    aux["eps_mse"] = _mean_square(eps_of(output) - eps)
    if vlb_weight > 0:
        aux["vlb"] = _vlb(z, x, _learned(output, vlb_weight), u, schedule, vlb_steps)
        loss = loss + vlb_weight * aux["vlb"]
    return loss, aux


def _mean_square(error: Array) -> Array:
    """Mean square over all axes but the first: [B] from [B, ...]."""
    return jnp.mean(error**2, axis=tuple(range(1, error.ndim)))


def _vlb(
    z: Array,
    x: Array,
    output: Prediction,
    u: Array,
    schedule: Callable[[Array], Array],
    num_steps: int,
) -> Array:
    """num_steps times the bound's term at u, bits/dim [B]; differentiable in logvar_interp only."""
    x_hat = predict_x(z, jax.lax.stop_gradient(output.eps_hat), schedule(u))
    interp = output.logvar_interp
    nats = bound_term(z, x, x_hat, u, schedule=schedule, num_steps=num_steps, logvar_interp=interp)
    return num_steps * bits_per_dim(nats, x.shape)


def classifier_loss(
    key: Key,
    log_probs: Callable[[Array, Array], Array],
    x: Array,
    labels: Array,
    *,
    schedule: Callable[[Array], Array],
) -> tuple[Array, dict[str, Array]]:
    """-log p(label | z), z = alpha x + sigma eps at the log-SNR of a uniform u; one per example.

    Dhariwal & Nichol 2021 (ADM), section 4.3: the noise has the denoiser's training distribution.

    Args:
      key, x, schedule: as for `diffusion_loss`.
      log_probs: (z, logsnr) -> log p(label | z) for every label [B, K], called once.
      labels: [B] int32 in 0..K - 1.

    Returns the loss [B] in nats, and a dict of arrays [B]: `logsnr`, `correct` (whether the label
    is the most probable one). The loss is NaN for a label outside 0..K - 1. Raises ValueError if x
    has no floats, labels are not [B] integers, or log_probs returns another shape.
    """
    x = data("x", x)
    labels = labels_of(labels, x.shape[0])
    function("schedule", schedule, "u -> logsnr, such as cfg_jax.cosine_schedule()")
    u_keys, eps_keys = keys_lib.split(keys_lib.per_example(key, x.shape[0]))
    logsnr = schedule(keys_lib.uniform(u_keys))
    z = diffuse(x, keys_lib.normal(eps_keys, x.shape), logsnr)
    each = log_probs(z, logsnr)
    if jnp.ndim(each) != 2 or each.shape[0] != x.shape[0]:
        raise ValueError(f"log_probs of shape {jnp.shape(each)}: return [{x.shape[0]}, K]")
    loss = -chosen(each, labels)
    return loss, {"logsnr": logsnr, "correct": jnp.argmax(each, axis=1) == labels}


def _check(weighting: str, p_uncond: float, vlb_weight: float, vlb_steps: int) -> None:
    """Raises ValueError for an option of `diffusion_loss` outside its range."""
    if weighting not in list(WEIGHTINGS):
        raise ValueError(f"weighting={text_of(weighting)}: choose one of {', '.join(WEIGHTINGS)}")
    number("p_uncond", p_uncond, "a probability, from 0 to 1", 0, 1)
    allowed = "0 (no bound) or a positive number (the paper has 0.001)"
    number("vlb_weight", vlb_weight, allowed, 0)
    if vlb_weight > 0:
        whole("vlb_steps", vlb_steps, 2)


def _learned(output: Output, vlb_weight: float) -> Prediction:
    """The output; raises ValueError if the network has no learned variance."""
    if not isinstance(output, Prediction):
        raise ValueError(
            f"vlb_weight={vlb_weight} for a network without a learned variance: use 0, or a "
            "predict that returns a Prediction"
        )
    return output
