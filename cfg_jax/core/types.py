"""Types that the modules pass to each other.

    Predict  = (z [B, ...], logsnr [B], labels [B]) -> eps_hat [B, ...]    parameters bound
    Denoiser = (z [B, ...], logsnr [B])             -> eps_hat [B, ...]    labels and guidance bound

A network or an exact oracle is a Predict, and guidance turns a Predict into a Denoiser. The loss
calls a Predict; a sampler scans a Denoiser. Both return a `Prediction` instead of eps_hat if the
network gives x_hat or learns the variance of its steps; `Output` is either.

Shape letters: B batch; H, W, C image height, width and channels (images are NHWC; `...` is any data
shape); T sampling steps; K classes or mixture components; D devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
Key = jax.Array


class Prediction(NamedTuple):
    """eps_hat, with a learned variance of the next step, or with x_hat, or with both.

    eps_hat: [B, ...].
    logvar_interp: [B, ...] or None, exponent v of `posterior` for every element; 0 gives the lower
      and 1 the upper bound of the variance (Nichol & Dhariwal 2021, arXiv 2102.09672, equation 15).
    x_hat: [B, ...] or None, (z - sigma eps_hat) / alpha from a network that gives it directly: at
      the noise end eps_hat is nearly z and has lost its digits.

    Examples:
      >>> output = cfg_jax.Prediction(eps_hat=jnp.zeros((1, 1)))
      >>> output.x_hat is None and output.logvar_interp is None
      True
    """

    eps_hat: Array
    logvar_interp: Array | None = None
    x_hat: Array | None = None


Output = Array | Prediction
Predict = Callable[[Array, Array, Array], Output]
Denoiser = Callable[[Array, Array], Output]


class Guided(NamedTuple):
    """A Denoiser whose guidance depends on the call of the sampler, and may have a state.

    denoise: (z [B, ...], logsnr [B], row, state) -> (eps_hat [B, ...] or a `Prediction`, state).
    rows: tree of arrays [T, ...], row k for call k.
    init: shape [B, ...] -> state before the first call.

    Examples:
      >>> growing = Guided(
      ...     denoise=lambda z, logsnr, row, state: (row * z, state),
      ...     rows=jnp.array([0.0, 0.5]),
      ...     init=lambda shape: (),
      ... )
      >>> cfg_jax.sample(jax.random.key(0), growing, (2, 1), jnp.array([-2.0, 2.0])).shape
      (2, 1)
    """

    denoise: Callable[[Array, Array, Any, Any], tuple[Output, Any]]
    rows: Any
    init: Callable[[tuple[int, ...]], Any]

    def then(self, transform: Callable[[Denoiser], Denoiser]) -> "Guided":
        """This with a transform of Denoisers applied, such as `classifier_guidance`."""

        def denoise(z: Array, logsnr: Array, row: Any, state: Any) -> tuple[Output, Any]:
            output, state = self.denoise(z, logsnr, row, state)
            return transform(lambda z, logsnr: output)(z, logsnr), state

        return self._replace(denoise=denoise)


def eps_of(output: Output) -> Array:
    """eps_hat of the output of a Predict or Denoiser."""
    return output.eps_hat if isinstance(output, Prediction) else output


def eps_for(z: Array, output: Output) -> Array:
    """`eps_of`; ValueError unless of z's shape, as any other would be broadcast silently."""
    eps_hat = eps_of(output)
    shape = getattr(eps_hat, "shape", type(eps_hat).__name__)
    if shape != z.shape:
        raise ValueError(
            f"eps_hat of shape {shape} for z of shape {z.shape}: the function must return an array "
            "of the same shape, or a Prediction"
        )
    return eps_hat


def x_of(output: Output) -> Array | None:
    """x_hat of the output of a Predict or Denoiser; None if it has only eps_hat."""
    return output.x_hat if isinstance(output, Prediction) else None


def own_x(z: Array, output: Output) -> Array | None:
    """`x_of`; ValueError unless of z's shape, as any other would be broadcast silently."""
    x_hat = x_of(output)
    shape = z.shape if x_hat is None else getattr(x_hat, "shape", type(x_hat).__name__)
    if shape != z.shape:
        raise ValueError(
            f"x_hat of shape {shape} for z of shape {z.shape}: a Prediction needs both of one shape"
        )
    return x_hat


def with_eps(output: Output, eps_hat: Array, x_hat: Array | None = None) -> Output:
    """`output` with eps_hat and x_hat replaced; a learned variance is kept."""
    logvar_interp = learned_variance(output)
    if logvar_interp is None and x_hat is None:
        return eps_hat
    return Prediction(eps_hat, logvar_interp, x_hat)


def learned_variance(output: Output) -> Array | None:
    """logvar_interp [B, ...] of the output of a Predict or Denoiser; None if it has none."""
    return output.logvar_interp if isinstance(output, Prediction) else None


def chosen(table: Array, labels: Array) -> Array:
    """table[i, labels[i]] for every example i, such as log p(label | z): [B] from [B, K].

    NaN for a label outside 0..K-1, since a compiled program cannot raise an error.
    """
    known = (labels >= 0) & (labels < table.shape[1])
    column = jnp.where(known, labels, 0)[:, None]
    return jnp.where(known, jnp.take_along_axis(table, column, axis=1)[:, 0], jnp.nan)
