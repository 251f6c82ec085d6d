"""Diffusion processes of N discrete steps as schedules of log-SNR.

    abar_t = prod_{i <= t} (1 - beta_i)
    logsnr_t = log(abar_t / (1 - abar_t)),   t = 0 the cleanest, t = N - 1 the noisiest

z at timestep t is z at logsnr_t. A step from t to any earlier timestep is `diffusion.posterior`
between their log-SNRs, so a subset of the timesteps needs no betas of its own. A `DiscreteSchedule`
is accepted wherever a `schedules.CosineSchedule` is.

Source: Ho et al. 2020 (arXiv 2006.11239); Nichol & Dhariwal 2021 (arXiv 2102.09672), section 4.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from cfg_jax.core.arguments import flag, real, text_of, whole
from cfg_jax.core.types import Array

MOST_STEPS = 100_000
"""Most network calls and timesteps; a larger number is a mistake and would fill the memory."""

_DIGITS = 9

_FORMS = (
    "give '250' (evenly spaced), 'ddim25' (an integer stride from timestep 0) or "
    "'90,60,60,20,20' (equal sections, the cleanest first), at least 2 timesteps in total"
)


@dataclasses.dataclass(frozen=True)
class DiscreteSchedule:
    """The log-SNRs of N timesteps; created by `linear_timesteps` or `cosine_timesteps`.

    `logsnrs[t]` is the log-SNR of timestep t = 0..N-1, from clean to noisy. All returned arrays are
    float32. The schedule is hashable, so it may be a static argument of a jitted function.

    Raises ValueError if there are fewer than 2 log-SNRs, if a log-SNR is not finite, or if the
    log-SNRs do not strictly decrease in float32.

    Examples:
      >>> schedule = cfg_jax.DiscreteSchedule([2.0, 0.0, -2.0])
      >>> print(schedule(jnp.array([0.0, 1.0])), schedule.timestep(0.0))
      [ 2. -2.] 1.0
    """

    logsnrs: tuple[float, ...]

    def __post_init__(self):
        given = real("logsnrs", self.logsnrs, "log-SNRs, from clean to noisy")
        if given.ndim != 1:
            raise ValueError(f"logsnrs of shape {given.shape}: need one log-SNR per timestep")
        object.__setattr__(self, "logsnrs", tuple(float(logsnr) for logsnr in given))
        if self.num_timesteps < 2:
            raise ValueError(f"logsnrs={self.logsnrs}: need at least 2 timesteps")
        table = self._table
        wrong = ~np.isfinite(table)
        wrong[1:] |= ~(table[1:] < table[:-1])
        if wrong.any():
            t = int(np.argmax(wrong))
            raise ValueError(
                f"logsnrs[{t}]={self.logsnrs[t]}: need finite values from clean to noisy, "
                "strictly decreasing in float32"
            )

    def __repr__(self) -> str:
        ends = f"logsnr_min={self.logsnr_min}, logsnr_max={self.logsnr_max}"
        return f"DiscreteSchedule(num_timesteps={self.num_timesteps}, {ends})"

    @property
    def num_timesteps(self) -> int:
        """N, the number of timesteps."""
        return len(self.logsnrs)

    @property
    def logsnr_min(self) -> float:
        """The log-SNR of the noisiest timestep, N - 1."""
        return self.logsnrs[-1]

    @property
    def logsnr_max(self) -> float:
        """The log-SNR of the cleanest timestep, 0."""
        return self.logsnrs[0]

    @property
    def _table(self) -> np.ndarray:
        return np.asarray(self.logsnrs, np.float32)

    def __call__(self, u: Array) -> Array:
        """logsnr_t at t = min(floor(u N), N - 1): a uniform u gives a uniform timestep.

        u has any shape, 0 clean and 1 noise, and is clipped to [0, 1]. The result is float32 of u's
        shape, always an entry of the table.
        """
        t = jnp.floor(jnp.asarray(u, jnp.float32) * self.num_timesteps)
        t = jnp.clip(t, 0, self.num_timesteps - 1).astype(jnp.int32)
        return jnp.asarray(self._table)[t]

    def inverse(self, logsnr: Array) -> Array:
        """u = (t + 1/2) / N with t = timestep(logsnr): float32 of logsnr's shape, inside (0, 1).

        schedule(inverse(logsnr_t)) is exactly logsnr_t. u is the middle of the interval
        [t / N, (t + 1) / N) of timestep t, and therefore never 0 or 1.
        """
        return (self.timestep(logsnr) + 0.5) / self.num_timesteps

    def timestep(self, logsnr: Array) -> Array:
        """t(logsnr), linear in logsnr between table entries: the noise input of some networks.

        logsnr has any shape and is clipped to [logsnr_min, logsnr_max]. The result is float32 in
        [0, N - 1], an integer at the table's entries.
        """
        noisiest_first = jnp.asarray(self._table[::-1])
        t = jnp.arange(self.num_timesteps - 1, -1, -1, dtype=jnp.float32)
        return jnp.interp(jnp.asarray(logsnr, jnp.float32), noisiest_first, t)

    def logsnr(self, t: Array) -> Array:
        """logsnr(t) of a real t, the inverse of `timestep`; the table's entry at an integer.

        t has any shape and is clipped to [0, N - 1]. The result is float32.
        """
        integers = jnp.arange(self.num_timesteps, dtype=jnp.float32)
        return jnp.interp(jnp.asarray(t, jnp.float32), integers, jnp.asarray(self._table))

    def grid(self, num_steps: int, inclusive: bool = True) -> np.ndarray:
        """logsnr_t of the T timesteps round(i (N - 1) / (T - 1)), i = T-1, ..., 0.

        The evenly respaced process of Nichol & Dhariwal 2021, section 4; T = N keeps all timesteps.
        Returns [T] float32 on the host, ascending, from exactly logsnr_min to exactly logsnr_max.
        Raises ValueError if num_steps is not an integer in 2..N, or if inclusive is False.
        """
        if not flag("inclusive", inclusive):
            raise ValueError(
                "inclusive=False: a discrete process has no such grid, because its log-SNRs are "
                "its N timesteps and the last call belongs to t = 0; use inclusive=True"
            )
        num_steps = whole("num_steps", num_steps, 2, self.num_timesteps)
        return self._ascending(_evenly_spaced(self.num_timesteps, num_steps))

    def respaced(self, respacing: str) -> np.ndarray:
        """logsnr_t of the timesteps that ADM's `timestep_respacing` string selects.

        - "250": 250 evenly spaced timesteps, as `grid(250)`.
        - "ddim25": t = 0, s, 2s, ..., with the smallest integer stride s that gives 25 timesteps.
        - "90,60,60,20,20": 90, 60, ... evenly spaced timesteps from each of 5 equal sections, the
          cleanest first. If 5 does not divide N, the first sections are longer by one.

        Source: Dhariwal & Nichol 2021 (arXiv 2105.05233), whose LSUN samples use the third string.
        Returns [T] float32 on the host, ascending. The last value is exactly logsnr_max; the first
        is logsnr_min if timestep N - 1 is selected, which "ddim25" omits.

        Raises ValueError if the string has a different form, if a section has too few timesteps, or
        if no integer stride gives the number of timesteps.
        """
        text = respacing.strip() if isinstance(respacing, str) else ""
        if text.startswith("ddim") and text[4:].isdecimal() and len(text) <= 4 + _DIGITS:
            return self._ascending(_strided(self.num_timesteps, int(text[4:]), respacing))
        numbers = [number.strip() for number in text.split(",")]
        counts = [int(text) for text in numbers if text.isdecimal() and len(text) <= _DIGITS]
        if len(counts) < len(numbers) or min(counts) < 1 or sum(counts) < 2:
            raise ValueError(f"respacing={text_of(respacing)}: {_FORMS}")
        return self._ascending(_by_section(self.num_timesteps, counts, respacing))

    def _ascending(self, timesteps: np.ndarray) -> np.ndarray:
        return self._table[timesteps[::-1]]


def _evenly_spaced(length: int, count: int) -> np.ndarray:
    """`count` integers from 0 to length - 1; only 0 if count is 1."""
    stride = (length - 1) / max(count - 1, 1)
    # A running sum, not multiples of the stride: its rounding errors decide exact halves as in the
    # published samples.
    return np.rint(np.cumsum([0.0] + [stride] * (count - 1))).astype(int)


def _strided(num_timesteps: int, count: int, respacing: str) -> np.ndarray:
    """The `count` timesteps 0, s, 2s, ... below num_timesteps."""
    sizes = {stride: len(range(0, num_timesteps, stride)) for stride in range(1, num_timesteps)}
    for stride, size in sizes.items():
        if size == count:
            return np.arange(0, num_timesteps, stride)
    nearest = min(sizes.values(), key=lambda size: abs(size - count))
    raise ValueError(
        f"respacing={text_of(respacing)}: no integer stride takes exactly {count} of "
        f"{num_timesteps} timesteps; the nearest is 'ddim{nearest}'"
    )


def _by_section(num_timesteps: int, counts: list[int], respacing: str) -> np.ndarray:
    """Evenly spaced timesteps of each of len(counts) equal sections."""
    chosen, equal = [], np.array_split(np.arange(num_timesteps), len(counts))
    for section, count in zip(equal, counts, strict=True):
        if count > len(section):
            raise ValueError(
                f"respacing={text_of(respacing)}: {count} timesteps of a section of "
                f"{len(section)}; choose fewer, as {num_timesteps} timesteps are split into "
                f"{len(counts)} equal sections"
            )
        chosen.append(section[_evenly_spaced(len(section), count)])
    return np.concatenate(chosen)


def _schedule_of(betas: np.ndarray) -> DiscreteSchedule:
    """logsnr_t = log(abar_t / (1 - abar_t)) from float64 betas."""
    alphas_cumprod = np.cumprod(1 - betas)
    return DiscreteSchedule(tuple(np.log(alphas_cumprod) - np.log1p(-alphas_cumprod)))


def linear_timesteps(num_timesteps: int = 1000) -> DiscreteSchedule:
    """beta_t linear from 1e-4 to 0.02, both times 1000 / N: Ho et al. 2020, section 4.

    The scaling (Nichol & Dhariwal 2021) keeps logsnr_min close to its value for N = 1000. Raises
    ValueError if N = num_timesteps is no integer or above MOST_STEPS, or if N is below 21, because
    the last beta would be 1 or more.

    Examples:
      >>> schedule = cfg_jax.linear_timesteps()
      >>> print(schedule.num_timesteps, round(schedule.logsnr_max, 2))  # log(1 / 1e-4 - 1)
      1000 9.21
    """
    whole("num_timesteps", num_timesteps, 0, MOST_STEPS)
    if num_timesteps < 21:
        raise ValueError(
            f"num_timesteps={num_timesteps}: the linear process needs at least 21, since the last "
            "beta is 20 / num_timesteps and must stay below 1; use cosine_timesteps for fewer"
        )
    scale = 1000 / num_timesteps
    return _schedule_of(np.linspace(1e-4 * scale, 0.02 * scale, num_timesteps))


def cosine_timesteps(num_timesteps: int = 1000) -> DiscreteSchedule:
    """beta_t = min(1 - f((t + 1) / N) / f(t / N), 0.999), f(u) = cos^2((u + .008) / 1.008 pi/2).

    Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 17. Raises ValueError if N is no
    integer from 2 to MOST_STEPS.

    Examples:
      >>> print(np.asarray(cfg_jax.cosine_timesteps().grid(4)).round(1))
      [-19.8  -1.1   1.1  10.1]
    """
    whole("num_timesteps", num_timesteps, 2, MOST_STEPS)
    u = np.linspace(0.0, 1.0, num_timesteps + 1)
    f = np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return _schedule_of(np.minimum(1 - f[1:] / f[:-1], 0.999))


def no_timesteps(respacing: str) -> ValueError:
    """The error of a respacing for a schedule that is continuous."""
    return ValueError(
        f"respacing={text_of(respacing)}: this model's schedule is continuous and has "
        "no timesteps; give num_steps"
    )
