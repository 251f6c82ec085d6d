"""Time of a U-Net on a CPU by XLA's YNNPACK fusions, the flag that `cfg_jax/runtime/xla_flags.py`
sets.

    python benchmarks/xla_flag.py [--core=1] [--rounds=5]

The network is 32 x 32 with 64 channels, channel_mult (1, 2, 2, 2), batch 8, float32. Every round
starts one process for each value of the flag, on one core. The table has the medians over rounds
of processor time in ms: forward pass, and gradient of a mean square.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLAG = "--xla_cpu_experimental_ynn_fusion_type="
VALUES = {"unset": None, "empty": "", "-reduce": "-reduce"}
REPEATS = 3


def measure() -> dict[str, float]:
    """Median times of this process in ms."""
    import jax
    import jax.numpy as jnp

    jax.devices()  # from here on the package leaves the flag alone
    import cfg_jax

    network = cfg_jax.UNet(out_channels=3, num_classes=10, channels=64)
    inputs = jnp.ones((8, 32, 32, 3)), jnp.zeros(8), jnp.zeros(8, jnp.int32)
    params = jax.jit(network.init)(jax.random.key(0), *inputs)

    def forward(params):
        return network.apply(params, *inputs)

    gradient = jax.grad(lambda params: jnp.mean((forward(params) - 1) ** 2))
    found = {}
    for name, function in (("forward", forward), ("gradient", gradient)):
        run = jax.jit(function)
        jax.block_until_ready(run(params))
        times = []
        for _ in range(REPEATS):
            begun = time.process_time()
            jax.block_until_ready(run(params))
            times.append(1000 * (time.process_time() - begun))
        found[name] = statistics.median(times)
    return found


def start(value: str | None, core: int, cache: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    flags = {} if value is None else {"XLA_FLAGS": FLAG + value}
    own = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PLATFORMS": "cpu"}
    inherited = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, __file__, "--measure"],
        env=inherited | own | flags,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        print(json.dumps(measure()))
        return
    from importlib.metadata import version

    with tempfile.TemporaryDirectory() as cache:
        rounds = []
        for _ in range(given.rounds):
            found = {name: start(value, given.core, cache) for name, value in VALUES.items()}
            rounds.append(found)
            print(found, file=sys.stderr, flush=True)
    print(f"| jaxlib {version('jaxlib')} | forward | gradient |\n| --- | --- | --- |")
    for name in VALUES:
        times = [[each[name][part] for each in rounds] for part in ("forward", "gradient")]
        row = [f"{statistics.median(t):.0f} ({min(t):.0f}-{max(t):.0f})" for t in times]
        print(f"| {name} | {row[0]} | {row[1]} |")


if __name__ == "__main__":
    main()
