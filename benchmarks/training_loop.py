"""Host share of the training loop: time of its steps against the same steps without the loop.

    python benchmarks/training_loop.py [--network=cifar10] [--out=training_loop.json]

The bare steps repeat the pmapped step on one batch that is already on the devices. The loop makes
the same steps as `cfg-jax train`: data, prefetch, metrics, log and progress, without checkpoints
and previews. Rounds of both are interleaved, and the figures are medians over rounds:

    host share = 1 - bare / loop                            of wall time
    added work = (main thread of loop - main thread of bare) / (processor time of loop)

On an accelerator the host share is the part of a step in which the device waits for the host. On a
CPU both use the same cores, and wall time depends on the other programs of the machine. Processor
time does so less: the added work is the part of a step's processor time that the loop takes itself.

`digits` is configs/digits.py. `cifar10` is configs/cifar10.py in float32 with a quarter of the
channels and made-up images, so that it runs on a CPU; reading and decoding images is not included.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import jax
import jaxlib
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cfg_jax import data  # noqa: E402
from cfg_jax.config import build  # noqa: E402
from cfg_jax.runtime import devices  # noqa: E402
from cfg_jax.storage.checkpoint import Checkpoints  # noqa: E402
from cfg_jax.training.loop import Loop, Run  # noqa: E402
from cfg_jax.training.run import make_create, make_optimizer, make_step  # noqa: E402
from configs import cifar10, digits  # noqa: E402

WARM_UP = 5
"""Steps at the start of every round that are not timed."""


@dataclasses.dataclass
class Noise:
    """Made-up images of CIFAR-10's shape, as float32 in memory."""

    name: str = "noise"
    split: str = "train"
    shape: tuple[int, ...] = (32, 32, 3)
    num_classes: int = 10
    label_names: tuple[str, ...] = tuple("0123456789")

    def __post_init__(self):
        rng = np.random.default_rng(0)
        self._x = rng.uniform(-1, 1, (1000, *self.shape)).astype(np.float32)

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"x": self._x[index], "label": np.int32(index % 10)}

    def fingerprint(self) -> dict:
        return {"dataset": self.name}


def cut_cifar10():
    """configs/cifar10.py with a network that runs on a CPU."""
    config = cifar10.get_config()
    config.model.channels //= 4
    config.model.dtype = "float32"
    config.train.batch_size = 16
    return config


NETWORKS = {  # config, source, timed steps per round
    "digits": (digits.get_config, lambda: data.open_source("digits", "train"), 100),
    "cifar10": (cut_cifar10, Noise, 10),
}


TIMES = {
    "wall": time.perf_counter,
    "processor": time.process_time,
    "main_thread": time.thread_time,
}


def now() -> np.ndarray:
    """Seconds of each of TIMES; the last is processor time of the calling thread."""
    return np.array([read() for read in TIMES.values()])


class Clock:
    """A step function that reads the time before every call."""

    def __init__(self, step_fn):
        self._step_fn, self.read = step_fn, []

    def __call__(self, state, batch):
        self.read.append(now())
        return self._step_fn(state, batch)

    def per_step(self) -> np.ndarray:
        """Seconds of TIMES per step after the warm-up.

        The first and the last call have the same number of steps in flight before them.
        """
        return (self.read[-1] - self.read[WARM_UP]) / (len(self.read) - 1 - WARM_UP)


