"""Error of solvers and grids on an exact Gaussian mixture, in float64.

    python benchmarks/solver_errors.py

Root mean square error of the last x_hat at w = 2 against a fine grid of the same ends, as a table
in Markdown. Runs in seconds, on the host, with the mixture and the interpreter of the tests.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import cfg_jax  # noqa: E402
from cfg_jax.core import grids  # noqa: E402
from tests.solver_files import INF, guided64, load, run  # noqa: E402

CALLS = (8, 16, 32, 64)
SOLVERS = {
    "ddim": {},
    "dpmpp_2m, max_ratio=inf": {"max_ratio": INF},
    "dpmpp_2m": {},
    "dpmpp_3m": {},
    "unipc_2": {},
    "heun, max_ratio=inf": {"max_ratio": INF},
    "dpmpp_2s": {},
}
SAMPLES, W = 96, 2.0


def main() -> None:
    golden = load("kdiff_euler_cosine") | {"labels": np.arange(SAMPLES) % 3}
    shape = golden["z_1"].shape[1:]
    z_1 = np.random.default_rng(0).standard_normal((SAMPLES, *shape))
    schedule = cfg_jax.cosine_schedule()

    def end(solver: str, grid: str, calls: int, **options) -> np.ndarray:
        points = cfg_jax.core.plans.grid_points(solver, calls)
        logsnrs = grids.grid(grid, schedule, points)
        plan = cfg_jax.plan(logsnrs, solver, num_calls=calls, **options)
        return run(plan, lambda z, logsnr, call: guided64(golden, z, logsnr, W), z_1)[1][-1]

    print(f"| solver, {', '.join(map(str, CALLS))} calls | " + " | ".join(GRIDS) + " |")
    print("| --- |" + " --- |" * len(GRIDS))
    fine = {grid: end("unipc_2", grid, 2000) for grid in GRIDS}
    for name, options in SOLVERS.items():
        cells = []
        for grid in GRIDS:
            solver = name.partition(",")[0]
            differences = (end(solver, grid, calls, **options) - fine[grid] for calls in CALLS)
            cells.append(", ".join(f"{np.sqrt(np.mean(d**2)):.2g}" for d in differences))
        print(f"| `{name}` | " + " | ".join(cells) + " |")


GRIDS = ("schedule", "mixed", "karras")

if __name__ == "__main__":
    main()
