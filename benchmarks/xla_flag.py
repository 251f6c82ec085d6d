"""Time of a U-Net on a CPU by the flag that `cfg_jax/runtime/xla_flags.py` sets.

    python benchmarks/xla_flag.py [--core=1] [--rounds=7]

The network is 32 x 32 with 64 channels, channel_mult (1, 2, 2, 2), batch 8, float32. There is one
process for each value of the flag, all on one core, and they measure in turn. The table has medians
over rounds of processor time in ms, with the range: forward pass, and gradient of a mean square.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

FLAG = "--xla_cpu_experimental_ynn_fusion_type="
VALUES = {"unset": None, "empty": "", "-reduce": "-reduce"}


def serve() -> None:
    """Prints the times of one forward pass and one gradient in ms for every line of input."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    jax.devices()  # from here on the package leaves the flag alone
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import cfg_jax

    network = cfg_jax.UNet(out_channels=3, num_classes=10, channels=64)
    inputs = jnp.ones((8, 32, 32, 3)), jnp.zeros(8), jnp.zeros(8, jnp.int32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.float32(rng.normal(0, 0.02, leaf.shape)), shapes)

    def forward(params):
        return network.apply(params, *inputs)

    gradient = jax.grad(lambda params: jnp.mean((forward(params) - 1) ** 2))
    functions = [jax.jit(forward), jax.jit(gradient)]
    for function in functions:
        jax.block_until_ready(function(params))
    print("ready", flush=True)
    for _ in sys.stdin:
        times = []
        for function in functions:
            begun = time.process_time()
            jax.block_until_ready(function(params))
            times.append(1000 * (time.process_time() - begun))
        print(json.dumps(times), flush=True)


def start(value: str | None, core: int, cache: str) -> subprocess.Popen:
    """A process that serves, with one value of the flag."""
    flags = {} if value is None else {"XLA_FLAGS": FLAG + value}
    own = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PLATFORMS": "cpu"}
    inherited = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, __file__, "--serve"],
        env=inherited | own | flags,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    times: dict[str, list] = {name: [] for name in VALUES}
    with tempfile.TemporaryDirectory() as folder:
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", folder)
        processes = {name: start(value, given.core, cache) for name, value in VALUES.items()}
        for process in processes.values():
            assert process.stdout.readline() == "ready\n"
        for _ in range(given.rounds):
            for name, process in processes.items():
                process.stdin.write("\n")
                process.stdin.flush()
                times[name].append(json.loads(process.stdout.readline()))
        for process in processes.values():
            process.communicate()
    print(f"| jaxlib {version('jaxlib')} | forward | gradient |\n| --- | --- | --- |")
    for name, rounds in times.items():
        row = [
            f"{statistics.median(t):.0f} ({min(t):.0f}-{max(t):.0f})"
            for t in zip(*rounds, strict=True)
        ]
        print(f"| {name} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
