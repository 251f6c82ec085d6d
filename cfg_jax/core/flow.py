"""Straight paths between noise and data, in log-SNR.

    z_flow = t x + (1 - t) n eps = s z,     t = sigmoid(logsnr / 2 + log n),   s = 1 / (alpha + sigma / n)

z = alpha x + sigma eps is the state of `diffusion`, t the time (0 noise, 1 data) and n the noise
scale. The velocity dz_flow / dt = x - n eps changes no formula of this package: a flow model is an
x, eps or v model that reads its noise level as t and its input as s z. Its Euler steps are DDIM's.

`FlowSchedule` draws the log-SNRs of training, `weight` weighs their losses and `clamped` limits the
velocity near data. Source: Li & He 2025 (JiT), arXiv 2511.13720.
"""  # noqa: E501

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from cfg_jax.core.arguments import MOST_LOGSNR, flag, number, whole
from cfg_jax.core.diffusion import alpha_sigma, expand, from_x, x_for
from cfg_jax.core.timesteps import MOST_STEPS, no_timesteps
from cfg_jax.core.types import Array, ArrayLike, Output, Predict, eps_of, with_eps

TAIL = 5.0
"""Standard deviations at which the normal distribution of log-SNRs is cut; 6e-7 lie outside."""
_OUTSIDE = 0.5 * math.erfc(TAIL / math.sqrt(2))  # on one side

RANGES = {"p_mean": (-10, 10), "p_std": (0.01, 5), "noise_scale": (0.01, 100)}
"""Least and greatest value of each field of a `FlowSchedule`."""


def time_of(logsnr: ArrayLike, noise_scale: float = 1.0) -> Array:
    """t = sigmoid(logsnr / 2 + log n), in [0, 1]; of logsnr's shape.

    Examples:
      >>> print(np.asarray(time_of(jnp.array([-jnp.inf, 0.0, 2 * jnp.log(3.0)]))).round(3))
      [0.   0.5  0.75]
    """
    return jax.nn.sigmoid(jnp.asarray(logsnr, jnp.float32) / 2 + math.log(noise_scale))


def time_left(logsnr: ArrayLike, noise_scale: float = 1.0) -> Array:
    """1 - t, with its digits near data; of logsnr's shape."""
    return time_of(-jnp.asarray(logsnr, jnp.float32), 1 / noise_scale)


def logsnr_of(time: ArrayLike, noise_scale: float = 1.0) -> Array:
    """logsnr = 2 log(t / ((1 - t) n)), the inverse of `time_of`; -inf at t = 0, inf at t = 1.

    Examples:
      >>> print(np.asarray(logsnr_of(jnp.array([0.0, 0.5, 0.75]))).round(3))  # 2 log 3 = 2.197
      [ -inf 0.    2.197]
    """
    time = jnp.asarray(time, jnp.float32)
    return 2 * (jnp.log(time) - jnp.log1p(-time) - math.log(noise_scale))


def scale_of(logsnr: ArrayLike, noise_scale: float = 1.0) -> Array:
    """s = z_flow / z = 1 / (alpha + sigma / n), of logsnr's shape: n for noise, 1 for data.

    Examples:
      >>> print(np.asarray(scale_of(jnp.array([-80.0, 0.0, 80.0]), noise_scale=2.0)).round(3))
      [2.    0.943 1.   ]
    """
    alpha, sigma = alpha_sigma(jnp.asarray(logsnr))
    return 1 / (alpha + sigma / noise_scale)


def coordinates(z: Array, logsnr: Array, noise_scale: float = 1.0) -> tuple[Array, Array]:
    """(z_flow [B, ...], t [B]) of z [B, ...] at logsnr [B]; finite also at -inf and inf.

    Examples:
      >>> z, t = coordinates(jnp.array([[2.0]]), jnp.zeros(1))
      >>> print(np.asarray(z).round(3), np.asarray(t).round(3))  # z / sqrt(2) at t = 1/2
      [[1.414]] [0.5]
    """
    return expand(scale_of(logsnr, noise_scale), z) * z, time_of(logsnr, noise_scale)


def weight(logsnr: Array, noise_scale: float = 1.0, t_eps: float = 0.05) -> Array:
    """exp(-logsnr) / max(1 - t, t_eps)^2, the weight of ||eps - eps_hat||^2 in JiT's loss.

    It gives ||v - v_hat||^2 for velocities (x - z_flow) / max(1 - t, t_eps): Li & He 2025,
    algorithm 1. Shape of logsnr.

    Examples:
      >>> print(weight(jnp.zeros(1)), weight(jnp.zeros(1), t_eps=1.0))  # 1 / max(1/2, t_eps)^2
      [4.] [1.]
    """
    left = time_left(logsnr, noise_scale)
    return jnp.exp(-logsnr) / jnp.maximum(left, t_eps) ** 2


