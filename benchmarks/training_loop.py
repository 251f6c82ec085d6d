"""Host fraction of the training loop: time of its steps against the same steps without the loop.

    python benchmarks/training_loop.py [--network=cifar10] [--out=training_loop.json]

The bare steps repeat the pmapped step on one batch that is already on the devices. The loop makes
the same steps as `cfg-jax train`: data, prefetch, metrics, log and progress, without checkpoints
and previews. Rounds of both are interleaved, and the figures are medians over rounds:

    host fraction = 1 - bare / loop                         of wall time
    added work = (main thread of loop - main thread of bare) / (processor time of loop)

On an accelerator the host fraction is the part of a step in which the device waits for the host. On
a CPU both use the same cores, and wall time depends on the other programs of the machine. Processor
time does so less: the added work is the part of a step's processor time that the loop takes itself.
The record has the step in the loop as ours, and the bare step as its rival.

`digits` is configs/digits.py. `cifar10` is configs/cifar10.py in float32 with a quarter of the
channels and made-up images, so that it runs on a CPU; reading and decoding images is not included.
"""

import contextlib
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import recording  # noqa: E402
from cfg_jax import data  # noqa: E402
from cfg_jax.config import build  # noqa: E402
from cfg_jax.runtime import devices  # noqa: E402
from cfg_jax.storage.checkpoint import Checkpoints  # noqa: E402
from cfg_jax.training.loop import Loop, Run  # noqa: E402
from cfg_jax.training.placement import Replicated  # noqa: E402
from cfg_jax.training.run import make_create, make_optimizer, make_step  # noqa: E402
from configs import cifar10, digits  # noqa: E402

WARM_UP = 5
"""Steps at the start of every round that are not timed."""
PROGRAM, BARE = "step", "step alone"
"""Names in the record."""


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


CLOCKS = dict(
    zip(recording.TIMES, (time.perf_counter, time.process_time, time.thread_time), strict=True)
)


def now() -> np.ndarray:
    """Seconds of each of CLOCKS; the last is processor time of the calling thread."""
    return np.array([read() for read in CLOCKS.values()])


class Clock:
    """A step function that reads the time before every call."""

    def __init__(self, step_fn):
        self._step_fn, self.read = step_fn, []

    def __call__(self, state, batch):
        self.read.append(now())
        return self._step_fn(state, batch)

    def per_step(self) -> np.ndarray:
        """Seconds of CLOCKS per step after the warm-up.

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
        self._placement = Replicated(jax.eval_shape(self._create))
        self._step_fn = devices.pmap_step(make_step(task, optimizer, config))
        self._batch = devices.split_batch(order[0])

    def bare(self) -> np.ndarray:
        """Seconds of CLOCKS per step on one batch that is already on the devices."""
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
        """Seconds of CLOCKS per step of the training loop."""
        clock, state = Clock(self._step_fn), devices.replicate(self._create())
        with (
            tempfile.TemporaryDirectory(dir=self._run.workdir) as folder,
            contextlib.redirect_stdout(None),
            Checkpoints(Path(folder) / "checkpoints") as checkpoints,
        ):
            run = self._run._replace(workdir=Path(folder))
            loop = Loop(
                run,
                checkpoints,
                0,
                placement=self._placement,
                feed=lambda slow: None,
                asked_to_stop=lambda: False,
            )
            loop(state, clock)
        return clock.per_step()


def main() -> None:
    parser = recording.parser(__doc__, rounds=5)
    parser.add_argument("--network", choices=NETWORKS, default="digits")
    parser.add_argument("--steps", type=recording.positive, help="timed steps per round")
    parser.add_argument(
        "--batch_size", type=recording.positive, help="batch size in place of the config's"
    )
    given = parser.parse_args()
    get_config, get_source, steps = NETWORKS[given.network]
    config, steps = get_config(), given.steps or steps
    config.train.batch_size = given.batch_size or config.train.batch_size
    benchmark, kind = f"training_loop_{given.network}", jax.devices()[0].device_kind
    settings = {"network": given.network, "batch_size": config.train.batch_size, "steps": steps}
    settings |= {"device": kind, "devices": jax.device_count()}
    path = recording.destination(benchmark, [PROGRAM], settings, given.out)
    with tempfile.TemporaryDirectory() as folder:
        rounds = Rounds(config, get_source(), steps, Path(folder))
        rounds.bare()  # compiles
        found = {recording.OURS: [], BARE: []}
        for _ in range(given.rounds):
            found[BARE].append(rounds.bare())
            found[recording.OURS].append(rounds.loop())
    loop, bare = (np.array(each) for each in found.values())
    ratios = np.median(loop / bare, axis=0)
    measures = {
        name: dict(zip(CLOCKS, map(float, np.median(each, axis=0)), strict=True))
        for name, each in found.items()
    }
    recorded = recording.record(
        benchmark,
        {PROGRAM: measures},
        settings=settings,
        compared="processor" if jax.default_backend() == "cpu" else "wall",
        facts={
            "rounds": given.rounds,
            "host fraction": round(float(1 - 1 / ratios[0]), 4),
            "added work": round(float(np.median(added_work(loop, bare))), 4),
        },
    )
    recording.save(recorded, path)


def added_work(loop: np.ndarray, bare: np.ndarray) -> np.ndarray:
    """Fraction of each round's processor time that the loop takes in the main thread."""
    return (loop[:, 2] - bare[:, 2]) / loop[:, 1]


if __name__ == "__main__":
    main()
