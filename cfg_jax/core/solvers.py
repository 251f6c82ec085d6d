"""Solvers of the sampling equation, written on vectors of coefficients.

    [z', anchor'] = M_k [z, anchor, x_0, x_1, x_2, x_3, noise]        M_k is [2, 7]

x_0 is x_hat of denoiser call k, x_1, x_2, x_3 are those of the calls before, anchor is a second
state. Every solver here is linear in these, with coefficients of the grid alone. So a step is its
formula, with a unit vector in place of each state; `plans.plan` collects the rows.

With h = (logsnr_s - logsnr_t) / 2 and x(t) a polynomial in half log-SNR through known x_hats,

    z_s = (sigma_s / sigma_t) z_t + alpha_s int_0^h exp(-(h - t)) x(t) dt

is exact for such x, and DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) with one, two or three
points. UniPC is Zhao et al. 2023, arXiv 2302.04867; Heun and churn are Karras et al. 2022, arXiv
2206.00364, algorithms 1 and 2; DEIS is Zhang & Chen 2023, arXiv 2204.13902.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Z, ANCHOR, X0, X1, X2, X3, NOISE = np.eye(7)
"""Columns of a row as vectors, so that a step is written as its formula."""


class Level(NamedTuple):
    """A grid point: half its log-SNR, alpha, sigma, and ve = sigma / alpha."""

    half: float
    alpha: float
    sigma: float

    @property
    def ve(self) -> float:
        return self.sigma / self.alpha


class Row(NamedTuple):
    """A call at `level`, the new z and anchor as vectors, and the part of the call in its step."""

    level: Level
    z: np.ndarray
    anchor: np.ndarray
    starts: bool = True
    corrects: bool = False


class Request(NamedTuple):
    """The grid and the arguments of `plan`, as read by the functions that make rows."""

    levels: Sequence[Level]
    eta: float
    max_ratio: float
    taylor: bool
    lower_final: bool
    logvar_interp: float
    corrections: int
    noise_scale: float

    def order(self, k: int, most: int) -> int:
        """Number of x_hats that gap k may use, at most `most`."""
        left = len(self.levels) - 1 - k if self.lower_final else most
        return min(most, k + 1, left)


Steps = Callable[[Request, int], list[Row]]
"""(request, k) -> the rows of gap k, from grid point k to k + 1."""


def level_at(logsnr: float) -> Level:
    alpha, sigma = (1 / math.sqrt(1 + math.exp(sign * logsnr)) for sign in (-1, 1))
    return Level(logsnr / 2, alpha, sigma)


def _between(t: Level, s: Level, fraction: float) -> Level:
    return level_at(2 * (t.half + fraction * (s.half - t.half)))


def _eps(level: Level, z: np.ndarray, x: np.ndarray) -> np.ndarray:
    """eps_hat = (z - alpha x_hat) / sigma."""
    return (z - level.alpha * x) / level.sigma


def _exponential(t: Level, s: Level, z: np.ndarray, x: np.ndarray, eta: float = 0.0):
    """z_s for constant x_hat; eta = 0 is DDIM, eta = 1 ancestral sampling, without its noise."""
    h = s.half - t.half
    decay = s.sigma / t.sigma * math.exp(-eta * h)
    return decay * z - s.alpha * math.expm1(-(1 + eta) * h) * x


def _noise(s: Level, h: float, eta: float) -> np.ndarray:
    """The noise of an exponential step: sigma_s sqrt(1 - exp(-2 eta h)) n."""
    return s.sigma * math.sqrt(-math.expm1(-2 * eta * h)) * NOISE


def _mean_weights(h: float, times: Sequence[float]) -> np.ndarray:
    """Weights of x_hats at `times`, in units of h, whose sum is the x_hat of an exponential step.

    They are exact for polynomials: sum_j w_j t_j^i = psi_i / psi_0 with psi_i = int_0^1 of
    h exp(-h (1 - t)) t^i dt, that is psi_0 = 1 - exp(-h), psi_i = 1 - (i / h) psi_(i - 1).
    """
    psi = [-math.expm1(-h)]
    for i in range(1, len(times)):
        psi.append(1 - i / h * psi[-1])
    powers = np.vander(times, increasing=True).T
    return np.linalg.solve(powers, np.array(psi) / psi[0])


def _times(request: Request, k: int, count: int) -> list[float]:
    """Times of x_0, x_1, ... before gap k in units of its length, at most max_ratio shorter."""
    half = [level.half for level in request.levels]
    h = half[k + 1] - half[k]
    gaps = [half[k - j + 1] - half[k - j] for j in range(1, count)]
    return [0.0, *np.cumsum([-max(gap / h, 1 / request.max_ratio) for gap in gaps])]


def _ddim(request: Request, k: int) -> list[Row]:
    t, s = request.levels[k : k + 2]
    std = request.eta * math.sqrt(-math.expm1(-2 * (s.half - t.half))) * s.sigma
    eps = math.sqrt(s.sigma**2 - std**2) * _eps(t, Z, X0)
    return [Row(t, s.alpha * X0 + eps + std * NOISE, ANCHOR)]


def _ancestral(request: Request, k: int) -> list[Row]:
    t, s = request.levels[k : k + 2]
    h, v = s.half - t.half, request.logvar_interp
    std = math.sqrt(-math.expm1(-2 * h)) * s.sigma ** (1 - v) * t.sigma**v
    return [Row(t, _exponential(t, s, Z, X0, eta=1.0) + std * NOISE, ANCHOR)]


def _multistep(most: int) -> Steps:
    """DPM-Solver++ 2M and 3M; with eta > 0 their stochastic form."""

    def rows(request: Request, k: int) -> list[Row]:
        t, s = request.levels[k : k + 2]
        h, eta = s.half - t.half, request.eta
        times = _times(request, k, request.order(k, most))
        if len(times) == 2 and not request.taylor:
            kappa = -1 / (2 * times[1])  # the published 2M takes x half way through the gap
            weights = np.array([1 + kappa, -kappa])
        else:
            weights = _mean_weights((1 + eta) * h, times)
        x = weights @ [X0, X1, X2][: len(times)]
        return [Row(t, _exponential(t, s, Z, x, eta) + _noise(s, h, eta), ANCHOR)]

    return rows


def _unipc(most: int) -> Steps:
    """UniPC-p with B(h) = bh2: corrects z at this grid point, then predicts the next one."""

    def rows(request: Request, k: int) -> list[Row]:
        t, s = request.levels[k : k + 2]
        here = Z if k == 0 else _corrected(request, k, request.order(k - 1, most))
        times = _times(request, k, request.order(k, most))
        if len(times) == 2:
            kappa = -1 / (2 * times[1])
            weights = np.array([1 + kappa, -kappa])
        else:
            weights = _mean_weights(s.half - t.half, times)
        x = weights @ [X0, X1, X2][: len(times)]
        return [Row(t, _exponential(t, s, here, x), here)]

    return rows


def _corrected(request: Request, k: int, order: int) -> np.ndarray:
    """z at grid point k from the anchor at k - 1, with x_0 at k itself."""
    before, t = request.levels[k - 1 : k + 1]
    if order == 1:
        weights = np.array([0.5, 0.5])
    else:
        times = [1.0, *_times(request, k - 1, order)]
        weights = _mean_weights(t.half - before.half, times)
    x = weights @ [X0, X1, X2, X3][: order + 1]
    return _exponential(before, t, ANCHOR, x)


def _heun(request: Request, k: int) -> list[Row]:
    """Algorithm 1 of Karras et al. 2022: Euler, then the trapezoid of both slopes."""
    t, s = request.levels[k : k + 2]
    euler = _exponential(t, s, Z, X0)
    slope = (_eps(t, ANCHOR, X1) + _eps(s, Z, X0)) / 2
    end = s.alpha * (ANCHOR / t.alpha + (s.ve - t.ve) * slope)
    return [Row(t, euler, Z), Row(s, end, ANCHOR, starts=False)]


def _heun_flow(request: Request, k: int) -> list[Row]:
    """Euler, then the mean of both velocities of `flow`: Li & He 2025, arXiv 2511.13720, as JiT.

    It is DDIM's step for x_hat = X1 + (1 - t) / (2 (1 - s)) (X0 - X1), from time t to time s.
    Unlike `_heun` it can begin at noise alone.
    """
    t, s = request.levels[k : k + 2]
    left_t, left_s = (at.sigma / (at.alpha * request.noise_scale + at.sigma) for at in (t, s))
    x = X1 + left_t / (2 * left_s) * (X0 - X1)
    euler, end = _exponential(t, s, Z, X0), _exponential(t, s, ANCHOR, x)
    return [Row(t, euler, Z), Row(s, end, ANCHOR, starts=False)]


def _singlestep_2(request: Request, k: int) -> list[Row]:
    """DPM-Solver++(2S): x_hat half way through the gap."""
    t, s = request.levels[k : k + 2]
    middle = _between(t, s, 1 / 2)
    half_way = _exponential(t, middle, Z, X0)
    end = _exponential(t, s, ANCHOR, X0)
    return [Row(t, half_way, Z), Row(middle, end, ANCHOR, starts=False)]


def _singlestep_3(request: Request, k: int) -> list[Row]:
    """DPM-Solver++(3S): x_hats at one and two thirds of the gap."""
    t, s = request.levels[k : k + 2]
    one, two = _between(t, s, 1 / 3), _between(t, s, 2 / 3)
    to_two = _mean_weights(two.half - t.half, [1 / 2, 0.0]) @ [X0, X1]
    to_end = _mean_weights(s.half - t.half, [2 / 3, 0.0]) @ [X0, X2]
    return [
        Row(t, _exponential(t, one, Z, X0), Z),
        Row(one, _exponential(t, two, ANCHOR, to_two), ANCHOR, starts=False),
        Row(two, _exponential(t, s, ANCHOR, to_end), ANCHOR, starts=False),
    ]


def _deis(request: Request, k: int) -> list[Row]:
    """DEIS-2 in log rho: eps_hat as a line in half log-SNR through the last two calls."""
    t, s = request.levels[k : k + 2]
    z, h = _exponential(t, s, Z, X0), s.half - t.half
    if request.order(k, 2) == 2:
        before = request.levels[k - 1]
        ratio = min(h / (t.half - before.half), request.max_ratio)
        # int of exp(-(t - h)) (t / h) over the gap, over that of exp(-(t - h)); both in eps.
        growth = math.expm1(h)
        change = ratio * (1 / h - 1 / growth) * (_eps(t, Z, X0) - _eps(before, ANCHOR, X1))
        z = z + s.alpha * (s.ve - t.ve) * change
    return [Row(t, z, Z)]


def _predictor_corrector(request: Request, k: int) -> list[Row]:
    """A DDIM step, then Langevin steps at its end: Bradley & Nakkiran 2024, arXiv 2408.09000."""
    t, s = request.levels[k : k + 2]
    variance = s.alpha**2 * (t.ve**2 - s.ve**2)
    langevin = Z - variance / (2 * s.sigma) * _eps(s, Z, X0) + math.sqrt(variance) * NOISE
    correct = Row(s, langevin, ANCHOR, starts=False, corrects=True)
    return [Row(t, _exponential(t, s, Z, X0), ANCHOR)] + [correct] * request.corrections


class Solver(NamedTuple):
    """Rows of a gap, calls per gap, and the arguments of `plan` that count for it.

    own_weight: whether a call has the guidance weight of its own log-SNR, not of its step's.
    """

    rows: Steps
    calls: int = 1
    takes: tuple[str, ...] = ()
    lower_final: bool = False
    own_weight: bool = False


SOLVERS: dict[str, Solver] = {
    "ancestral": Solver(_ancestral, takes=("logvar_interp",)),
    "ddim": Solver(_ddim, takes=("eta", "churn")),
    "dpmpp_2m": Solver(_multistep(2), takes=("eta", "taylor", "lower_final")),
    "dpmpp_3m": Solver(_multistep(3), takes=("eta", "taylor", "lower_final")),
    "unipc_1": Solver(_unipc(1), takes=("lower_final",), lower_final=True),
    "unipc_2": Solver(_unipc(2), takes=("lower_final",), lower_final=True),
    "unipc_3": Solver(_unipc(3), takes=("lower_final",), lower_final=True),
    "deis_2": Solver(_deis, takes=("lower_final",)),
    "heun": Solver(_heun, calls=2, takes=("churn",)),
    "heun_flow": Solver(_heun_flow, calls=2, takes=("noise_scale",), own_weight=True),
    "dpmpp_2s": Solver(_singlestep_2, calls=2),
    "dpmpp_3s": Solver(_singlestep_3, calls=3),
    "pcg": Solver(_predictor_corrector, takes=("corrections",)),
}
"""Solvers by name."""

SHORTER = {1: _ddim, 2: _singlestep_2}
"""Rows of a last gap with fewer calls than the others."""
