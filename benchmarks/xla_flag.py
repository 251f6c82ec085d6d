"""Time of a U-Net on a CPU by the flags that `cfg_jax/runtime/xla_flags.py` sets.

    python benchmarks/xla_flag.py [--core=1] [--rounds=7]

The network is 32 x 32 with 64 channels, channel_mult (1, 2, 2, 2), batch 8, float32. There is one
process for each value of $XLA_FLAGS, all on one core, and they measure in turn. The table has
medians over rounds of processor time in ms, with the range: forward pass, and gradient of a mean
square.

    unset   no flags
    empty   no YNNPACK fusions
    ours    all flags that the package sets if the CPU is the only backend; left out if they are
            those of another row
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import recording  # noqa: E402

NO_FUSIONS = "--xla_cpu_experimental_ynn_fusion_type="


def values() -> dict[str, str]:
    """{row: $XLA_FLAGS}."""
    from cfg_jax.runtime.xla_flags import extended

    found = {"unset": "", "empty": NO_FUSIONS}
    ours = extended("", version("jaxlib"), only_cpu=True)
    return found if ours in found.values() else found | {"ours": ours}


def serve() -> None:
    """Prints the times of one forward pass and one gradient in ms for every line of input."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    jax.devices()  # from here on the package leaves the flags alone
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


def start(flags: str, core: int, cache: str) -> subprocess.Popen:
    """A process that serves, with one value of $XLA_FLAGS."""
    own = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, __file__, "--serve"],
        env=os.environ | own,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def received(name: str, process: subprocess.Popen) -> str:
    """The next line of a process; exits if the process has ended."""
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{name}: its process ended with exit code {process.wait()}")
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", type=int, default=1, help="number of the core")
    parser.add_argument("--rounds", type=recording.positive, default=7, help="timed rounds")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    if not hasattr(os, "sched_getaffinity"):
        raise SystemExit("this system cannot keep a process on one core")
    if given.core not in (cores := os.sched_getaffinity(0)):
        listed = ", ".join(map(str, sorted(cores)))
        raise SystemExit(f"--core={given.core}: this process has the cores {listed}")
    rows = values()
    times: dict[str, list] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ends:
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", folder)
        processes = {}
        for name, flags in rows.items():
            processes[name] = start(flags, given.core, cache)
            ends.callback(processes[name].wait)
            ends.callback(processes[name].kill)
        for name, process in processes.items():
            received(name, process)  # "ready"
        for _ in range(given.rounds):
            for name, process in processes.items():
                process.stdin.write("\n")
                with contextlib.suppress(BrokenPipeError):  # then `received` says so
                    process.stdin.flush()
                times[name].append(json.loads(received(name, process)))
    print(f"| jaxlib {version('jaxlib')} | forward | gradient |\n| --- | --- | --- |")
    for name, rounds in times.items():
        row = [
            f"{statistics.median(t):.0f} ({min(t):.0f}-{max(t):.0f})"
            for t in zip(*rounds, strict=True)
        ]
        print(f"| {name} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
