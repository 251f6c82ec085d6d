"""Variational bound on -log p(x) of a diffusion model.

    -log p(x) <= KL(q(z_1 | x) || N(0, I))                                             prior
                 + sum over transitions of E KL(q(z_s | z_t, x) || p(z_s | z_t))       diffusion
                 + E[-log p(x | z_T)]                                                  decoder

z_1, ..., z_T are x diffused to the log-SNRs of a sampler's grid, and p is that sampler. Its steps
have the mean of `posterior` at x_hat and a variance of exponent v, `logvar_interp`; q has v = 0.
Each part is [B] in nats for data [B, ...]; `bits_per_dim` converts it.

Sources: Ho & Salimans 2022, section 2; Ho et al. 2020, arXiv 2006.11239, equations 5 and 13;
Nichol & Dhariwal 2021, arXiv 2102.09672, section 3.1.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import data, finite, flag, function, labels_of, shape_of, whole
from cfg_jax.core.diffusion import diffuse, expand, x_for
from cfg_jax.core.schedules import ascending
from cfg_jax.core.types import Array, ArrayLike, Key, Predict, learned_variance


def _sum_data_axes(values: Array) -> Array:
    """Sum over all axes but the first: [B] from [B, ...]."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def _gaussian_kl(log_ratio: Array, distance: Array) -> Array:
    """KL(N(m, s^2) || N(m', s'^2)) = (log_ratio + expm1(-log_ratio) + distance) / 2.

    log_ratio = log(s'^2 / s^2) and distance = (m - m')^2 / s'^2 broadcast.
    """
    # The two terms in log_ratio cancel near 0, where a series is precise.
    small = jnp.abs(log_ratio) < 0.1
    r = jnp.where(small, log_ratio, 0.0)
    series = r**2 * (1 / 2 - r * (1 / 6 - r * (1 / 24 - r / 120)))
    return (jnp.where(small, series, log_ratio + jnp.expm1(-log_ratio)) + distance) / 2


def prior_kl(x: Array, logsnr_min: ArrayLike) -> Array:
    """KL(q(z | x) || N(0, I)) = sum (alpha^2 x^2 + sigma^2 - 1 - log sigma^2) / 2: [B], nats.

    x [B, ...]; logsnr_min [] or [B], the log-SNR of z.
    """
    logsnr = expand(jnp.asarray(logsnr_min, jnp.float32), x)
    return _sum_data_axes(_gaussian_kl(jax.nn.softplus(logsnr), jax.nn.sigmoid(logsnr) * x**2))


def transition_kl(
    z_t: Array,
    x: Array,
    x_hat: Array,
    logsnr_t: Array,
    logsnr_s: Array,
    *,
    logvar_interp: ArrayLike = 0.0,
) -> Array:
    """KL(q(z_s | z_t, x) || p(z_s | z_t)), the cost of one step: [B], nats.

        sum (r + expm1(-r) + (snr_s - snr_t) exp(-r) (x - x_hat)^2) / 2,   r = v log(sigma_t^2 / sigma_s^2)

    Only the shape of z_t matters, because both means weight z_t equally.

    Args:
      z_t, x, x_hat: [B, ...].
      logsnr_t, logsnr_s: [] or [B], logsnr_s >= logsnr_t; the result is 0 if they are equal.
      logvar_interp: v of p, any real number; [], [B] or the shape of x.

    Source: Ho et al. 2020, equation 8, with the variance of Ho & Salimans 2022, section 2.
    """  # noqa: E501
    logsnr_t = expand(jnp.asarray(logsnr_t, jnp.float32), z_t)
    logsnr_s = expand(jnp.asarray(logsnr_s, jnp.float32), z_t)
    # Differences computed from logsnr_s - logsnr_t stay precise for short steps.
    log_variances = jnp.log1p(jax.nn.sigmoid(logsnr_t) * jnp.expm1(logsnr_s - logsnr_t))
    snr_gain = -jnp.expm1(logsnr_t - logsnr_s) * jnp.exp(logsnr_s)
    log_ratio = expand(logvar_interp, z_t) * log_variances
    distance = snr_gain * jnp.exp(-log_ratio) * (x - x_hat) ** 2
    return _sum_data_axes(_gaussian_kl(log_ratio, distance))


