"""Measurements of guidance along a run of the sampler.

    x, measured = sample(key, guide(every, weights, watch=True), shape, plan, record=measure)
    telemetry = summarise(plan, weights.w, measured)

With c and u the eps_hat of both branches, their difference is the score of an implicit classifier,
c - u = -sigma grad_z log p(c | z). Along ancestral steps its log-probability can be summed, and so
can the log-weight that turns the samples into those of p(x | c)^(1 + w) p(x)^-w.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cfg_jax.core.diffusion import alpha_sigma, predict_x
from cfg_jax.core.plans import Plan
from cfg_jax.core.samplers import Call
from cfg_jax.core.types import Array, ArrayLike


class Telemetry(NamedTuple):
    """Numbers of every call [T] and sample [B]; calls that are not guided have gap 0, cosine 1.

    logsnr: [T] log-SNR of the calls.
    gap: [T, B] |c - u|; for exact branches sigma |grad log p(c | z)|.
    gap_ratio: [T, B] |c - u| / |c|.
    cosine: [T, B] of c and u.
    parallel: [T, B] cosine of x_c and x_c - x_u, the part that `apg` removes.
    saturation: [T, B] fraction of x_hat beyond [-1, 1] before clipping.
    std_ratio: [T, B] std(x_hat) / std(x_c), before clipping.
    log_prob: [T, B] log p(c | z) at the calls, minus its value at the first: nats, for ancestral
      steps; NaN from `Model.sample` with another solver. Its error falls as T^-1/2.
    log_weight: [T, B] log of the Feynman-Kac weight before each call, for ancestral steps and
      constant w, else NaN too. Samples with weights exp(log_weight[-1]) are those of
      p(x | c)^(1 + w) p(x)^-w.
      After Skreta et al. 2025, arXiv 2503.02819.

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[-1.0], [1.0]], variance=0.5, weights=[1, 1])
      >>> both = cfg_jax.branches(mixture.predict, jnp.array([0, 1]), null_label=2)
      >>> logsnrs, w = jnp.array([-2.0, 0.0, 2.0]), cfg_jax.weights([-2.0, 0.0, 2.0], 1.0)
      >>> guided = cfg_jax.guide(both, w, watch=True)
      >>> _, measured = cfg_jax.sample(jax.random.key(0), guided, (2, 1), logsnrs, record=measure)
      >>> summarise(logsnrs, w.w, measured).gap_ratio.shape
      (3, 2)
    """

    logsnr: np.ndarray
    gap: np.ndarray
    gap_ratio: np.ndarray
    cosine: np.ndarray
    parallel: np.ndarray
    saturation: np.ndarray
    std_ratio: np.ndarray
    log_prob: np.ndarray
    log_weight: np.ndarray


def measure(call: Call) -> dict[str, Array]:
    """Measurements of one call, [B] each, for `record` of `sample`; needs `guide(..., watch=True)`.

    Besides fields of `Telemetry` these are two parts of log_prob: path, <d, y_s - y_t>, and drift,
    <d, (c + u) / 2>, with d = -(c - u) alpha / sigma and y = z / alpha. y_s is next_z without
    the division, which `summarise` does not know here: path_t and path_s are <d, z_t>, <d, z_s>.
    """
    first, other = call.state.first, call.state.other
    alpha, sigma = alpha_sigma(call.logsnr)
    x_first, x_other = (predict_x(call.z, eps, call.logsnr) for eps in (first, other))
    direction = -(first - other) * alpha / sigma
    gap = _norm(first - other)
    parallel = jnp.where(gap > 0, _cosine(x_first, x_first - x_other), 0.0)
    return {
        "gap": gap,
        "gap_ratio": gap / jnp.maximum(_norm(first), _TINY),
        "cosine": _cosine(first, other),
        "parallel": parallel,
        "saturation": jnp.mean(jnp.abs(call.x_raw) > 1, axis=_axes(call.z), dtype=jnp.float32),
        "std_ratio": jnp.std(call.x_raw, _axes(call.z)) / jnp.std(x_first, _axes(call.z)),
        "path_t": _inner(direction, call.z),
        "path_s": _inner(direction, call.next_z),
        "drift": _inner(direction, (first + other) / 2),
    }


def summarise(plan: Plan | ArrayLike, w: ArrayLike, measured: Mapping[str, ArrayLike]) -> Telemetry:
    """The telemetry of a run from its measurements [T, B], in float64 on the host.

    Args:
      plan: the plan, or the log-SNRs [T], of the run.
      w: guidance weights [T, B] or [T, 1].
      measured: from `sample(..., record=measure)`.
    """
    logsnr = np.asarray(plan.logsnr if isinstance(plan, Plan) else plan, np.float64)
    arrays = {name: np.asarray(value, np.float64) for name, value in measured.items()}
    alpha, ve = 1 / np.sqrt(1 + np.exp(-logsnr)), np.exp(-logsnr / 2)
    alpha_t, alpha_s, ve_t, ve_s = (
        part[:, None] for part in (alpha[:-1], alpha[1:], ve[:-1], ve[1:])
    )
    path = arrays.pop("path_s")[:-1] / alpha_s - arrays.pop("path_t")[:-1] / alpha_t
    change = path + arrays.pop("drift")[:-1] / ve_t * (ve_t**2 - ve_s**2)
    w = np.broadcast_to(np.asarray(w, np.float64), arrays["gap"].shape)[:-1]
    weight = w * (1 + w) / 2 * arrays["gap"][:-1] ** 2 * np.diff(logsnr)[:, None]
    return Telemetry(logsnr, **arrays, log_prob=_summed(change), log_weight=_summed(weight))


_TINY = 1e-12


def _summed(changes: np.ndarray) -> np.ndarray:
    """Sums before each call, from 0: [T, B] of changes [T - 1, B]."""
    return np.concatenate([np.zeros_like(changes[:1]), np.cumsum(changes, axis=0)])


def _axes(z: Array) -> tuple[int, ...]:
    return tuple(range(1, z.ndim))


def _inner(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=_axes(a))


def _norm(a: Array) -> Array:
    return jnp.sqrt(_inner(a, a))


def _cosine(a: Array, b: Array) -> Array:
    return _inner(a, b) / jnp.maximum(_norm(a) * _norm(b), _TINY)
