"""Classifier-free and classifier guidance of a denoiser by labels.

    training   labels <- null_label with probability p_uncond
    sampling   eps_hat = (1 + w) eps_hat(z, label) - w eps_hat(z, null)         classifier-free
               eps_hat = eps_hat(z) - w sigma grad_z log p(label | z)           classifier

`w` is the guidance weight of Ho & Salimans 2022: w = 0 is the conditional model, w = -1 the
unconditional one. Imagen and Stable Diffusion use a scale s = 1 + w. ADM's classifier scale is w
on a conditional model and 1 + w on an unconditional one.

Guidance maps denoisers to denoisers, so both rules combine. Networks, losses and samplers do not
depend on it. Only ADM's own two forms depend on the sampler: DDIM uses classifier guidance of a
`clipped` denoiser, ancestral steps use `mean_shift`. A learned variance is not guided: the
conditional branch provides it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import finite, function, integers, null_of, number
from cfg_jax.core.diffusion import (
    alpha_sigma,
    combined,
    each_logsnr,
    expand,
    moved,
    posterior,
    predict_eps,
    x_for,
)
from cfg_jax.core.samplers import ancestral_step
from cfg_jax.core.types import (
    Array,
    ArrayLike,
    Denoiser,
    Key,
    Output,
    Predict,
    eps_for,
    eps_of,
    with_eps,
    x_of,
)

LogProb = Callable[[Array, Array], Array]
"""(z [B, ...], logsnr [B]) -> log p(label | z) [B]; entry i depends on z[i] and logsnr[i] only."""


def drop_labels(key: Key, labels: Array, *, p_uncond: float, null_label: int) -> Array:
    """label <- null_label with probability p_uncond, independently per example.

    Ho & Salimans 2022, Algorithm 1, line 3. key [] or [B], consumed; labels and result [B] int32;
    p_uncond in [0, 1]; null_label stands for "no label". Raises ValueError for other arguments.

    Examples:
      >>> labels = jnp.zeros(1000, jnp.int32)
      >>> dropped = cfg_jax.drop_labels(jax.random.key(0), labels, p_uncond=0.1, null_label=10)
      >>> print(jnp.unique(dropped), 50 < (dropped == 10).sum() < 150)
      [ 0 10] True
    """
    number("p_uncond", p_uncond, "a probability, from 0 to 1", 0, 1)
    labels = _vector(labels)
    dropped = keys_lib.uniform(keys_lib.per_example(key, labels.shape[0])) < p_uncond
    return jnp.where(dropped, null_of(null_label), labels)


def only_trained_w(p_uncond: float) -> float | None:
    """The single w that weights trained branches only: 0 for p_uncond 0, -1 for 1, else None."""
    return {0.0: 0.0, 1.0: -1.0}.get(p_uncond)


def weight_per_step(w: ArrayLike, num_steps: int, batch_size: int) -> np.ndarray:
    """w as [T, B], float32 on the host, from a scalar, [B], [T], [T, 1] or [T, B].

    If T = B, a vector is per sample; [T, 1] is always per step. Raises ValueError for any other
    shape, and unless w has finite numbers.
    """
    w = np.asarray(finite("w", w, "finite guidance weights"), np.float32)
    allowed = [(), (batch_size,), (num_steps,), (num_steps, 1), (num_steps, batch_size)]
    if w.shape not in allowed:
        raise ValueError(
            f"w has shape {w.shape}: give a scalar, [{batch_size}] for one per sample, "
            f"[{num_steps}] or [{num_steps}, 1] for one per step, or [{num_steps}, {batch_size}]"
        )
    if w.shape == (num_steps,) and num_steps != batch_size:
        w = w[:, None]
    return np.broadcast_to(w, (num_steps, batch_size))


def cfg(conditional: Array, unconditional: Array, w: ArrayLike) -> Array:
    """(1 + w) conditional - w unconditional: Ho & Salimans 2022, equation 6.

    Both are eps_hat [B, ...], with the label and without it; w is [] or [B].

    Examples:
      >>> print(cfg(jnp.array([3.0]), jnp.array([1.0]), w=jnp.array([0.5])))  # 1.5 * 3 - 0.5 * 1
      [4.]
    """
    w = expand(w, conditional)
    return (1 + w) * conditional - w * unconditional


def classifier_free_guidance(
    predict: Predict, labels: Array, w: ArrayLike, *, null_label: int
) -> Denoiser:
    """A Denoiser guided by `cfg`, in one forward pass of batch 2B.

        eps_hat = (1 + w) predict(z, logsnr, labels) - w predict(z, logsnr, null_label)

    A learned variance is taken from the conditional branch. If w is the Python or NumPy number 0 or
    -1, only the branch with nonzero weight is evaluated, in a forward pass of batch B; a learned
    variance is then taken from that branch. For a different w at each step, see `per_step` of
    `sample`.

    Args:
      predict: (z, logsnr, labels) -> eps_hat or a `Prediction`.
      labels: [B] int32.
      w: guidance weight, [] or [B].
      null_label: label of the unconditional branch.

    Raises ValueError if labels is not [B] integers, null_label no integer, predict no function, or
    w is not of finite numbers [] or [B]. The Denoiser raises ValueError for a batch size other than
    B, and if predict returns eps_hat of another shape.

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[-1.0], [1.0]], variance=0.5, weights=[1, 1])
      >>> labels, z, logsnr = jnp.array([0, 1]), jnp.zeros((2, 1)), jnp.zeros(2)
      >>> for w in (-1.0, 0.0, 1.0):  # eps_hat of no label is 0 here
      ...     guided = cfg_jax.classifier_free_guidance(mixture.predict, labels, w, null_label=2)
      ...     print(np.asarray(guided(z, logsnr)[:, 0]).round(3))
      ...
      [0. 0.]
      [ 0.667 -0.667]
      [ 1.333 -1.333]
    """
    labels = _vector(labels)
    nulls = jnp.full_like(labels, null_of(null_label))
    weight = finite("w", w)
    function("predict", predict, "(z, logsnr, labels) -> eps_hat")
    if not isinstance(w, jax.Array) and weight.ndim == 0 and weight in (0, -1):
        only = labels if weight == 0 else nulls
        return lambda z, logsnr: predict(z, _one_each(logsnr, z, labels), only)
    w = jnp.asarray(weight, jnp.float32)
    if w.shape not in [(), labels.shape]:
        raise ValueError(
            f"w has shape {w.shape}: give a scalar, or [{labels.size}] for one per sample; for one "
            "per step, call sample(..., per_step=w)"
        )

    def denoiser(z: Array, logsnr: Array) -> Output:
        logsnr = _one_each(logsnr, z, labels)
        twice = jnp.concatenate([z, z])
        both = predict(twice, jnp.concatenate([logsnr, logsnr]), jnp.concatenate([labels, nulls]))
        eps_for(twice, both)
        halves = [jax.tree.map(lambda a: a[: labels.size], both)]
        halves += [jax.tree.map(lambda a: a[labels.size :], both)]
        return combined(z, halves, logsnr, lambda one, other: cfg(one, other, w))

    return denoiser


def _one_each(logsnr: Array, z: Array, labels: Array) -> Array:
    """logsnr as [B] from [] or [B]; raises ValueError unless every example has one label."""
    if z.shape[:1] != labels.shape:
        raise ValueError(
            f"labels of shape {labels.shape} for a batch of {z.shape[0]}: give one per example"
        )
    return each_logsnr(logsnr, z)


def _vector(labels: ArrayLike) -> Array:
    """Labels as int32 [B]; raises ValueError for anything else."""
    labels = integers("labels", labels)
    if labels.ndim != 1:
        raise ValueError(f"labels of shape {labels.shape}: give one per example, [B]")
    return labels


def classifier_guidance(denoiser: Denoiser, log_prob: LogProb, w: ArrayLike) -> Denoiser:
    """eps_hat = denoiser(z) - w sigma grad_z log p(label | z): Ho & Salimans 2022, section 3.1.

    w on a conditional denoiser corresponds to w + 1 on an unconditional one.

    Args:
      denoiser: (z, logsnr) -> eps_hat, already guided or not.
      log_prob: (z, logsnr) -> log p(label | z) [B], from a classifier in evaluation mode.
      w: guidance weight, [] or [B].

    Raises ValueError if w is not of finite numbers, or if log_prob returns another shape than [B].

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[-1.0], [1.0]], variance=0.5, weights=[1, 1])
      >>> labels, z, logsnr = jnp.array([0, 1]), jnp.zeros((2, 1)), jnp.zeros(2)
      >>> unlabelled = lambda z, logsnr: mixture.predict(z, logsnr, jnp.array([2, 2]))
      >>> log_prob = lambda z, logsnr: mixture.log_prob_label(z, logsnr, labels)
      >>> guided = cfg_jax.classifier_guidance(unlabelled, log_prob, w=1.0)
      >>> conditional = mixture.predict(z, logsnr, labels)
      >>> bool(jnp.allclose(guided(z, logsnr), conditional, atol=1e-6))  # Bayes' rule
      True
    """
    finite("w", w)

    def guided(z: Array, logsnr: Array) -> Output:
        _, sigma = alpha_sigma(expand(logsnr, z))
        output = denoiser(z, logsnr)
        shift = expand(w, z) * sigma * _gradient(log_prob, z, logsnr)
        return moved(z, output, eps_of(output) - shift, logsnr)

    return guided


def clipped(denoiser: Denoiser) -> Denoiser:
    """A Denoiser that returns the eps_hat of x_hat clipped to [-1, 1].

    `sample(..., clip_x=False, step=ddim_step)` with `classifier_guidance(clipped(denoiser), ...)`
    is ADM's guided DDIM, algorithm 2: x_hat is clipped before guidance and not afterwards.

    Examples:
      >>> denoiser = cfg_jax.clipped(lambda z, logsnr: jnp.zeros_like(z))
      >>> z = jnp.array([[3.0]])
      >>> print(np.asarray(cfg_jax.predict_x(z, denoiser(z, jnp.zeros(1)), 0.0)).round(3))
      [[1.]]
    """

    def denoise(z: Array, logsnr: Array) -> Output:
        output = denoiser(z, logsnr)
        x_hat = jnp.clip(x_for(z, output, logsnr), -1.0, 1.0)
        kept = None if x_of(output) is None else x_hat
        return with_eps(output, predict_eps(z, x_hat, logsnr), kept)

    return denoise


def tempered(denoiser: Denoiser, temperature: ArrayLike) -> Denoiser:
    """eps_hat / temperature, the score of p(z)^(1 / temperature): sharper below 1.

    A baseline that uses no label. Dhariwal & Nichol 2021, appendix G, find that neither this nor
    less sampling noise replaces guidance. temperature is [], above 0; denoiser may be guided.
    """

    def denoise(z: Array, logsnr: Array) -> Output:
        output = denoiser(z, logsnr)
        return moved(z, output, eps_of(output) / temperature, logsnr)

    return denoise


def mean_shift(
    log_prob: LogProb, w: ArrayLike, step: Callable[..., Array] = ancestral_step
) -> Callable[..., Array]:
    """z_s + w Sigma grad_z log p(label | z_t), z_s from an ancestral step of variance Sigma.

    The step rule of ADM-G (Dhariwal & Nichol 2021, algorithm 1). The gradient is evaluated at z_t
    and logsnr_t as in the authors' program; their derivation evaluates it at the mean. The rule
    agrees with `classifier_guidance` of the same w only for small steps. The last call of `sample`
    makes no step and is not guided; ADM adds w Sigma grad there too, with Sigma at most 1e-4.

    Args:
      log_prob: (z, logsnr) -> log p(label | z) [B], from a classifier in evaluation mode.
      w: ADM's scale, [] or [B]: w on a conditional model, 1 + w on an unconditional model.
      step: step rule with normal noise of `posterior`'s variance.

    Raises ValueError as `classifier_guidance`.

    Examples:
      >>> step = cfg_jax.mean_shift(lambda z, logsnr: z[:, 0], w=2.0)  # its gradient is 1
      >>> key, z, x_hat = jax.random.key(0), jnp.zeros((1, 1)), jnp.zeros((1, 1))
      >>> shift = step(key, z, x_hat, 0.0, 2.0) - cfg_jax.ancestral_step(key, z, x_hat, 0.0, 2.0)
      >>> print(np.asarray(shift).round(3))  # 2 exp(logvar)
      [[0.206]]
    """
    finite("w", w)

    def shifted(key, z_t, x_hat, logsnr_t, logsnr_s, *, logvar_interp=0.0, **options):
        z_s = step(key, z_t, x_hat, logsnr_t, logsnr_s, logvar_interp=logvar_interp, **options)
        _, logvar = posterior(z_t, x_hat, logsnr_t, logsnr_s, logvar_interp=logvar_interp)
        gradient = _gradient(log_prob, z_t, jnp.broadcast_to(logsnr_t, z_t.shape[:1]))
        return z_s + expand(w, z_t) * jnp.exp(logvar) * gradient

    return shifted


def _gradient(log_prob: LogProb, z: Array, logsnr: Array) -> Array:
    """grad_z log p(label | z), with respect to z only: [B, ...]."""

    def total(z: Array) -> Array:
        each = log_prob(z, logsnr)
        if jnp.shape(each) != z.shape[:1]:  # of every label, say, whose sum has another gradient
            raise ValueError(
                f"log_prob of shape {jnp.shape(each)} for a batch of {z.shape[0]}: return "
                "log p(label | z) [B], one number per example"
            )
        return each.sum()

    return jax.grad(total)(z)
