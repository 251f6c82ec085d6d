"""Which programs does a config run on a pod?

The training step and the guided sampler, built exactly as training and sampling build them. They
are traced with shapes instead of arrays, for devices that need not exist.
"""

import dataclasses
import hashlib
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.config.by_path import by_path
from cfg_jax.data.opening import describe
from cfg_jax.runtime.devices import pmap_rows, pmap_step
from cfg_jax.sampling import against, checks
from cfg_jax.sampling.program import make_draw, request
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.training import run

PROGRAMS = ("train", "sample")


class Facts(NamedTuple):
    """Properties of a program before compiling.

    fingerprint: SHA-256 of the StableHLO, without source locations and paths.
    float64: whether 64-bit floats occur.
    num_donated: number of leading arguments that must be donated.
    gradient_bytes: size of all gradients on one device; 0 for the sampler.
    scattered_bytes: size of all gradients padded to equal parts, of a step with a sharded state.
    calls: number of network calls of the sampler; 0 for the training step.
    """

    fingerprint: str
    float64: bool
    num_donated: int
    gradient_bytes: int
    calls: int
    scattered_bytes: int = 0

    @classmethod
    def of(
        cls,
        lowered: Any,
        num_donated: int = 0,
        gradient_bytes: int = 0,
        calls: int = 0,
        scattered_bytes: int = 0,
    ) -> "Facts":
        """Facts about a lowered program."""
        text = lowered.as_text()
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        float64 = bool(re.search(r"[<x]f64>", text))
        return cls(fingerprint, float64, num_donated, gradient_bytes, calls, scattered_bytes)


@dataclasses.dataclass(frozen=True)
class _Blank:
    """A `data.Source` with one example of zeros."""

    shape: tuple[int, ...]
    num_classes: int = 1
    name: str = "blank"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"x": np.zeros(self.shape, np.float32), "label": np.int32(0)}


def programs_of(config: Any) -> tuple[str, ...]:
    """Programs of a config; a classifier has no sampler."""
    return PROGRAMS if build.kind(config).draws else PROGRAMS[:1]


def task_of(config: Any) -> Any:
    """The task of a validated ConfigDict, without its data.

    Raises ValueError if the shape of the data is unknown, or if model or sampling settings do not
    suit the data.
    """
    return _task_and_settings(config)[0]


def _task_and_settings(config: Any) -> tuple[Any, SamplingSettings | None]:
    """`task_of`, and the settings of its sampler; None for a classifier."""
    shape, names = describe(**build.data_arguments(config))
    task = build.assemble(config, shape, len(names))
    if not task.draws:
        return task, None
    with by_path("sampling", config.sampling):
        settings = SamplingSettings().filled(config.sampling, names)
        checks.check(settings, task, guided_by_classifier=False)
    return task, settings


def forwards(config: Any) -> str:
    """One line on the network calls of a config's sampler, and what its interval saves.

    Raises ValueError as `task_of`.
    """
    task, settings = _task_and_settings(config)
    assert settings is not None  # a config that samples
    settings = settings.replace(w=1.0 if settings.has_branch(task) else 0.0)
    total = settings.num_calls(task)
    guided = int(settings.weights(task, 1).guided.sum())
    others = against.num_branches(settings.against) - 1
    everywhere = int(settings.replace(interval=()).weights(task, 1).guided.sum())
    passes = total + others * guided
    saved = others * (everywhere - guided) / (total + others * everywhere)
    text = f"{total} network calls, {guided} of them guided: {passes} forward passes"
    return text + (f", {saved:.0%} fewer than without an interval" if saved else "")


def trace(config: Any, program: str, devices: list[Any]) -> tuple[jax.stages.Lowered, Facts]:
    """Traces "train" or "sample" of a validated ConfigDict at its global batch size.

    The number of devices, from JAX or `topologies.devices`, must divide the batch size. Raises
    ValueError as `task_of`, or if the network cannot process the data.
    """
    task, settings = _task_and_settings(config)
    size = config.train.batch_size // len(devices)
    if program == "sample":
        assert settings is not None  # a config that samples
        lowered = _sampler(task, settings, size, devices)
        return lowered, Facts.of(lowered, calls=settings.num_calls(task))
    optimizer = run.make_optimizer(config)
    state = jax.eval_shape(run.make_create(config, task, optimizer))
    batch = data.batches(_Blank(task.shape), seed=config.seed, batch_size=2)[0]
    place = run.make_placement(config, state, optimizer, len(devices))
    step = pmap_step(run.make_step(task, optimizer, config), devices, place.axes)
    lowered = step.lower(place.arguments, _spread(batch, len(devices), size))
    facts = Facts.of(
        lowered,
        num_donated=len(jax.tree.leaves(state)),
        gradient_bytes=_bytes(state.params),
        # The EMA has the shapes of the gradients.
        scattered_bytes=_bytes(place.arguments.ema_params) if config.train.shard_state else 0,
    )
    return lowered, facts


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _sampler(task: Any, settings: Any, size: int, devices: list[Any]) -> jax.stages.Lowered:
    side = task.low_res_size
    low_res = np.zeros((1, side, side, task.shape[-1])) if side else None
    labels = np.zeros(1, np.int32)
    spec, shared, batch = request(task, settings, jax.random.key(0), labels, low_res=low_res)
    shared = {"params": jax.eval_shape(task.init, jax.random.key(0)), **shared}
    draw = pmap_rows(make_draw(task, spec), devices)
    return draw.lower(_shapes(shared), _spread(batch, len(devices), size))


def _spread(batch: Any, count: int, size: int) -> Any:
    """Shapes [count, size, ...] for a batch [B, ...]."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, size, *a.shape[1:]), a.dtype), batch)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
