"""Sampling with a denoiser over a grid of log-SNRs.

    z_1 ~ N(0, I);   x_hat_t = (z_t - sigma_t eps_hat_t) / alpha_t;   z_{t+1} ~ step(z_t, x_hat_t)

A step rule is a function (key, z_t, x_hat, logsnr_t, logsnr_s) -> z_s from logsnr_t to the higher
logsnr_s; `sample` scans it over a grid. The paper's sampler is `ancestral_step`. At the last call
the step rule gets the last log-SNR twice and its result is discarded.

Source: Ho & Salimans 2022, Algorithm 2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cfg_jax.core import keys as keys_lib
from cfg_jax.core.diffusion import diffuse, posterior, predict_eps, predict_x
from cfg_jax.core.schedules import ascending
from cfg_jax.core.types import Array, ArrayLike, Denoiser, Key, Prediction, eps_of


def ancestral_step(
    key: Key,
    z_t: Array,
    x_hat: Array,
    logsnr_t: Array,
    logsnr_s: Array,
    *,
    logvar_interp: ArrayLike = 0.0,
    noise_temperature: ArrayLike = 1.0,
) -> Array:
    """z_s ~ N(mean, exp(logvar)) of q(z_s | z_t, x_hat): Ho & Salimans 2022, Algorithm 2.

    Args:
      key: [] or [B]; consumed.
      z_t, x_hat: [B, ...].
      logsnr_t, logsnr_s: [] or [B], logsnr_s > logsnr_t.
      logvar_interp: the paper's v; [], [B] or the shape of z_t. See `posterior`.
      noise_temperature: [], factor of the noise; below 1 it trades variety for fidelity, less well
        than guidance does (Dhariwal & Nichol 2021, appendix G).
    """
    mean, logvar = posterior(z_t, x_hat, logsnr_t, logsnr_s, logvar_interp=logvar_interp)
    noise = keys_lib.normal(keys_lib.per_example(key, z_t.shape[0]), z_t.shape)
    return mean + jnp.exp(logvar / 2) * noise_temperature * noise


def ddim_step(
    key: Key,
    z_t: Array,
    x_hat: Array,
    logsnr_t: Array,
    logsnr_s: Array,
    *,
    logvar_interp: ArrayLike = 0.0,
    noise_temperature: ArrayLike = 1.0,
) -> Array:
    """z_s = alpha_s x_hat + sigma_s eps, eps = (z_t - alpha_t x_hat) / sigma_t; no noise is drawn.

    eps is computed from x_hat, so it agrees with a clipped x_hat. Song et al. 2021, arXiv
    2010.02502, equation 12 with eta = 0. Arguments as in `ancestral_step`; key, logvar_interp and
    noise_temperature are unused.
    """
    return diffuse(x_hat, predict_eps(z_t, x_hat, logsnr_t), logsnr_s)


def sample(
    key: Key,
    denoiser: Denoiser | Callable[[Any], Denoiser],
    shape: tuple[int, ...],
    logsnrs: Array,
    *,
    step: Callable[..., Array] = ancestral_step,
    clip_x: bool = True,
    per_step: Any = None,
    **step_options,
) -> Array:
    """Algorithm 2 of Ho & Salimans 2022 as one `lax.scan`: T denoiser calls, T - 1 transitions.

    Args:
      key: [] or [B], one key per sample; consumed. Sample i depends on its own key only.
      denoiser: (z [B, ...], logsnr [B]) -> eps_hat [B, ...] or a `Prediction`, whose logvar_interp
        replaces that in step_options. With `per_step`, a function from a row to such a Denoiser.
      shape: shape [B, ...] of the batch.
      logsnrs: [T] ascending, from `logsnr_grid`.
      step: step rule (key [B], z_t [B, ...], x_hat [B, ...], logsnr_t [], logsnr_s [],
        **step_options) -> z_s [B, ...].
      clip_x: clip x_hat, after guidance, to [-1, 1], the range of image data.
      per_step: tree of arrays [T, ...], row t for call t. For a guidance weight w [T, B]:
        sample(key, lambda w: classifier_free_guidance(predict, labels, w, ...), ..., per_step=w).
      **step_options: keyword arguments of the step rule, e.g. logvar_interp.

    Returns x_hat at the last log-SNR, of `shape`. Raises ValueError if logsnrs is not a vector, if
    concrete logsnrs do not ascend, or if an array of `per_step` does not have T rows.
    """
    logsnrs = ascending(logsnrs)
    num_steps = logsnrs.shape[0]
    for leaf in jax.tree.leaves(per_step):
        if leaf.shape[:1] != (num_steps,):
            raise ValueError(f"per_step of shape {leaf.shape}: need {num_steps} rows, one per step")
    keys = keys_lib.per_example(key, shape[0])

    bind: Any = denoiser  # a Denoiser, or the function that makes one from a row

    def body(z_t: Array, inputs: tuple[Array, Array, Array, Any]) -> tuple[Array, None]:
        t, logsnr_t, logsnr_s, row = inputs
        denoise: Denoiser = bind if per_step is None else bind(row)
        output = denoise(z_t, jnp.broadcast_to(logsnr_t, shape[:1]))
        x_hat = predict_x(z_t, eps_of(output), logsnr_t)
        x_hat = jnp.clip(x_hat, -1.0, 1.0) if clip_x else x_hat
        options = dict(step_options)
        if isinstance(output, Prediction):
            options["logvar_interp"] = output.logvar_interp
        z_s = step(keys_lib.fold_in(keys, t), z_t, x_hat, logsnr_t, logsnr_s, **options)
        return jnp.where(t == num_steps, x_hat, z_s), None

    z_1 = keys_lib.normal(keys_lib.fold_in(keys, 0), shape)
    # One body for all T calls compiles the network once. The last call steps to its own log-SNR,
    # and that step is discarded.
    next_logsnrs = jnp.append(logsnrs[1:], logsnrs[-1])
    steps = jnp.arange(1, num_steps + 1), logsnrs, next_logsnrs, per_step
    x_hat, _ = jax.lax.scan(body, z_1, steps)
    return x_hat
