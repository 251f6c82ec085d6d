"""Float64 expected values, by formulas that the package does not use."""

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

# From one step of the paper's grid at either end to nearly zero steps.
PAIRS = np.float32(
    [
        (-20, -10.165),
        (-20, 20),
        (10.165, 20),
        (-2, 0.5),
        (0, 0.015625),
        (3, 3 + 2**-12),
        (-6, 6),
        (1, 9),
    ]
)


def alpha_sigma(logsnr):
    """cos and sin of the angle whose squared cotangent is the signal-to-noise ratio."""
    angle = np.arctan(np.exp(-np.asarray(logsnr, np.float64) / 2))
    return np.cos(angle), np.sin(angle)


def forward(logsnr_t, logsnr_s):
    """q(z_t | z_s) = N(ratio z_s, variance), by subtracting the part of z_s from z_t."""
    alpha_t, sigma_t = alpha_sigma(logsnr_t)
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    ratio = alpha_t / alpha_s
    return ratio, sigma_t**2 - (ratio * sigma_s) ** 2


def reverse(logsnr_t, logsnr_s):
    """q(z_s | z_t, x) = N(a z_t + b x, variance) by Bayes' rule, in which precisions add.

    Prior z_s ~ N(alpha_s x, sigma_s^2), observation z_t ~ N(ratio z_s, noise).
    """
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    ratio, noise = forward(logsnr_t, logsnr_s)
    precision = 1 / sigma_s**2 + ratio**2 / noise
    return ratio / noise / precision, alpha_s / sigma_s**2 / precision, 1 / precision


def like(values, z):
    """values [B] as [B, 1, ..., 1], to broadcast against z [B, ...]."""
    return np.reshape(values, (len(z),) + (1,) * (z.ndim - 1))


class Mixture:
    """log p(z | c) and log p(z) of diffused Gaussian classes, per example with SciPy."""

    def __init__(self, means, variance, weights):
        self.means = np.asarray(means, np.float64).reshape(len(weights), -1)
        self.variance = np.broadcast_to(variance, (len(weights),))
        self.log_weights = np.log(np.asarray(weights) / np.sum(weights))

    def log_prob_given_each(self, z, logsnr):
        """[B, K]; z [B, ...] and logsnr [B]."""
        rows = []
        for point, (alpha, sigma) in zip(z, zip(*alpha_sigma(logsnr), strict=True), strict=True):
            point = np.asarray(point, np.float64).ravel()
            rows.append(
                [
                    multivariate_normal.logpdf(point, alpha * mean, alpha**2 * variance + sigma**2)
                    for mean, variance in zip(self.means, self.variance, strict=True)
                ]
            )
        return np.array(rows)

    def log_prob(self, z, logsnr, labels=None):
        """[B]: log p(z | labels), or log p(z)."""
        each = self.log_prob_given_each(z, logsnr)
        if labels is None:
            return logsumexp(self.log_weights + each, axis=1)
        return each[np.arange(len(z)), labels]

    def score(self, log_density, z, logsnr):
        """grad_z log_density(z, logsnr) [B, ...] by central differences."""
        z, gradient = np.asarray(z, np.float64), np.zeros(z.shape)
        for position in np.ndindex(z.shape[1:]):
            nudge = np.zeros(z.shape)
            nudge[(slice(None), *position)] = 1e-5
            change = log_density(z + nudge, logsnr) - log_density(z - nudge, logsnr)
            gradient[(slice(None), *position)] = change / 2e-5
        return gradient
