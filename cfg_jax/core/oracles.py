"""Exact denoiser and classifier of a Gaussian mixture.

For data x | c ~ N(means[c], variance[c] I) with P(c) = weights[c], both have a closed form:

    z | c ~ N(alpha means[c], total I),   total = alpha^2 variance[c] + sigma^2
    eps_hat(z, c) = sigma (z - alpha means[c]) / total
    p(c | z) = softmax_c(log weights[c] + log p(z | c)),   eps_hat(z) = sum_c p(c | z) eps_hat(z, c)

`GaussianMixture.predict` is a Predict, so guidance, loss and samplers run on it without a network.
Source: Ho & Salimans 2022, section 3 and figure 2; the closed forms are Bayes' rule.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import data, finite, integers, labels_of, text_of
from cfg_jax.core.diffusion import alpha_sigma, expand
from cfg_jax.core.types import Array, ArrayLike, Key, chosen


class GaussianMixture:
    """Isotropic Gaussian classes and their exact diffusion.

    Labels are int32 in 0..K-1; `null_label` = K stands for no label, and any other label is
    invalid. z is [B, ...] of the data shape, logsnr [] or [B].

    Args:
      means: [K, ...] class means, of any data shape.
      variance: [] or [K] variance of each class, positive.
      weights: [K] class probabilities, positive; normalised here.

    Raises ValueError if shapes do not match, if a number is not finite, or if a variance or weight
    is not positive. Methods raise ValueError unless there is one integer label per example.

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[-1.0], [1.0]], variance=0.5, weights=[1, 1])
      >>> z, logsnr = jnp.array([[0.0], [1.0]]), jnp.zeros(2)
      >>> print(np.asarray(mixture.predict(z, logsnr, jnp.array([1, mixture.null_label]))).round(3))
      [[-0.667]
       [ 0.452]]
      >>> print(np.asarray(jnp.exp(mixture.log_posterior(z, logsnr))).round(3))
      [[0.5   0.5  ]
       [0.132 0.868]]
    """

    def __init__(self, means: ArrayLike, variance: ArrayLike, weights: ArrayLike):
        means = np.asarray(finite("means", means))
        variance = np.asarray(finite("variance", variance, "finite numbers above 0"))
        weights = np.asarray(finite("weights", weights, "finite numbers above 0"))
        num_classes = np.shape(means)[0] if np.ndim(means) else 0
        if np.shape(weights) != (num_classes,) or np.ndim(means) < 2 or not means.size:
            raise ValueError(
                f"means of shape {np.shape(means)} with weights of shape {np.shape(weights)}: "
                "need means [K, ...] and weights [K]"
            )
        if np.shape(variance) not in [(), (num_classes,)]:
            raise ValueError(f"variance of shape {np.shape(variance)}: need [] or [{num_classes}]")
        if not (np.float32(np.min(variance)) > 0 and np.float32(np.min(weights)) > 0):
            raise ValueError(
                f"variance={text_of(variance)}, weights={text_of(weights)}: every entry must be "
                "above 0"
            )
        self.num_classes = self.null_label = num_classes
        self.means = jnp.asarray(means, jnp.float32)
        self.variance = jnp.broadcast_to(jnp.asarray(variance, jnp.float32), (num_classes,))
        self.log_weights = jnp.log(jnp.asarray(weights, jnp.float32) / np.sum(weights))
        self._size = math.prod(self.means.shape[1:])

    def _moments(self, logsnr: Array) -> tuple[Array, Array, Array]:
        """alpha and sigma, each [B or 1, 1], and the variance of z | c, [B or 1, K]."""
        alpha, sigma = alpha_sigma(jnp.atleast_1d(logsnr)[:, None])
        return alpha, sigma, alpha**2 * self.variance[None] + sigma**2

    def _flat(self, z: Array) -> tuple[Array, Array]:
        """z as [B, 1, size] and the means as [1, K, size]; ValueError for z of another shape."""
        if z.shape[1:] != self.means.shape[1:]:
            raise ValueError(f"z of shape {z.shape}: need {('B', *self.means.shape[1:])}")
        return z.reshape(z.shape[0], 1, self._size), self.means.reshape(1, -1, self._size)

    def log_prob_given_each(self, z: Array, logsnr: Array) -> Array:
        """log p(z | c) for every c: [B, K], nats."""
        alpha, _, total = self._moments(logsnr)
        flat, means = self._flat(z)
        distance = jnp.sum((flat - alpha[:, :, None] * means) ** 2, axis=-1)
        return -distance / (2 * total) - self._size / 2 * jnp.log(2 * jnp.pi * total)

    def log_posterior(self, z: Array, logsnr: Array) -> Array:
        """log p(c | z) for every c: [B, K], the output of a perfect noisy classifier."""
        return jax.nn.log_softmax(self.log_weights[None] + self.log_prob_given_each(z, logsnr))

    def log_prob_label(self, z: Array, logsnr: Array, labels: Array) -> Array:
        """log p(labels | z): [B], NaN for the null label and invalid labels."""
        z = data("z", z)
        labels = labels_of(labels, z.shape[0])
        return chosen(self.log_posterior(z, logsnr), labels)

    def log_prob(self, z: Array, logsnr: Array, labels: Array | None = None) -> Array:
        """log p(z | labels): [B], nats; log p(z) for None or the null label, NaN if invalid."""
        z = data("z", z)
        each = self.log_prob_given_each(z, logsnr)
        marginal = jax.nn.logsumexp(self.log_weights[None] + each, axis=1)
        if labels is None:
            return marginal
        labels = labels_of(labels, z.shape[0])
        return chosen(jnp.concatenate([each, marginal[:, None]], axis=1), labels)

    def predict(self, z: Array, logsnr: Array, labels: Array) -> Array:
        """The exact Predict: -sigma grad_z log p(z | label), or of log p(z) for the null label.

        Returns NaN for an invalid label, which reveals a wrong null label.
        """
        z = data("z", z)
        labels = labels_of(labels, z.shape[0])
        alpha, sigma, total = self._moments(logsnr)
        flat, means = self._flat(z)
        each = (sigma / total)[:, :, None] * (flat - alpha[:, :, None] * means)
        share = jnp.where(
            (labels == self.null_label)[:, None],
            jnp.exp(self.log_posterior(z, logsnr)),
            jax.nn.one_hot(labels, self.num_classes),
        )
        known = (labels >= 0) & (labels <= self.null_label)
        share = jnp.where(known[:, None], share, jnp.nan)
        # A sum over c, not a contraction, returns the value of a single class bit for bit.
        return jnp.sum(share[:, :, None] * each, axis=1).reshape(z.shape)

    def guided_log_density(self, z: Array, logsnr: Array, labels: Array, w: Array | float) -> Array:
        """(1 + w) log p(z | label) - w log p(z), unnormalised: [B].

        The log-density whose score guidance uses: Ho & Salimans 2022, section 3.2.
        """
        return (1 + w) * self.log_prob(z, logsnr, labels) - w * self.log_prob(z, logsnr)

    def draw(self, key: Key, labels: Array) -> Array:
        """Samples of x | labels [B]: [B, ...], NaN for no class; key [] or [B], consumed."""
        labels = integers("labels", labels)
        labels = labels_of(labels, labels.size)
        shape = (labels.shape[0], *self.means.shape[1:])
        noise = keys_lib.normal(keys_lib.per_example(key, shape[0]), shape)
        known = (labels >= 0) & (labels < self.num_classes)
        deviation = jnp.where(known, jnp.sqrt(self.variance[labels]), jnp.nan)
        return self.means[labels] + expand(deviation, noise) * noise


def triangle() -> np.ndarray:
    """Three means on the unit circle, the first at the top: [3, 2]."""
    angles = np.pi / 2 + 2 * np.pi / 3 * np.arange(3)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