def decoder_logvar(
    logsnr_before: ArrayLike, logsnr_last: ArrayLike, logvar_interp: ArrayLike
) -> Array:
    """logvar of p(x | z_T) = log sigma_T^2 + (1 - v) log(1 - exp(logsnr_before - logsnr_last)).

    v interpolates geometrically from a lower bound (v = 0) to the upper bound sigma_T^2 (v = 1).
    The posterior variance of the step from z_T to x is 0, so the step before gives the lower bound.

    Args:
      logsnr_before, logsnr_last: [] or [B], the last two log-SNRs of a grid, which may be equal.
      logvar_interp: v; [], [B] or [B, ...].

    Source: the program of Nichol & Dhariwal 2021, which clips the posterior log-variance at t = 0.
    """
    interp = jnp.asarray(logvar_interp, jnp.float32)
    before, last = (jnp.asarray(logsnr, jnp.float32) for logsnr in (logsnr_before, logsnr_last))
    if interp.ndim:
        before, last = expand(before, interp), expand(last, interp)
    # Different float32 log-SNRs near the end of a grid are at least this far apart.
    share = jnp.maximum(-jnp.expm1(before - last), jnp.finfo(jnp.float32).eps)
    return jax.nn.log_sigmoid(-last) + (1 - interp) * jnp.log(share)


def _scaled_log_tail(a: Array) -> Array:
    """log(P(N(0, 1) > a) exp(max(a, 0)^2 / 2)); the factor keeps float32 precise for large a."""
    middle = jnp.where(a > 5, 5.0, a)
    # Beyond 5, Laplace's continued fraction of the ratio of tail to density.
    beyond = jnp.where(a > 5, a, 5.0)
    fraction = beyond
    for n in range(7, 0, -1):
        fraction = beyond + n / fraction
    return jnp.where(
        a > 5,
        -jnp.log(fraction) - math.log(2 * math.pi) / 2,
        jax.scipy.special.log_ndtr(-middle) + jnp.maximum(middle, 0.0) ** 2 / 2,
    )


def _log_bin_mass(x: Array, x_hat: Array, logvar: Array, num_levels: int) -> Array:
    """log-probability of the bin of level x under N(x_hat, exp logvar), elementwise."""
    scale = jnp.exp(-logvar / 2)
    half = scale / (num_levels - 1)
    offset = scale * (x - x_hat)
    edge = 1 - 1 / (num_levels - 1)
    is_open = jnp.abs(x) > edge
    # A bin spans `near` to `far`, measured away from x_hat; an open bin has no far end. The
    # difference is then one of small tail probabilities, which is precise.
    distance = jnp.where(is_open, jnp.sign(x) * offset, jnp.abs(offset))
    near, far = distance - half, distance + half
    log_near, log_far = _scaled_log_tail(near), _scaled_log_tail(far)
    squares = jnp.where(near > 0, 2 * distance * half, jnp.maximum(far, 0.0) ** 2 / 2)
    log_ratio = jnp.where(is_open, 1.0, log_near - log_far + squares)
    inside = jnp.where(is_open, 0.0, jax.nn.log1mexp(log_ratio))
    return log_near - jnp.maximum(near, 0.0) ** 2 / 2 + inside


