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

from cfg_jax.core import flow
from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import choice, data, function, labels_of, number, whole
from cfg_jax.core.diffusion import diffuse, expand, x_for
from cfg_jax.core.flow import FlowSchedule
from cfg_jax.core.guidance import drop_labels
from cfg_jax.core.likelihood import bits_per_dim, bound_term
from cfg_jax.core.types import (
    Array,
    ArrayLike,
    Key,
    Output,
    Predict,
    chosen,
    eps_for,
    learned_variance,
    own_x,
)

WEIGHTINGS: dict[str, Callable[[Array], Array]] = {
    "eps": lambda logsnr: jnp.ones_like(logsnr),
    "x": lambda logsnr: jnp.exp(-logsnr),
    "v": lambda logsnr: 1 + jnp.exp(-logsnr),
    "truncated_snr": lambda logsnr: jnp.maximum(jnp.exp(-logsnr), 1.0),
}
"""Weight of ||eps - eps_hat||^2 = snr ||x - x_hat||^2 that gives the squared error of eps, x or v,
or max(snr, 1) times the squared error of x. `weight_of` has "flow" too."""

WEIGHTING_NAMES = (*WEIGHTINGS, "flow")


def weight_of(
    weighting: str, logsnr: Array, schedule: Callable[[Array], Array], t_eps: float = 0.05
) -> Array:
    """Weight of ||eps - eps_hat||^2, of logsnr's shape; "flow" is `flow.weight` of the schedule.

    Raises ValueError if the name is unknown, or if "flow" meets a schedule that is no
    `FlowSchedule`.
    """
    if choice("weighting", weighting, WEIGHTING_NAMES) != "flow":
        return WEIGHTINGS[weighting](logsnr)
    if not isinstance(schedule, FlowSchedule):
        raise ValueError("weighting='flow' needs the noise scale of a cfg_jax.FlowSchedule")
    return flow.weight(logsnr, schedule.noise_scale, t_eps)


def squared_error(
    z: Array, output: Output, x: Array, eps: Array, logsnr: Array, weight: ArrayLike = 1.0
) -> Array:
    """weight mean((eps_hat - eps)^2), one number per example: [B].

    An output with x_hat is measured by snr (x_hat - x)^2, since at the noise end eps_hat has lost
    the digits of x_hat. Arrays [B, ...]; logsnr and weight are [B].
    """
    # The root of the weight, 5e8 at logsnr_min, goes inside the square for float32 precision.
    root = jnp.broadcast_to(jnp.sqrt(weight), logsnr.shape)
    eps_hat, x_hat = eps_for(z, output), own_x(z, output)
    if x_hat is None:
        error = expand(root, z) * (eps_hat - eps)
    else:
        error = expand(root * jnp.exp(logsnr / 2), z) * (x_hat - x)
    return jnp.mean(error**2, axis=tuple(range(1, error.ndim)))


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
    t_eps: float = 0.05,
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
      weighting: one of `WEIGHTINGS`, or "flow" with a `FlowSchedule`.
      vlb_weight: lambda of the hybrid loss, 0.001 in its paper; 0 leaves a variance untrained.
      vlb_steps: T, at least 2; for a discrete schedule, its number of timesteps.
      t_eps: smallest 1 - t of the "flow" weighting; 0 for no limit.

    Returns the loss [B], mean over the data axes, and a dict of arrays [B]: `logsnr`, `dropped`
    (whether the label is dropped), `eps_mse` (the unweighted error) and, if vlb_weight is above 0,
    `vlb` (bits per dimension).

    Raises ValueError if weighting is unknown, p_uncond is outside [0, 1], vlb_weight is negative or
    not finite, vlb_steps is below 2, or vlb_weight is above 0 and predict returns no `Prediction`;
    if x has no floats, labels are not [B] integers, or eps_hat is not of x's shape.
    Source: Ho & Salimans 2022, Algorithm 1; Nichol & Dhariwal 2021, equation 16.

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[-1.0], [1.0]], variance=0.5, weights=[1, 1])
      >>> x, labels = mixture.draw(jax.random.key(0), jnp.arange(1000) % 2), jnp.arange(1000) % 2
      >>> loss, aux = cfg_jax.diffusion_loss(
      ...     jax.random.key(1),
      ...     mixture.predict,
      ...     x,
      ...     labels,
      ...     schedule=cfg_jax.cosine_schedule(),
      ...     p_uncond=0.1,
      ...     null_label=2,
      ... )
      >>> print(loss.shape, bool(loss.mean() < 1))  # eps_hat = 0 costs 1
      (1000,) True
    """
    _check(weighting, p_uncond, vlb_weight, vlb_steps, t_eps)
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
    weight = weight_of(weighting, logsnr, schedule, t_eps)
    loss = squared_error(z, output, x, eps, logsnr, weight)
    aux = {"logsnr": logsnr, "dropped": seen == null_label}
    aux["eps_mse"] = squared_error(z, output, x, eps, logsnr)
    if vlb_weight > 0:
        aux["vlb"] = _vlb(z, x, output, _learned(output, vlb_weight), u, schedule, vlb_steps)
        loss = loss + vlb_weight * aux["vlb"]
    return loss, aux


def _vlb(
    z: Array,
    x: Array,
    output: Output,
    interp: Array,
    u: Array,
    schedule: Callable[[Array], Array],
    num_steps: int,
) -> Array:
    """num_steps times the bound's term at u, bits/dim [B]; differentiable in logvar_interp only."""
    x_hat = jax.lax.stop_gradient(x_for(z, output, schedule(u)))
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

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[-1.0], [1.0]], variance=0.5, weights=[1, 1])
      >>> x, labels = mixture.draw(jax.random.key(0), jnp.arange(1000) % 2), jnp.arange(1000) % 2
      >>> schedule = cfg_jax.cosine_schedule()
      >>> loss, aux = cfg_jax.classifier_loss(
      ...     jax.random.key(1), mixture.log_posterior, x, labels, schedule=schedule
      ... )
      >>> print(bool(loss.mean() < np.log(2)), bool(aux["correct"].mean() > 0.5))
      True True
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


def _check(
    weighting: str, p_uncond: float, vlb_weight: float, vlb_steps: int, t_eps: float
) -> None:
    """Raises ValueError for an option of `diffusion_loss` outside its range."""
    choice("weighting", weighting, WEIGHTING_NAMES)
    number("t_eps", t_eps, "a number from 0 to 1", 0, 1)
    number("p_uncond", p_uncond, "a probability, from 0 to 1", 0, 1)
    allowed = "0 (no bound) or a positive number (the paper has 0.001)"
    number("vlb_weight", vlb_weight, allowed, 0)
    if vlb_weight > 0:
        whole("vlb_steps", vlb_steps, 2)


def _learned(output: Output, vlb_weight: float) -> Array:
    """logvar_interp; raises ValueError if the network has no learned variance."""
    if (logvar_interp := learned_variance(output)) is None:
        raise ValueError(
            f"vlb_weight={vlb_weight} for a network without a learned variance: use 0, or a "
            "predict that returns a Prediction with logvar_interp"
        )
    return logvar_interp