class Rounds:
    """Rounds of bare steps and of steps of the loop, with one compiled step."""

    def __init__(self, config, source, steps: int, workdir: Path):
        with config.unlocked():
            config.train.num_steps = steps + WARM_UP + 1
            config.train.checkpoint_every = config.train.num_steps
            config.train.preview_every = 0
        order = data.batches(
            source,
            seed=0,
            batch_size=config.train.batch_size,
            random_flip=config.data.random_flip,
        )
        task = build.assemble(config, source.shape, source.num_classes)
        optimizer = make_optimizer(config)
        self._run = Run(config, workdir, source, order, task, None)
        self._create = jax.jit(make_create(config, task, optimizer))
        self._step_fn = devices.pmap_step(make_step(task, optimizer, config))
        self._batch = devices.split_batch(order[0])

    def bare(self) -> np.ndarray:
        """Seconds of TIMES per step on one batch that is already on the devices."""
        state = devices.replicate(self._create())
        count = self._run.config.train.num_steps
        for step in range(count):
            if step == WARM_UP:
                jax.block_until_ready(state)
                begun = now()
            state, _ = self._step_fn(state, self._batch)
        jax.block_until_ready(state)
        return (now() - begun) / (count - WARM_UP)

    def loop(self) -> np.ndarray:
        """Seconds of TIMES per step of the training loop."""
        clock, state = Clock(self._step_fn), devices.replicate(self._create())
        with (
            tempfile.TemporaryDirectory(dir=self._run.workdir) as folder,
            contextlib.redirect_stdout(None),
            Checkpoints(Path(folder) / "checkpoints") as checkpoints,
        ):
            run = self._run._replace(workdir=Path(folder))
            loop = Loop(run, checkpoints, 0, feed=lambda slow: None, asked_to_stop=lambda: False)
            loop(state, clock)
        return clock.per_step()


def processor() -> str:
    """Name of the CPU; its architecture where the system does not tell."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="digits")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of both kinds")
    parser.add_argument("--steps", type=int, help="timed steps per round")
    parser.add_argument("--batch_size", type=int, help="batch size in place of the config's")
    parser.add_argument("--out", help="JSON file to write")
    given = parser.parse_args()
    get_config, get_source, steps = NETWORKS[given.network]
    config = get_config()
    config.train.batch_size = given.batch_size or config.train.batch_size
    with tempfile.TemporaryDirectory() as folder:
        rounds = Rounds(config, get_source(), given.steps or steps, Path(folder))
        kinds = {"bare": rounds.bare, "loop": rounds.loop}
        rounds.bare()  # compiles
        found = {name: [] for name in kinds}
        for _ in range(given.rounds):
            for name, kind in kinds.items():
                found[name].append(kind())
    middle = {name: np.median(each, axis=0) for name, each in found.items()}
    ratios = np.median(np.array(found["loop"]) / np.array(found["bare"]), axis=0)
    result = {
        "network": given.network,
        "batch_size": config.train.batch_size,
        "steps": given.steps or steps,
        "rounds": given.rounds,
        "devices": [str(device) for device in jax.devices()],
        "machine": f"{processor()}, {os.cpu_count()} logical cores",
        "versions": {"python": platform.python_version(), "jax": jax.__version__}
        | {"jaxlib": jaxlib.__version__, "numpy": np.__version__},
        "seconds_per_step": {
            name: dict(zip(TIMES, map(float, each), strict=True)) for name, each in middle.items()
        },
        "ratio": dict(zip(TIMES, map(float, ratios), strict=True)),
        "host_share": float(1 - 1 / ratios[0]),
        "added_work": float(np.median(added_work(found))),
    }
    report(result)
    if given.out:
        Path(given.out).write_text(json.dumps(result, indent=1) + "\n")


def added_work(found: dict[str, list[np.ndarray]]) -> np.ndarray:
    """Fraction of each round's processor time that the loop takes in the main thread."""
    bare, loop = (np.array(found[name]) for name in ("bare", "loop"))
    return (loop[:, 2] - bare[:, 2]) / loop[:, 1]


def report(result: dict) -> None:
    """Prints a result as a table."""
    print(f"{result['network']}, batch {result['batch_size']}, {', '.join(result['devices'])}")
    print(result["machine"], *(f"{name} {text}" for name, text in result["versions"].items()))
    print(f"{'ms per step':12}" + "".join(f"{name:>13}" for name in TIMES))
    for name, seconds in result["seconds_per_step"].items():
        print(f"{name:12}" + "".join(f"{1e3 * each:13.2f}" for each in seconds.values()))
    print(f"{'ratio':12}" + "".join(f"{each:13.3f}" for each in result["ratio"].values()))
    print(f"host share {100 * result['host_share']:.1f} per cent of wall time")
    print(f"added work {100 * result['added_work']:.1f} per cent of processor time")


if __name__ == "__main__":
    main()
