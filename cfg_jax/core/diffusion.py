"""Diffusion of data to a log-SNR, and conversions between eps, x and v.

    z = alpha x + sigma eps,   alpha^2 = sigmoid(logsnr),   sigma^2 = sigmoid(-logsnr)
    q(z_s | z_t, x) is Gaussian for logsnr_s > logsnr_t (`posterior`)

Every function is elementwise in data of any shape [B, ...]; every logsnr is [] or [B]. `schedules`
chooses the log-SNRs; networks and guidance provide eps_hat.

Source: Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", section 2.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.core.arguments import choice, data, flag, is_concrete, log_snrs, real, text_of
from cfg_jax.core.types import (
    Array,
    ArrayLike,
    Output,
    Predict,
    Prediction,
    eps_for,
    eps_of,
    own_x,
    with_eps,
    x_of,
)


def expand(value: ArrayLike, z: Array) -> Array:
    """`value` [], [B] or of z's rank, with trailing axes of size 1 to broadcast against z [B, ...].

    Raises ValueError if `value` has any other shape, or is no array and has no numbers.
    """
    if not isinstance(value, jax.Array | np.ndarray):  # arrays may be masks
        value = real("value", value)
    value = jnp.asarray(value)
    if value.ndim == 0 or value.ndim == z.ndim:
        return value
    if value.shape != z.shape[:1]:
        raise ValueError(
            f"value of shape {value.shape} for data of shape {z.shape}: give a scalar or "
            f"one number per example, [{z.shape[0]}]"
        )
    return value.reshape(value.shape + (1,) * (z.ndim - 1))


def each_logsnr(logsnr: ArrayLike, z: Array) -> Array:
    """logsnr as float32 [B] from [] or [B], for z [B, ...]; ValueError for any other shape."""
    logsnr = jnp.asarray(log_snrs("logsnr", logsnr), jnp.float32)
    if logsnr.shape not in [(), z.shape[:1]]:
        raise ValueError(
            f"logsnr of shape {logsnr.shape} for a batch of {z.shape[0]}: give one number, or one "
            "per example"
        )
    return jnp.broadcast_to(logsnr, z.shape[:1])


def alpha_sigma(logsnr: Array) -> tuple[Array, Array]:
    """alpha = sqrt(sigmoid(logsnr)), sigma = sqrt(sigmoid(-logsnr)); both of logsnr's shape.

    Raises ValueError unless logsnr has numbers from -80 to 80, or infinite ones.

    Examples:
      >>> alpha, sigma = cfg_jax.alpha_sigma(jnp.log(jnp.array([9.0, 1.0])))  # alpha^2 = 0.9, 0.5
      >>> print(np.asarray(alpha**2).round(3), np.asarray(alpha**2 + sigma**2).round(3))
      [0.9 0.5] [1. 1.]
    """
    logsnr = jnp.asarray(log_snrs("logsnr", logsnr), jnp.float32)
    return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


def diffuse(x: Array, eps: Array, logsnr: Array) -> Array:
    """z = alpha x + sigma eps, a sample of q(z | x) if eps is standard normal.

    Arrays [B, ...]; logsnr [] or [B]. Raises ValueError if x has no floats, as uint8 images, or if
    eps has another shape.

    Examples:
      >>> x, eps = jnp.array([[1.0]]), jnp.array([[-1.0]])
      >>> print(np.asarray(cfg_jax.diffuse(x, eps, jnp.log(9.0))).round(3))  # sqrt(0.9) - sqrt(0.1)
      [[0.632]]
    """
    x = data("x", x)
    if jnp.shape(eps) != x.shape:
        raise ValueError(
            f"eps of shape {jnp.shape(eps)}: need noise of the shape of x, {x.shape}; the order "
            "is diffuse(x, eps, logsnr)"
        )
    alpha, sigma = alpha_sigma(expand(logsnr, x))
    return alpha * x + sigma * eps


def posterior(
    z_t: Array, x: Array, logsnr_t: Array, logsnr_s: Array, *, logvar_interp: ArrayLike = 0.0
) -> tuple[Array, Array]:
    """Mean and log-variance of q(z_s | z_t, x), logsnr_s > logsnr_t: one step towards data.

        mean   = exp(logsnr_t - logsnr_s) (alpha_s / alpha_t) z_t + (1 - exp(logsnr_t - logsnr_s)) alpha_s x
        logvar = log(1 - exp(logsnr_t - logsnr_s)) + (1 - v) log sigma_s^2 + v log sigma_t^2

    v = `logvar_interp` interpolates geometrically between the posterior's own variance (v = 0) and
    the variance of q(z_t | z_s) (v = 1). Source: Ho & Salimans 2022, equations 3 and 4.

    Args:
      z_t, x: [B, ...].
      logsnr_t, logsnr_s: [] or [B].
      logvar_interp: the paper's v in [0, 1]; [], [B] or the shape of z_t.

    Returns mean [B, ...], and logvar that broadcasts against it; -inf if the log-SNRs are equal.
    Raises ValueError if x has no floats, or if concrete logsnr_s are below logsnr_t.

    Examples:
      >>> x, z = jnp.array([[1.0]]), jnp.array([[0.5]])
      >>> mean, logvar = cfg_jax.posterior(z, x, 0.0, jnp.log(9.0))
      >>> print(np.asarray(mean).round(3), np.asarray(jnp.exp(logvar)).round(3))  # variance (1 - 1/9) 0.1
      [[0.918]] 0.089
    """  # noqa: E501
    x = data("x", x)
    logsnr_t = expand(jnp.asarray(log_snrs("logsnr_t", logsnr_t), jnp.float32), z_t)
    logsnr_s = expand(jnp.asarray(log_snrs("logsnr_s", logsnr_s), jnp.float32), z_t)
    _check_order(logsnr_t, logsnr_s)
    interp = expand(logvar_interp, z_t)
    log_sigmoid = jax.nn.log_sigmoid
    log_ratio = logsnr_t - logsnr_s
    alpha_s, _ = alpha_sigma(logsnr_s)
    # alpha_s / alpha_t alone reaches 2e4 at the noise end; the product never exceeds one.
    weight_z = jnp.exp(log_ratio + (log_sigmoid(logsnr_s) - log_sigmoid(logsnr_t)) / 2)
    noise_share = -jnp.expm1(log_ratio)
    mean = weight_z * z_t + noise_share * alpha_s * x
    logvar = jnp.log(noise_share) + (1 - interp) * log_sigmoid(-logsnr_s)
    return mean, logvar + interp * log_sigmoid(-logsnr_t)


def _check_order(logsnr_t: Array, logsnr_s: Array) -> None:
    """Raises ValueError if a concrete step would go towards noise."""
    if not (is_concrete(logsnr_t) and is_concrete(logsnr_s)):
        return
    if np.any(np.asarray(logsnr_s) < np.asarray(logsnr_t)):
        raise ValueError(
            f"logsnr_t={text_of(logsnr_t)}, logsnr_s={text_of(logsnr_s)}: need logsnr_s of at "
            "least logsnr_t, since a step goes towards data"
        )


def predict_x(z: Array, eps_hat: Array, logsnr: Array) -> Array:
    """x_hat = (z - sigma eps_hat) / alpha. Arrays [B, ...]; logsnr [] or [B].

    Examples:
      >>> x, eps = jnp.array([[1.0]]), jnp.array([[-1.0]])
      >>> z = cfg_jax.diffuse(x, eps, 2.0)
      >>> print(np.asarray(cfg_jax.predict_x(z, eps, 2.0)).round(3))
      [[1.]]
    """
    alpha, sigma = alpha_sigma(expand(logsnr, z))
    return (z - sigma * eps_hat) / alpha


def x_for(z: Array, output: Output, logsnr: Array) -> Array:
    """x_hat of the output of a Predict or Denoiser: its own, or `predict_x`; ValueError for shapes.

    Arrays [B, ...]; logsnr [] or [B].
    """
    eps_hat, x_hat = eps_for(z, output), own_x(z, output)
    return predict_x(z, eps_hat, logsnr) if x_hat is None else x_hat


def moved(z: Array, output: Output, eps_hat: Array, logsnr: Array) -> Output:
    """`output` with eps_hat in place of its own; an x_hat that it has is moved along.

        x_hat - sigma / alpha (eps_hat - eps_hat of output)

    Unlike `predict_x` of the new eps_hat, this keeps the digits of x_hat where alpha is tiny.
    Arrays [B, ...]; logsnr [] or [B].
    """
    x_hat = own_x(z, output)
    if x_hat is not None:
        x_hat = x_hat - jnp.exp(-expand(logsnr, z) / 2) * (eps_hat - eps_of(output))
    return with_eps(output, eps_hat, x_hat)


def combined(
    z: Array, outputs: Sequence[Output], logsnr: Array, combine: Callable[..., Array]
) -> Output:
    """combine(eps_hat_1, eps_hat_2, ...), a sum of outputs with weights that sum to 1.

    If the first output has x_hat, so has the result, by the same sum of x_hats. A learned variance
    comes from the first output. Arrays [B, ...]; logsnr [] or [B].
    """
    eps_hat, x_hat = combine(*map(eps_of, outputs)), x_of(outputs[0])
    if x_hat is not None:
        x_hat = combine(*(x_for(z, output, logsnr) for output in outputs))
    return with_eps(outputs[0], eps_hat, x_hat)


def predict_eps(z: Array, x_hat: Array, logsnr: Array) -> Array:
    """eps_hat = (z - alpha x_hat) / sigma. Arrays [B, ...]; logsnr [] or [B].

    Examples:
      >>> x, eps = jnp.array([[1.0]]), jnp.array([[-1.0]])
      >>> z = cfg_jax.diffuse(x, eps, 2.0)
      >>> print(np.asarray(cfg_jax.predict_eps(z, x, 2.0)).round(3))
      [[-1.]]
    """
    x_hat = data("x_hat", x_hat)
    alpha, sigma = alpha_sigma(expand(logsnr, z))
    return (z - alpha * x_hat) / sigma


def predict_v(x: Array, eps: Array, logsnr: Array) -> Array:
    """v = alpha eps - sigma x (Salimans & Ho 2022, arXiv 2202.00512). Arrays [B, ...].

    Examples:
      >>> x, eps = jnp.array([[1.0]]), jnp.array([[0.0]])
      >>> print(np.asarray(cfg_jax.predict_v(x, eps, jnp.log(9.0))).round(3))  # -sqrt(0.1)
      [[-0.316]]
    """
    x = data("x", x)
    alpha, sigma = alpha_sigma(expand(logsnr, x))
    return alpha * eps - sigma * x


def predict_eps_from_v(z: Array, v_hat: Array, logsnr: Array) -> Array:
    """eps_hat = sigma z + alpha v_hat. Arrays [B, ...]; logsnr [] or [B]."""
    alpha, sigma = alpha_sigma(expand(logsnr, z))
    return sigma * z + alpha * v_hat


def predict_eps_from_x_and_eps(z: Array, x_and_eps: Array, logsnr: Array) -> Array:
    """eps_hat = sigma (z - alpha x_head) + alpha^2 eps_head, the mean of two heads.

    In x this is x_hat = sigma^2 x_head + alpha^2 x(eps_head), so each head dominates where it is
    better conditioned. Salimans & Ho 2022, arXiv 2202.00512, section 4. z [B, ..., C]; x_and_eps
    [B, ..., 2C], x head first; logsnr [] or [B].
    """
    alpha, sigma = alpha_sigma(expand(logsnr, z))
    x_head, eps_head = jnp.split(x_and_eps, 2, axis=-1)
    return sigma * (z - alpha * x_head) + alpha**2 * eps_head


def from_x(z: Array, x_hat: Array, logsnr: Array) -> Prediction:
    """The `Prediction` of a network that gives x_hat. Arrays [B, ...]; logsnr [] or [B]."""
    return Prediction(predict_eps(z, x_hat, logsnr), x_hat=x_hat)


HEADS: dict[str, Callable[[Array, Array, Array], Output]] = {
    "eps": lambda z, output, logsnr: output,
    "x": from_x,
    "v": predict_eps_from_v,
    "x_and_eps": predict_eps_from_x_and_eps,
}
"""Functions (z [B, ...], output of the network, logsnr [B]) -> eps_hat or a `Prediction`."""


def as_predict(
    network: Callable[[Array, Array, Array], Array],
    prediction: str,
    *,
    learned_variance: bool = False,
) -> Predict:
    """A Predict from a network that outputs eps, x, v, or x and eps on 2C channels.

    From x it returns a `Prediction` with x_hat, otherwise eps_hat.

    Args:
      network: (z [B, ...], logsnr [B], labels [B]) -> output [B, ...].
      prediction: meaning of the output, one of `HEADS`.
      learned_variance: whether the last C output channels h encode the variance. The Predict then
        returns a `Prediction` with logvar_interp = (h + 1) / 2 (Nichol & Dhariwal 2021, arXiv
        2102.09672, section 3.1; the map from h is ADM's).

    Raises ValueError if `prediction` is unknown; the Predict does if the output of the network has
    another number of channels.

    Examples:
      >>> zero = cfg_jax.as_predict(lambda z, logsnr, labels: jnp.zeros_like(z), "v")
      >>> z = jnp.array([[2.0]])
      >>> print(np.asarray(zero(z, jnp.zeros(1), jnp.zeros(1, jnp.int32))).round(3))  # sigma z
      [[1.414]]
    """
    choice("prediction", prediction, HEADS)
    learned_variance = flag("learned_variance", learned_variance)
    head = HEADS[prediction]
    heads_and_variance = 1 + (prediction == "x_and_eps") + learned_variance

    def predict(z: Array, logsnr: Array, labels: Array) -> Output:
        output = network(z, logsnr, labels)
        wanted = (*z.shape[:-1], heads_and_variance * z.shape[-1])
        if output.shape != wanted:
            raise ValueError(
                f"the network's output has shape {output.shape}: prediction={prediction!r} with "
                f"learned_variance={learned_variance} needs {wanted}"
            )
        if not learned_variance:
            return head(z, output, logsnr)
        heads, exponent = jnp.split(output, [output.shape[-1] - z.shape[-1]], axis=-1)
        found = head(z, heads, logsnr)
        return Prediction(eps_of(found), (exponent + 1) / 2, x_of(found))

    return predict
