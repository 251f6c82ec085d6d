"""Time of a guided sampler against its bare network calls, and what an interval saves.

    python benchmarks/sampler_overhead.py [--workdir=runs/digits]

Without a run, the network of configs/digits.py with random parameters. Times are medians of
interleaved repetitions on one device; compare the ratios, not the seconds.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import cfg_jax  # noqa: E402
from cfg_jax.config import build  # noqa: E402
from cfg_jax.sampling.loading import load_model  # noqa: E402
from configs import digits  # noqa: E402

CALLS, BATCH, REPEATS = 32, 64, 7


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir")
    workdir = parser.parse_args().workdir
    task = build.assemble(digits.get_config(), (8, 8, 1), 10)
    if workdir:
        loaded = load_model(workdir)
        task, params = loaded.experiment, loaded.params
    else:
        params = jax.jit(task.init)(jax.random.key(0))
    labels = jnp.arange(BATCH) % task.num_classes
    shape = (BATCH, *task.shape)
    grid = task.schedule.grid(CALLS)
    plan = cfg_jax.plan(grid, "unipc_2")
    quarter = float(grid[CALLS // 2 - CALLS // 8]), float(grid[CALLS // 2 + CALLS // 8])
    weights = {
        "guided everywhere": cfg_jax.weights(plan, 1.0),
        "interval of a quarter": cfg_jax.weights(plan, 1.0, interval=quarter),
    }

    @jax.jit
    def bare(params):
        """CALLS forward passes of 2B, each on the result of the one before."""
        predict = task.predict(params)
        both = jnp.concatenate([labels, jnp.full_like(labels, task.null_label)])

        def body(z, logsnr):
            out = predict(z, jnp.broadcast_to(logsnr, (2 * BATCH,)), both)
            return 0.5 * z + 0.1 * out, None

        z = jnp.ones((2 * BATCH, *task.shape))
        return jax.lax.scan(body, z, jnp.asarray(grid))[0]

    @jax.jit
    def sample(params, weights):
        every = cfg_jax.branches(task.predict(params), labels, null_label=task.null_label)
        guided = cfg_jax.guide(every, weights)
        return cfg_jax.sample(jax.random.key(0), guided, shape, plan)

    runs = {"bare forward passes": lambda: bare(params)}
    runs |= {name: lambda w=w: sample(params, w) for name, w in weights.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            jax.block_until_ready(run())
            if repeat:  # the first compiles
                seconds[name].append(time.perf_counter() - begun)
    base = statistics.median(seconds["bare forward passes"])
    print(f"{jax.devices()[0]}, jax {jax.__version__}, B = {BATCH}, T = {CALLS}")
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(f"{name:24}{middle:8.3f} s{middle / base:8.3f} of the bare forward passes")
    guided = int(np.sum(weights["interval of a quarter"].guided))
    print(f"{guided} of {CALLS} calls guided: ideal {(CALLS + guided) / (2 * CALLS):.3f}")


if __name__ == "__main__":
    main()
