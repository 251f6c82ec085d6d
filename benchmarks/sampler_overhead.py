"""Time of a guided sampler against its bare network calls, and what an interval saves.

    python benchmarks/sampler_overhead.py [--workdir=runs/digits | --network=imagenet64]

Without a run, the network of configs/digits.py with random parameters, or that of
configs/imagenet64.py in float32 with a third of its channels and one block per level. Times are
medians of interleaved repetitions on one device; compare the ratios, not the seconds.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import cfg_jax  # noqa: E402
from benchmarks import recording  # noqa: E402
from cfg_jax.config import build  # noqa: E402
from cfg_jax.sampling.loading import load_model  # noqa: E402
from configs import digits, imagenet64  # noqa: E402

REPEATS = 5
PROGRAMS = ("guided everywhere", "interval of a quarter")


def cut_imagenet64():
    """configs/imagenet64.py with a network that runs on a CPU."""
    config = imagenet64.get_config()
    config.model.channels, config.model.num_blocks, config.model.dtype = 64, 1, "float32"
    return config


NETWORKS = {  # config, shape, classes, T, B
    "digits": (digits.get_config, (8, 8, 1), 10, 32, 64),
    "imagenet64": (cut_imagenet64, (64, 64, 3), 1000, 8, 4),
}


def main() -> None:
    parser = recording.parser(__doc__)
    parser.add_argument("--workdir", help="a run of the network's shape, for its parameters")
    parser.add_argument("--network", choices=NETWORKS, default="digits")
    given = parser.parse_args()
    get_config, shape, num_classes, calls, batch = NETWORKS[given.network]
    benchmark = f"sampler_{given.network}"
    settings = {"network": given.network, "batch": batch, "calls": calls}
    settings |= {"workdir": given.workdir, "device": jax.devices()[0].device_kind}
    path = recording.destination(benchmark, PROGRAMS, settings, given.out)
    task = build.assemble(get_config(), shape, num_classes)
    if given.workdir:
        loaded = load_model(given.workdir)
        task, params = loaded.experiment, loaded.params
    else:
        params = jax.jit(task.init)(jax.random.key(0))
    labels = jnp.arange(batch) % task.num_classes
    shape = (batch, *task.shape)
    grid = task.schedule.grid(calls)
    plan = cfg_jax.plan(grid, "unipc_2")
    quarter = float(grid[calls // 2 - calls // 8]), float(grid[calls // 2 + calls // 8])
    intervals = cfg_jax.weights(plan, 1.0), cfg_jax.weights(plan, 1.0, interval=quarter)
    weights = dict(zip(PROGRAMS, intervals, strict=True))

    @jax.jit
    def bare(params):
        """T forward passes of 2B, each on the result of the one before."""
        predict = task.predict(params)
        both = jnp.concatenate([labels, jnp.full_like(labels, task.null_label)])

        def body(z, logsnr):
            out = predict(z, jnp.broadcast_to(logsnr, (2 * batch,)), both)
            return 0.5 * z + 0.1 * out, None

        z = jnp.ones((2 * batch, *task.shape))
        return jax.lax.scan(body, z, jnp.asarray(grid))[0]

    @jax.jit
    def sample(params, weights):
        every = cfg_jax.branches(task.predict(params), labels, null_label=task.null_label)
        guided = cfg_jax.guide(every, weights)
        return cfg_jax.sample(jax.random.key(0), guided, shape, plan)

    runs = {"bare forward passes": lambda: bare(params)}
    runs |= {name: lambda w=w: sample(params, w) for name, w in weights.items()}
    programs = {name: lambda run=run: jax.block_until_ready(run()) for name, run in runs.items()}
    times = recording.interleaved(programs, REPEATS)
    base = times["bare forward passes"]
    print(f"{jax.devices()[0]}, jax {jax.__version__}, B = {batch}, T = {calls}")
    print(f"{'':24}  wall, s    ratio   processor, s    ratio")
    for program, spent in times.items():
        wall, processor = spent["wall"], spent["processor"]
        ratios = wall / base["wall"], processor / base["processor"]
        print(f"{program:24}{wall:9.3f}{ratios[0]:9.3f}{processor:15.3f}{ratios[1]:9.3f}")
    guided = int(np.sum(weights[PROGRAMS[1]].guided))
    print(f"{guided} of {calls} calls guided: ideal {(calls + guided) / (2 * calls):.3f}")
    bare_and_guided = {
        program: {recording.OURS: times[program], "bare forward passes": base}
        for program in PROGRAMS
    }
    recorded = recording.record(benchmark, bare_and_guided, settings=settings, compared="wall")
    recording.save(recorded, path)


if __name__ == "__main__":
    main()