def decoder_nll(
    x: Array, x_hat: Array, logvar: ArrayLike, *, num_levels: int | None = 256
) -> Array:
    """-log p(x | z_T) with p = N(x_hat, exp logvar).

        num_levels = L:     -sum log(P(y <= upper edge) - P(y <= lower edge)),  y ~ p
        num_levels = None:  sum (logvar + log 2 pi + (x - x_hat)^2 exp(-logvar)) / 2

    A level's bin holds the values nearest to that level; the first and the last bin are unbounded.
    The result is [B], nats. For None it is the value of a density and may be negative.

    Args:
      x: [B, ...]; levels 2 k / (L - 1) - 1, k = 0, ..., L - 1 (8-bit data: L = 256), or any real
        numbers for None.
      x_hat: [B, ...].
      logvar: [], [B] or the shape of x.
      num_levels: L, or None for continuous data.

    Raises ValueError if num_levels is below 2. Source: Ho et al. 2020, equation 13.
    """
    _check_levels(num_levels)
    logvar = expand(jnp.asarray(logvar, jnp.float32), x)
    if num_levels is None:
        exponent = (x - x_hat) ** 2 * jnp.exp(-logvar)
        return _sum_data_axes((exponent + logvar + math.log(2 * math.pi)) / 2)
    return -_sum_data_axes(_log_bin_mass(x, x_hat, logvar, num_levels))


def bound_term(
    z_t: Array,
    x: Array,
    x_hat: Array,
    u: Array,
    *,
    schedule: Callable[[Array], Array],
    num_steps: int,
    logvar_interp: ArrayLike = 0.0,
    num_levels: int | None = 256,
) -> Array:
    """One term of the T-call variational bound, at noise level u: [B], nats.

    If u >= 1 / T, the term is `transition_kl` from schedule(u) to schedule(u - 1 / T). If not, the
    term is `decoder_nll` at schedule(u), with the log-variance
    `decoder_logvar(schedule(u + 1 / T), schedule(u), logvar_interp)`.

    For u uniform in [0, 1), T E[term] is diffusion + decoder, averaged over the grids
    schedule((i + r) / T), i = T - 1, ..., 0, with r uniform in [0, 1).

    Args:
      z_t: [B, ...], x diffused to schedule(u).
      x, x_hat: [B, ...].
      u: [B], in [0, 1].
      schedule: u -> logsnr, descending.
      num_steps: T, at least 2; for a discrete schedule, at most its number of timesteps.
      logvar_interp: v; [], [B] or the shape of x.
      num_levels: as in `decoder_nll`.
    """
    interval = 1 / num_steps
    is_last = u < interval
    # Double `where`: the unselected branch gets safe inputs, since 0 * inf in its gradient is nan.
    last = expand(is_last, x)
    interp = jnp.broadcast_to(expand(jnp.asarray(logvar_interp, jnp.float32), x), x.shape)
    transition = transition_kl(
        z_t,
        x,
        jnp.where(last, x, x_hat),
        schedule(u),
        schedule(jnp.maximum(u - interval, 0.0)),
        logvar_interp=jnp.where(last, 0.0, interp),
    )
    u_last = jnp.where(is_last, u, 0.0)
    logvar = decoder_logvar(
        schedule(u_last + interval), schedule(u_last), jnp.where(last, interp, 0.0)
    )
    decoder = decoder_nll(x, jnp.where(last, x_hat, x), logvar, num_levels=num_levels)
    return jnp.where(is_last, decoder, transition)


