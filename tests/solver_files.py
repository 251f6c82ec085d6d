"""Golden runs of other programs' solvers, and a float64 NumPy interpreter of a plan."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

import cfg_jax

FOLDER = Path(__file__).parent / "golden" / "solvers"
INF = math.inf
CHURN = cfg_jax.Churn(4.0, 0.05, 50.0, 1.003)


class Case(NamedTuple):
    """A golden file, the plan that reproduces it, and whether x_hat is clipped."""

    file: str
    solver: str
    options: dict
    clip: bool = False


def _cases():
    for eta in (0.0, 0.5, 1.0):
        yield f"diffusers_ddim_eta{eta}_clip0_reuse0", "ddim", {"eta": eta}
        yield f"diffusers_ddim_eta{eta}_clip1_reuse1", "ddim", {"eta": eta}, True
    for last in (0, 1):
        lowered = {"lower_final": bool(last)}
        yield f"diffusers_dpmpp2m_midpoint_lof{last}_zero0", "dpmpp_2m", lowered
        yield f"diffusers_dpmpp2m_heun_lof{last}_zero0", "dpmpp_2m", {"taylor": True, **lowered}
        yield f"diffusers_dpmpp1m_midpoint_lof{last}_zero0", "ddim", {}
    yield "diffusers_dpmpp1m_midpoint_lof1_zero1", "ddim", {}
    yield "diffusers_dpmpp2m_midpoint_lof1_zero1", "dpmpp_2m", {}
    yield "diffusers_dpmpp2m_heun_lof1_zero1", "dpmpp_2m", {"taylor": True}
    yield "diffusers_sde_dpmpp1m_midpoint", "ancestral", {}
    yield "diffusers_sde_dpmpp2m_midpoint", "dpmpp_2m", {"eta": 1.0}
    yield "diffusers_sde_dpmpp2m_heun", "dpmpp_2m", {"eta": 1.0, "taylor": True}
    yield "diffusers_deis_o2", "deis_2", {"lower_final": True}
    for order in (1, 2, 3):
        yield f"diffusers_unipc_bh2_o{order}_x", f"unipc_{order}", {}
    yield "unipc_bh2_o2", "unipc_2", {}
    yield "unipc_bh2_o3", "unipc_3", {}
    yield "kdiff_euler", "ddim", {}
    yield "kdiff_euler_ancestral", "ddim", {"eta": 1.0}
    yield "kdiff_euler_churn", "ddim", {"churn": CHURN}
    yield "kdiff_heun", "heun", {}
    yield "kdiff_heun_clip", "heun", {}, True
    yield "kdiff_heun_churn", "heun", {"churn": CHURN}
    yield "kdiff_dpmpp_2m", "dpmpp_2m", {}
    yield "kdiff_dpmpp_2m_clip", "dpmpp_2m", {}, True
    yield "kdiff_dpmpp_2m_sde_midpoint", "dpmpp_2m", {"eta": 1.0}
    yield "kdiff_dpmpp_2m_sde_heun", "dpmpp_2m", {"eta": 1.0, "taylor": True}
    yield "kdiff_dpmpp_2s", "dpmpp_2s", {}
    yield "edm_heun", "heun", {}
    yield "edm_heun_churn", "heun", {"churn": CHURN._replace(amount=5.0)}
    yield "edm2_guided", "heun", {}
    yield "dpm_solver_2m", "dpmpp_2m", {"lower_final": True}
    yield "dpm_solver_2m_nolof", "dpmpp_2m", {}
    yield "dpm_solver_2s", "dpmpp_2s", {}
    yield "dpm_solver_3s", "dpmpp_3s", {}


def cases():
    """All cases, one per grid."""
    for name, *rest in _cases():
        for path in sorted(FOLDER.glob(f"{name}*.npz")):
            if path.stem.removeprefix(name) in ("", "_cosine", "_karras"):
                yield Case(path.stem, *rest)


@functools.cache
def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        golden = dict(file)
    golden["labels"] = golden.get("labels", np.zeros(0)).astype(np.int32)
    if "w_scalar" in golden:
        golden["w"] = np.full(len(golden["labels"]), golden["w_scalar"])
    if "latents" in golden:
        alpha, sigma = alpha_sigma(golden["logsnrs"][0])
        golden["z_1"] = golden["latents"] * sigma  # alpha times sigma / alpha
    return golden


def plan_of(case):
    """The plan of a case; max_ratio inf reproduces the solvers as published."""
    golden = load(case.file)
    return cfg_jax.plan(golden["logsnrs"], case.solver, max_ratio=INF, **case.options)


def noise_of(case, plan):
    """Noise of every call [C, B, ...]: churn is added at the end of the call before its step."""
    golden = load(case.file)
    noise = np.zeros((len(plan.logsnr), *golden["z_1"].shape))
    if "noise" in golden:
        step = np.cumsum(plan.starts) - 1
        ahead = 1 if "churn" in case.options else 0
        for call in np.flatnonzero(plan.matrix[:, 0, 6]):
            noise[call] = golden["noise"][step[call] + ahead]
    return noise


def alpha_sigma(logsnr):
    return 1 / math.sqrt(1 + math.exp(-logsnr)), 1 / math.sqrt(1 + math.exp(logsnr))


def branches64(golden, z, logsnr):
    """eps_hat of the mixture of a golden file with the label and without, in float64."""
    alpha, sigma = alpha_sigma(logsnr)
    variance = np.broadcast_to(golden["variance"], len(golden["means"]))
    total = alpha**2 * variance + sigma**2
    difference = z[:, None] - alpha * golden["means"]
    axes = tuple(range(2, difference.ndim))
    each = sigma * difference / total.reshape(-1, *[1] * len(axes))
    size = golden["means"][0].size
    logits = np.log(golden["weights"]) - size / 2 * np.log(total)
    logits = logits - (difference**2).sum(axes) / (2 * total)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    return each[np.arange(len(z)), golden["labels"]], np.einsum("bk,bk...->b...", share, each)


def guided64(golden, z, logsnr, w):
    """x_hat of classifier-free guidance, in float64."""
    conditional, unconditional = branches64(golden, z, logsnr)
    w = np.reshape(w, (-1, *[1] * (z.ndim - 1)))
    alpha, sigma = alpha_sigma(logsnr)
    return (z - sigma * ((1 + w) * conditional - w * unconditional)) / alpha


def run(plan, x_hat, z, noise=None, clip=False):
    """(z of every call, x_hat of every call): a plan read row by row in float64.

    x_hat is a function (z, logsnr, call) -> x_hat.
    """
    anchor = np.zeros_like(z)
    before = [np.zeros_like(z)] * 3
    states, estimates = [], []
    for call, (logsnr, matrix) in enumerate(zip(plan.logsnr, plan.matrix, strict=True)):
        x = x_hat(z, logsnr, call)
        x = np.clip(x, -1, 1) if clip else x
        states.append(z)
        estimates.append(x)
        columns = [z, anchor, x, *before, np.zeros_like(z) if noise is None else noise[call]]
        z, anchor = np.einsum("ij,j...->i...", matrix, np.stack(columns))
        before = [x, *before[:2]]
    return np.stack(states), np.stack(estimates)
