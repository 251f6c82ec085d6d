"""The cosine schedule from u in [0, 1] to log signal-to-noise ratio, and grids for samplers.

    logsnr(u) = -2 log tan(a u + b),  b = arctan(exp(-logsnr_max / 2)),
                                      a = arctan(exp(-logsnr_min / 2)) - b
    p(logsnr) = sech(logsnr / 2) / (4 a)            for u uniform on [0, 1]

u = 0 is clean data (logsnr_max), u = 1 is noise (logsnr_min). `diffusion` applies a logsnr to data.

Source: Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", section 2.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from cfg_jax.core.arguments import MOST_LOGSNR, flag, grid_of, is_concrete, number, text_of, whole
from cfg_jax.core.flow import FlowSchedule
from cfg_jax.core.timesteps import MOST_STEPS, DiscreteSchedule, no_timesteps
from cfg_jax.core.types import Array


@dataclasses.dataclass(frozen=True)
class CosineSchedule:
    """The truncated hyperbolic-secant distribution of log-SNR; made by `cosine_schedule`.

    Hashable, so it may be a static argument of a jitted function.

    Examples:
      >>> schedule = cfg_jax.cosine_schedule()
      >>> print(np.asarray(schedule(jnp.array([0.0, 0.5, 1.0]))).round(3))
      [ 20.   0. -20.]
      >>> print(np.asarray(schedule.density(0.0)).round(3))  # 1 / (2 pi)
      0.159
    """

    logsnr_min: float
    logsnr_max: float

    @property
    def _angles(self) -> tuple[float, float, float]:
        """a, b and the angle that remains to pi/2 at u = 1."""
        b = math.atan(math.exp(-self.logsnr_max / 2))
        left = math.atan(math.exp(self.logsnr_min / 2))
        return math.pi / 2 - left - b, b, left

    def _logsnr(self, u, xp):
        a, b, left = self._angles
        # tan is imprecise near pi/2, so the noisy half uses tan(theta) = 1 / tan(pi/2 - theta),
        # with pi/2 - theta computed from 1 - u.
        angle = a * u + b
        complement = a * (1 - u) + left
        clean_half = angle < math.pi / 4
        logsnr = xp.where(
            clean_half,
            -2 * xp.log(xp.tan(xp.where(clean_half, angle, 1.0))),
            2 * xp.log(xp.tan(xp.where(clean_half, 1.0, complement))),
        )
        logsnr = xp.where(u <= 0, self.logsnr_max, logsnr)
        return xp.where(u >= 1, self.logsnr_min, logsnr)

    def __call__(self, u: Array) -> Array:
        """logsnr(u), strictly decreasing; logsnr_max at u <= 0 and logsnr_min at u >= 1, exactly.

        u of any shape, in [0, 1]; the result is float32, within 1e-5 of the exact value.
        """
        return self._logsnr(jnp.asarray(u, jnp.float32), jnp)

    def inverse(self, logsnr: Array) -> Array:
        """u(logsnr) = (arctan(exp(-logsnr / 2)) - b) / a, in [0, 1] for logsnr within its range."""
        a, b, _ = self._angles
        return (jnp.arctan(jnp.exp(-jnp.asarray(logsnr, jnp.float32) / 2)) - b) / a

    def density(self, logsnr: Array) -> Array:
        """p(logsnr) = sech(logsnr / 2) / (4 a) per unit of logsnr; 0 outside its range."""
        logsnr = jnp.asarray(logsnr, jnp.float32)
        inside = (logsnr >= self.logsnr_min) & (logsnr <= self.logsnr_max)
        return jnp.where(inside, 1 / (4 * self._angles[0] * jnp.cosh(logsnr / 2)), 0.0)

    def grid(self, num_steps: int, inclusive: bool = True) -> np.ndarray:
        """logsnr(u) for T evenly spaced values of u: Ho & Salimans 2022, section 4.

        inclusive=True gives u = 1, ..., 0, as in the paper. False gives u = 1, ..., 1/T, which
        never reaches logsnr_max (Salimans & Ho 2022, arXiv 2202.00512). The result is [T] float32
        on the host, ascending, first exactly logsnr_min, last exactly logsnr_max if inclusive.

        Raises ValueError if num_steps is not an integer from 2 (from 1 if not inclusive) to
        MOST_STEPS.
        """
        least = 2 if flag("inclusive", inclusive) else 1
        num_steps = whole("num_steps", num_steps, least, MOST_STEPS)
        u = np.linspace(1.0, 0.0 if inclusive else 1.0 / num_steps, num_steps)
        return self._logsnr(u, np).astype(np.float32)

    def respaced(self, respacing: str) -> np.ndarray:
        """Raises ValueError: only a `timesteps.DiscreteSchedule` has timesteps to select."""
        raise no_timesteps(respacing)


Schedule = CosineSchedule | DiscreteSchedule | FlowSchedule


def cosine_schedule(logsnr_min: float = -20.0, logsnr_max: float = 20.0) -> CosineSchedule:
    """logsnr(u) = -2 log tan(a u + b): Ho & Salimans 2022, section 2.

    Returns a callable schedule(u) -> logsnr with `.inverse(logsnr)` and `.density(logsnr)`, from
    logsnr_max at u = 0 (data) to logsnr_min at u = 1 (noise). Raises ValueError if logsnr_min or
    logsnr_max is not a number from -80 to 80, or if logsnr_min is not below logsnr_max.

    Examples:
      >>> print(cfg_jax.cosine_schedule(logsnr_min=-10.0)(jnp.array([0.0, 1.0])))
      [ 20. -10.]
    """
    allowed = f"finite values from -{MOST_LOGSNR} to {MOST_LOGSNR} (the paper has -20 and 20)"
    for name, value in (("logsnr_min", logsnr_min), ("logsnr_max", logsnr_max)):
        number(name, value, allowed, -MOST_LOGSNR, MOST_LOGSNR)
    if not logsnr_min < logsnr_max:
        raise ValueError(
            f"logsnr_min={logsnr_min}, logsnr_max={logsnr_max}: need finite values with "
            "logsnr_min below logsnr_max (the paper has -20 and 20)"
        )
    return CosineSchedule(float(logsnr_min), float(logsnr_max))


def logsnr_grid(schedule: Schedule, num_steps: int, *, inclusive: bool = True) -> Array:
    """The T log-SNRs of a sampler, ascending: schedule.grid(num_steps, inclusive).

    Uniform in u for a `CosineSchedule`, evenly spaced timesteps for a `timesteps.DiscreteSchedule`.
    num_steps is T, the number of denoiser calls. Returns [T] float32, first exactly logsnr_min,
    last exactly logsnr_max if inclusive. Raises ValueError if `grid` rejects the arguments.

    Examples:
      >>> print(np.asarray(cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 3)).round(3))
      [-20.   0.  20.]
    """
    if not isinstance(schedule, Schedule):
        raise ValueError(f"schedule={text_of(schedule)}: need a schedule, as of `cosine_schedule`")
    return jnp.asarray(schedule.grid(num_steps, inclusive=inclusive))


def ascending(logsnrs: Array, *, least: int = 1, strictly: bool = False) -> Array:
    """A sampler's grid as float32 [T], checked to ascend from noise to data.

    -inf, noise alone, becomes -MOST_LOGSNR.

    Raises ValueError if logsnrs is not a vector of at least `least` values, or if concrete values
    are not finite or do not ascend (`strictly`, if set).
    """
    allowed = "an ascending grid of finite log-SNRs, from noise to data"
    logsnrs = jnp.asarray(grid_of(logsnrs, allowed), jnp.float32)
    if logsnrs.ndim != 1 or logsnrs.size < least:
        raise ValueError(
            f"logsnrs of shape {logsnrs.shape}: need a grid [T] of at least {least}, from "
            "`logsnr_grid`"
        )
    if is_concrete(logsnrs):
        gains = np.diff(np.asarray(logsnrs))
        if not np.all(gains > 0 if strictly else gains >= 0):
            twice = " without repeated values" if strictly else ""
            raise ValueError(f"logsnrs: need an ascending grid, from noise to data{twice}")
    return logsnrs