def clamped(predict: Predict, noise_scale: float = 1.0, t_eps: float = 0.05) -> Predict:
    """A Predict whose velocity is (x_hat - z_flow) / max(1 - t, t_eps), t_eps above 0.

        x_clamped = (1 - r) z_flow + r x_hat,   r = (1 - t) / max(1 - t, t_eps)

    Samplers then follow JiT's velocity without knowing it: Li & He 2025, algorithm 2. Training has
    the same limit in `weight`.

    Examples:
      >>> still = cfg_jax.as_predict(lambda z, logsnr, labels: jnp.zeros_like(z), "x")
      >>> slow = clamped(still, t_eps=0.5)  # no change below t = 1/2
      >>> z, labels = jnp.array([[2.0]]), jnp.zeros(1, jnp.int32)
      >>> print(np.asarray(slow(z, jnp.array([-2.0]), labels).x_hat).round(3))
      [[0.]]
    """

    def limited(z: Array, logsnr: Array, labels: Array) -> Output:
        output = predict(z, logsnr, labels)
        left = time_left(logsnr, noise_scale)
        r = expand(left / jnp.maximum(left, t_eps), z)
        z_flow, _ = coordinates(z, logsnr, noise_scale)
        found = from_x(z, (1 - r) * z_flow + r * x_for(z, output, logsnr), logsnr)
        return with_eps(output, eps_of(found), found.x_hat)

    return limited


@dataclasses.dataclass(frozen=True)
class FlowSchedule:
    """log-SNRs of t = sigmoid(N(p_mean, p_std^2)): a normal distribution, cut at TAIL deviations.

        logsnr(u) = mean - std Phi^-1(u),   mean = 2 p_mean - 2 log n,   std = 2 p_std

    Phi is the standard normal distribution function. JiT has p_mean = -0.8, p_std = 0.8 and
    n = 1 for 256 pixels, 2 for 512: Li & He 2025, section 4. Hashable, so it may be a static
    argument of a jitted function. Raises ValueError for numbers out of range.

    Examples:
      >>> schedule = cfg_jax.FlowSchedule(p_mean=0.0)
      >>> print(np.asarray(schedule(0.5)).round(3))  # the median of t is 1/2
      0.0
      >>> print(np.asarray(schedule.inverse(0.0)).round(3))
      0.5
    """

    p_mean: float = -0.8
    p_std: float = 0.8
    noise_scale: float = 1.0

    def __post_init__(self):
        for name, (least, most) in RANGES.items():
            allowed = f"a number from {least} to {most}"
            value = number(name, getattr(self, name), allowed, least, most)
            object.__setattr__(self, name, float(value))  # hashable, if it was an array

    @property
    def _mean(self) -> float:
        return 2 * (self.p_mean - math.log(self.noise_scale))

    @property
    def _std(self) -> float:
        return 2 * self.p_std

    @property
    def logsnr_min(self) -> float:
        return self._mean - TAIL * self._std

    @property
    def logsnr_max(self) -> float:
        return self._mean + TAIL * self._std

    def __call__(self, u: Array) -> Array:
        """logsnr(u), strictly decreasing; u of any shape, in [0, 1]."""
        u = jnp.clip(jnp.asarray(u, jnp.float32), 0.0, 1.0)
        # From the nearer end, as float32 has no digits left near 1.
        nearer = jnp.minimum(u, 1 - u)
        beyond = norm.ppf(_OUTSIDE + (1 - 2 * _OUTSIDE) * nearer)
        deviations = jnp.where(u < 0.5, -beyond, beyond)
        return self._mean + self._std * jnp.clip(deviations, -TAIL, TAIL)

    def inverse(self, logsnr: Array) -> Array:
        """u(logsnr) in [0, 1]."""
        deviations = (jnp.asarray(logsnr, jnp.float32) - self._mean) / self._std
        return jnp.clip((norm.cdf(-deviations) - _OUTSIDE) / (1 - 2 * _OUTSIDE), 0.0, 1.0)

    def density(self, logsnr: Array) -> Array:
        """p(logsnr) per unit of logsnr; 0 outside its range."""
        logsnr = jnp.asarray(logsnr, jnp.float32)
        inside = (logsnr >= self.logsnr_min) & (logsnr <= self.logsnr_max)
        p = norm.pdf(logsnr, self._mean, self._std)
        return jnp.where(inside, p / (1 - 2 * _OUTSIDE), 0.0)

    def grid(self, num_steps: int, inclusive: bool = True) -> np.ndarray:
        """log-SNRs of t = 0, 1/T, ..., (T - 1)/T, float64 [T] on the host: JiT's sampler.

        t = 0 is -MOST_LOGSNR, where z is noise alone: the network has to give x_hat, which eps_hat
        does not determine. The last call gives the sample at t = 1, so `inclusive` has no effect.
        Raises ValueError unless num_steps is an integer from 2 to MOST_STEPS.
        """
        flag("inclusive", inclusive)
        num_steps = whole("num_steps", num_steps, 2, MOST_STEPS)
        steps = np.arange(1, num_steps)
        logsnrs = 2 * (np.log(steps / (num_steps - steps)) - math.log(self.noise_scale))
        return np.concatenate([[-MOST_LOGSNR], logsnrs])

    def respaced(self, respacing: str) -> np.ndarray:
        """Raises ValueError: only a `timesteps.DiscreteSchedule` has timesteps to select."""
        raise no_timesteps(respacing)