def variational_bound(
    key: Key,
    predict: Predict,
    x: Array,
    labels: Array,
    logsnrs: Array,
    *,
    logvar_interp: ArrayLike = 0.0,
    num_levels: int | None = 256,
    clip_x: bool = True,
) -> dict[str, Array]:
    """An unbiased estimate of the three parts of the bound on -log p(x | label).

    One `lax.scan` makes T calls of `predict`, each on new noise: T - 1 transitions and the decoder.

    Args:
      key: [] or [B], one key per example; consumed. Example i depends on its own key only.
      predict: (z [B, ...], logsnr [B], labels [B]) -> eps_hat [B, ...], or a `Prediction` whose
        logvar_interp is used.
      x: [B, ...] clean data in [-1, 1].
      labels: [B] int32.
      logsnrs: [T] ascending, T >= 2, from `logsnr_grid`.
      logvar_interp: v if predict returns no `Prediction`; [], [B] or the shape of x.
      num_levels: as in `decoder_nll`.
      clip_x: clip x_hat to [-1, 1], as the sampler does.

    Returns `prior`, `diffusion` and `decoder`, each [B], nats; their sum is the bound.

    Raises ValueError if num_levels is below 2, if x has no floats, labels are not [B] integers, or
    logvar_interp is not finite, if logsnrs is not a vector of 2 or more, if concrete logsnrs do not
    strictly ascend, or if eps_hat is not of x's shape.

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[0.0]], variance=0.25, weights=[1])
      >>> labels = jnp.zeros(1000, jnp.int32)
      >>> x = mixture.draw(jax.random.key(0), labels)
      >>> logsnrs = cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 500)
      >>> parts = cfg_jax.variational_bound(
      ...     jax.random.key(1), mixture.predict, x, labels, logsnrs, num_levels=None, clip_x=False
      ... )
      >>> entropy = 0.5 * np.log(2 * np.pi * np.e * 0.25)
      >>> bool(sum(parts.values()).mean() > entropy)  # nats
      True
    """
    _check_levels(num_levels)
    x, clip_x = data("x", x), flag("clip_x", clip_x)
    labels = labels_of(labels, x.shape[0])
    finite("logvar_interp", logvar_interp)
    function("predict", predict, "(z, logsnr, labels) -> eps_hat")
    logsnrs = ascending(logsnrs, least=2, strictly=True)
    keys = keys_lib.per_example(key, x.shape[0])
    constant = jnp.asarray(logvar_interp, jnp.float32)

    def body(_, inputs: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        t, logsnr_t, logsnr_s = inputs
        noise = keys_lib.normal(keys_lib.fold_in(keys, t), x.shape)
        z_t = diffuse(x, noise, logsnr_t)
        output = predict(z_t, jnp.broadcast_to(logsnr_t, x.shape[:1]), labels)
        x_hat = x_for(z_t, output, logsnr_t)
        x_hat = jnp.clip(x_hat, -1.0, 1.0) if clip_x else x_hat
        learned = learned_variance(output)
        interp = constant if learned is None else learned
        interp = jnp.broadcast_to(expand(interp, x), x.shape)
        nats = transition_kl(z_t, x, x_hat, logsnr_t, logsnr_s, logvar_interp=interp)
        return (x_hat, interp), nats

    # As in `sample`, the last call steps to its own log-SNR, which costs 0.
    next_logsnrs = jnp.append(logsnrs[1:], logsnrs[-1])
    steps = (jnp.arange(logsnrs.shape[0]), logsnrs, next_logsnrs)
    (x_hat, interp), transitions = jax.lax.scan(body, (jnp.zeros(x.shape),) * 2, steps)
    logvar = decoder_logvar(logsnrs[-2], logsnrs[-1], interp)
    return {
        "prior": prior_kl(x, logsnrs[0]),
        "diffusion": jnp.sum(transitions, axis=0),
        "decoder": decoder_nll(x, x_hat, logvar, num_levels=num_levels),
    }


def _check_levels(num_levels: int | None) -> None:
    """Raises ValueError if there are fewer than two levels."""
    if num_levels is not None:
        whole("num_levels", num_levels, 2)


def bits_per_dim(nats: Array, x_shape: tuple[int, ...]) -> Array:
    """nats / (D ln 2), D = prod(x_shape[1:]); nats of any shape, x_shape of a batch.

    Raises ValueError unless x_shape has integers of at least 1.

    Examples:
      >>> print(cfg_jax.bits_per_dim(jnp.array([6 * np.log(2.0)]), (5, 1, 3)))  # 6 bits / 3
      [2.]
    """
    x_shape = shape_of(x_shape, "the shape [B, ...] of a batch, x.shape")
    return nats / (math.prod(x_shape[1:]) * math.log(2))
