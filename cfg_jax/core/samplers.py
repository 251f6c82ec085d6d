"""Sampling with a denoiser over a grid of log-SNRs.

    z_1 ~ N(0, I);   x_hat_t = (z_t - sigma_t eps_hat_t) / alpha_t;   z_{t+1} ~ step(z_t, x_hat_t)

A step rule is a function (key, z_t, x_hat, logsnr_t, logsnr_s) -> z_s from logsnr_t to the higher
logsnr_s; `sample` scans it over a grid. The paper's sampler is `ancestral_step`. At the last call
the step rule gets the last log-SNR twice and its result is discarded. A `plans.Plan` has a row of
coefficients per call in place of a grid and a step rule, for every other solver.

Source: Ho & Salimans 2022, Algorithm 2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import finite, flag, function, is_concrete, number, shape_of
from cfg_jax.core.diffusion import diffuse, posterior, predict_eps, x_for
from cfg_jax.core.plans import Plan
from cfg_jax.core.schedules import ascending
from cfg_jax.core.types import (
    Array,
    ArrayLike,
    Denoiser,
    Guided,
    Key,
    Output,
    learned_variance,
    x_of,
)


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

    Raises ValueError unless logvar_interp is finite and noise_temperature a number of at least 0.

    Examples:
      >>> key, z, x_hat = jax.random.key(0), jnp.array([[0.5]]), jnp.array([[1.0]])
      >>> z_s = cfg_jax.ancestral_step(key, z, x_hat, 0.0, 2.0, noise_temperature=0.0)
      >>> bool(jnp.allclose(z_s, cfg_jax.posterior(z, x_hat, 0.0, 2.0)[0]))
      True
    """
    finite("logvar_interp", logvar_interp)
    mean, logvar = posterior(z_t, x_hat, logsnr_t, logsnr_s, logvar_interp=logvar_interp)
    number("noise_temperature", noise_temperature, "a finite number, 0 or more", 0)
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

    Examples:
      >>> x, eps = jnp.array([[1.0]]), jnp.array([[-1.0]])
      >>> z_s = cfg_jax.ddim_step(None, cfg_jax.diffuse(x, eps, 0.0), x, 0.0, 2.0)
      >>> bool(jnp.allclose(z_s, cfg_jax.diffuse(x, eps, 2.0), atol=1e-6))
      True
    """
    return diffuse(x_hat, predict_eps(z_t, x_hat, logsnr_t), logsnr_s)


class Call(NamedTuple):
    """One denoiser call of a sampler, as `record` sees it.

    z, next_z: [B, ...], the state before and after the call; after the last one x_hat.
    logsnr: [].
    x_raw, x_hat: [B, ...], guided x_hat before and after clipping.
    state: state of a `Guided`.

    Examples:
      >>> _, logsnrs = cfg_jax.sample(
      ...     jax.random.key(0),
      ...     lambda z, logsnr: jnp.zeros_like(z),
      ...     (2, 1),
      ...     jnp.array([-2.0, 2.0]),
      ...     record=lambda call: call.logsnr,
      ... )
      >>> print(logsnrs)
      [-2.  2.]
    """

    z: Array
    next_z: Array
    logsnr: Array
    x_raw: Array
    x_hat: Array
    state: Any


def sample(
    key: Key,
    denoiser: Denoiser | Guided | Callable[[Any], Denoiser],
    shape: tuple[int, ...],
    logsnrs: Array | Plan,
    *,
    step: Callable[..., Array] = ancestral_step,
    clip_x: bool | Callable[[Array], Array] = True,
    z_init: Array | None = None,
    per_step: Any = None,
    record: Callable[[Call], Any] | None = None,
    **step_options,
) -> Any:
    """Samples by one `lax.scan` over denoiser calls: Ho & Salimans 2022, Algorithm 2, or a `plan`.

    A grid makes T calls and T - 1 transitions of `step`. A plan makes one call per row, and its
    solver takes the place of `step`.

    Args:
      key: [] or [B], one key per sample; consumed. Sample i depends on its own key only.
      denoiser: (z [B, ...], logsnr [B]) -> eps_hat [B, ...] or a `Prediction`, whose logvar_interp
        replaces that in step_options; or a `Guided`. With `per_step`, a function from a row to such
        a Denoiser.
      shape: shape [B, ...] of the batch.
      logsnrs: [T] ascending, from `logsnr_grid`; or a `Plan`, which ignores a learned variance.
      step: step rule (key [B], z_t [B, ...], x_hat [B, ...], logsnr_t [], logsnr_s [],
        **step_options) -> z_s [B, ...]; for a grid.
      clip_x: clip x_hat, after guidance, to [-1, 1], the range of image data; or another function
        of x_hat, as from `dynamic_threshold`.
      z_init: [B, ...], the first z; None draws N(0, I).
      per_step: tree of arrays [T, ...], row t for call t. For a guidance weight w [T, B]:
        sample(key, lambda w: classifier_free_guidance(predict, labels, w, ...), ..., per_step=w).
      record: function of a `Call` that gives a tree of arrays, such as `telemetry.measure`; the
        result is then (samples, tree with a leading axis [T]).
      **step_options: keyword arguments of the step rule, e.g. logvar_interp.

    Returns x_hat at the last log-SNR, of `shape`. Raises ValueError if shape does not have integers
    of at least 1, if logsnrs is not a vector, if concrete logsnrs do not ascend, if an array of
    `per_step` or of the guidance does not have T rows, if z_init has another shape, if an argument
    that must be a function is not callable, if eps_hat is not of `shape`, or if a plan meets a
    step_option.

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[-1.0], [1.0]], variance=0.01, weights=[1, 1])
      >>> labels = jnp.arange(1000) % 2
      >>> denoiser = cfg_jax.classifier_free_guidance(mixture.predict, labels, w=0.0, null_label=2)
      >>> logsnrs = cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 64)
      >>> x = cfg_jax.sample(jax.random.key(0), denoiser, (1000, 1), logsnrs, clip_x=False)
      >>> ones = np.asarray(x[labels == 1])
      >>> print(ones.mean().round(1), ones.std().round(1))
      1.0 0.1
    """
    shape = shape_of(shape, "the shape [B, ...] of a batch")
    if not callable(clip_x):
        clip_x = flag("clip_x", clip_x)
    function("step", step, "such as cfg_jax.ancestral_step or cfg_jax.ddim_step")
    guided = _as_guided(denoiser, per_step)
    logsnrs, rows, memory, move = _solver(logsnrs, shape, step, step_options)
    num_calls = logsnrs.shape[0]
    for leaf in jax.tree.leaves(guided.rows):
        if jnp.shape(leaf)[:1] != (num_calls,):
            name = "guidance" if per_step is None else "per_step"
            unit = "call" if per_step is None else "step"
            raise ValueError(
                f"{name} of shape {jnp.shape(leaf)}: need {num_calls} rows, one per {unit}"
            )
    if z_init is not None and z_init.shape != shape:
        raise ValueError(f"z_init of shape {z_init.shape}: need {shape}")
    keys = keys_lib.per_example(key, shape[0])
    starts_at = float(logsnrs[0]) if is_concrete(logsnrs) else 0.0
    limit = clip_x if callable(clip_x) else _CLIPS[clip_x]

    def body(carry: tuple, inputs: tuple) -> tuple[tuple, Any]:
        z, memory, state = carry
        t, logsnr, row, guidance_row = inputs
        output, state = guided.denoise(z, jnp.broadcast_to(logsnr, shape[:1]), guidance_row, state)
        _check_start(starts_at, output)
        x_raw = x_for(z, output, logsnr)
        x_hat = limit(x_raw)
        now = keys_lib.fold_in(keys, t)
        next_z, memory = move(now, row, z, memory, x_hat, output, t == num_calls)
        call = Call(z, next_z, logsnr, x_raw, x_hat, state)
        return (next_z, memory, state), None if record is None else record(call)

    z = keys_lib.normal(keys_lib.fold_in(keys, 0), shape) if z_init is None else z_init
    # One body for all calls compiles the network once. The last row returns x_hat.
    calls = jnp.arange(1, num_calls + 1), logsnrs, rows, guided.rows
    (x_hat, _, _), recorded = jax.lax.scan(body, (z, memory, guided.init(shape)), calls)
    return x_hat if record is None else (x_hat, recorded)


_LEAST_WITHOUT_X = -40.0  # float32 errors of eps_hat, 6e-8, exceed 30 in x_hat below


def _check_start(logsnr: float, output: Output) -> None:
    """Raises ValueError for a grid that begins where the output does not determine x_hat."""
    if logsnr < _LEAST_WITHOUT_X and x_of(output) is None:
        raise ValueError(
            f"logsnrs begin at {logsnr:g}, where eps_hat does not determine x_hat: return a "
            f"Prediction with x_hat, or begin at {_LEAST_WITHOUT_X:g} or above"
        )


_CLIPS: dict[bool, Callable[[Array], Array]] = {
    True: lambda x: jnp.clip(x, -1.0, 1.0),
    False: lambda x: x,
}


def _as_guided(denoiser: Any, per_step: Any) -> Guided:
    """A Denoiser, or a function from a row to one, as a `Guided` without state."""
    if isinstance(denoiser, Guided):
        if per_step is not None:
            raise ValueError("per_step with a Guided, which has its own rows: omit it")
        return denoiser
    form = "(z, logsnr) -> eps_hat, as of `classifier_free_guidance`"
    function("denoiser", denoiser, form, takes=2 if per_step is None else None)
    bind = (lambda row: denoiser) if per_step is None else denoiser
    return Guided(
        lambda z, logsnr, row, state: (bind(row)(z, logsnr), state), per_step, lambda shape: ()
    )


def _solver(
    logsnrs: Array | Plan, shape: tuple[int, ...], step: Callable, options: dict[str, Any]
) -> tuple[Array, Any, tuple, Callable]:
    """(logsnrs [T], rows [T, ...], memory before the first call, move).

    move(keys, row, z, memory, x_hat, output, is_last) -> (z, memory) after a call.
    """
    if isinstance(logsnrs, Plan):
        if step is not ancestral_step or options:
            names = ", ".join(["step"] * (step is not ancestral_step) + list(options))
            raise ValueError(f"{names} with a plan, whose solver replaces the step rule: omit it")
        plan = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), logsnrs)
        # anchor, x_1, x_2, x_3
        memory = (jnp.zeros(shape),) * 4
        return plan.logsnr, plan.matrix, memory, _move_by_row
    logsnrs = ascending(logsnrs)

    def move(keys, next_logsnr, z, memory, x_hat, output, is_last):
        logsnr, next_logsnr = next_logsnr
        chosen = dict(options)
        if (learned := learned_variance(output)) is not None:
            chosen["logvar_interp"] = learned
        z_s = step(keys, z, x_hat, logsnr, next_logsnr, **chosen)
        return jnp.where(is_last, x_hat, z_s), memory

    # The last call steps to its own log-SNR, and that step is discarded.
    return logsnrs, (logsnrs, jnp.append(logsnrs[1:], logsnrs[-1])), (), move


def _move_by_row(keys, row, z, memory, x_hat, output, is_last):
    """z and anchor as the sums of a row of a `Plan`; noise is drawn where the row has any."""
    anchor, *before = memory
    noise = jax.lax.cond(
        jnp.any(row[:, -1] != 0),
        lambda: keys_lib.normal(keys, z.shape),
        lambda: jnp.zeros(z.shape),
    )
    terms = (z, anchor, x_hat, *before, noise)
    z, anchor = (sum(row[i, j] * term for j, term in enumerate(terms)) for i in range(2))
    return z, (anchor, x_hat, *before[:-1])
