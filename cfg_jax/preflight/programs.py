"""Which programs does a config run on a pod?

The training step and the guided sampler, as training and sampling make them, traced for devices
that need not be there: shapes stand for the parameters, the data and the images.
"""

import dataclasses
import hashlib
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.data.description import describe
from cfg_jax.runtime.devices import pmap_rows, pmap_step
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.program import make_draw
from cfg_jax.training import run

PROGRAMS = ("train", "sample")


class Facts(NamedTuple):
    """What is known of a program without compiling it.

    fingerprint: SHA-256 of its StableHLO, which holds no source locations and no paths.
    float64: whether it has 64-bit floats.
    num_donated: how many of its arguments, the first ones, are meant to be donated to its results.
    gradient_bytes: size of all gradients on one device; 0 for the sampler.
    """

    fingerprint: str
    float64: bool
    num_donated: int
    gradient_bytes: int

    @classmethod
    def of(cls, lowered: Any, num_donated: int = 0, gradient_bytes: int = 0) -> "Facts":
        """The facts about a lowered program."""
        text = lowered.as_text()
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        return cls(fingerprint, bool(re.search(r"[<x]f64>", text)), num_donated, gradient_bytes)


@dataclasses.dataclass(frozen=True)
class _Blank:
    """A `data.Source` of one example that is all zero."""

    shape: tuple[int, ...]
    num_classes: int = 1
    name: str = "blank"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"x": np.zeros(self.shape, np.float32), "label": np.int32(0)}


def programs_of(config: Any) -> tuple[str, ...]:
    """The programs that a config has: a classifier draws no samples."""
    return PROGRAMS[:1] if config.network == "classifier" else PROGRAMS


def assembled(config: Any) -> tuple[Any, tuple[str, ...]]:
    """(experiment, class names) of a validated ConfigDict; no data is read.

    Raises:
      ValueError: data of unknown shape, or that the config does not suit.
    """
    shape, names = describe(**build.data_arguments(config))
    return build.assemble(config, shape, len(names)), names


def trace(config: Any, program: str, devices: list[Any]) -> tuple[jax.stages.Lowered, Facts]:
    """The training step or the sampler, with config.train.batch_size examples or images.

    Args:
      config: a validated ConfigDict.
      program: "train" or "sample".
      devices: from JAX or `topologies.devices`; their number divides the batch size.

    Raises:
      ValueError: as for `assembled`, or data that the network does not take.
    """
    exp, names = assembled(config)
    size = config.train.batch_size // len(devices)
    if program == "sample":
        params = jax.eval_shape(exp.init, jax.random.key(0))
        plan, shared, batch = _asked_of_a_model(config, params, exp.shape, names)
        draw = pmap_rows(make_draw(exp, plan), devices)
        lowered = draw.lower(_shapes(shared), _spread(batch, len(devices), size))
        return lowered, Facts.of(lowered)
    optimizer = run.make_optimizer(config)
    state = jax.eval_shape(run.make_create(config, exp, optimizer))
    batch = data.batches(_Blank(exp.shape), seed=config.seed, batch_size=2)[0]
    step = pmap_step(run.make_step(exp, optimizer, config), devices)
    lowered = step.lower(state, _spread(batch, len(devices), size))
    gradient_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
    return lowered, Facts.of(lowered, len(jax.tree.leaves(state)), gradient_bytes)


def _asked_of_a_model(config: Any, params: Any, shape: tuple, names: tuple) -> tuple:
    """(plan, shared, batch) that `Model.sample_x` passes to the sampler for one image."""
    model = Model(config, {}, step=0, shape=shape, label_names=names)
    model.params = params  # shapes only, which Model itself would place on devices
    asked = []

    def sampler_of(plan):
        return lambda shared, batch: asked.append((plan, shared, batch)) or np.zeros(())

    model._compiled = sampler_of
    low_res = model.low_res_shape and np.zeros((1, *model.low_res_shape), np.float32)
    model.sample_x(jax.random.key(0), labels=np.zeros(1, np.int32), low_res=low_res)
    return asked[0]


def _spread(batch: Any, count: int, size: int) -> Any:
    """Shapes [count, size, ...] of a batch [B, ...]."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, size, *a.shape[1:]), a.dtype), batch)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
