"""Which programs does a config run on a pod?

The training step and the guided sampler, as training and sampling themselves make them, traced
for devices that may not be there: shapes stand for the parameters, the data and the images.
"""

import dataclasses
import hashlib
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.data.opening import describe
from cfg_jax.runtime.devices import pmap_rows, pmap_step
from cfg_jax.sampling.program import make_draw, request
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.training import run

PROGRAMS = ("train", "sample")


class Traced(NamedTuple):
    """A program before it is compiled.

    lowered: the program; its text is StableHLO.
    num_donated: how many of its arguments, the first ones, are donated to its results.
    gradient_bytes: size of all gradients on one device; 0 for the sampler.
    """

    lowered: jax.stages.Lowered
    num_donated: int
    gradient_bytes: int

    def described(self) -> dict[str, Any]:
        """What is known without compiling: donated arguments, gradients, float64, fingerprint.

        The fingerprint is the SHA-256 of the program's text, which has neither source locations
        nor paths, and depends on nothing that was not lowered.
        """
        text = self.lowered.as_text()
        return {
            "gradient_bytes": self.gradient_bytes,
            "num_donated": self.num_donated,
            "float64": bool(re.search(r"[<x]f64>", text)),
            "fingerprint": hashlib.sha256(text.encode()).hexdigest(),
        }


@dataclasses.dataclass(frozen=True)
class _Blank:
    """A `data.Source` of examples that are all zero."""

    shape: tuple[int, ...]
    num_classes: int
    name: str = "blank"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"x": np.zeros(self.shape, np.float32), "label": np.int32(0)}


def programs_of(config: Any) -> tuple[str, ...]:
    """The programs that a config has: a classifier draws nothing."""
    return PROGRAMS[:1] if config.network == "classifier" else PROGRAMS


def trace(config: Any, program: str, devices: list[Any]) -> Traced:
    """The training step or the sampler of a config, of config.train.batch_size examples or images.

    Args:
      config: a validated ConfigDict.
      program: "train" or "sample".
      devices: as JAX or `topologies.devices` gives them; they divide the batch.

    Raises:
      ValueError: data whose shape is not known, or that the network does not take.
    """
    shape, names = describe(**build.data_arguments(config))
    exp = build.assemble(config, shape, len(names))
    params = jax.eval_shape(exp.init, jax.random.key(0))
    if program == "sample":
        return _sampler(config, exp, params, devices)
    return _training_step(config, exp, devices)


def _training_step(config: Any, exp: Any, devices: list[Any]) -> Traced:
    source = _Blank(exp.shape, 1)
    optimizer = run.make_optimizer(config)
    state = jax.eval_shape(run.make_create(config, exp, optimizer))
    batch = data.batches(source, seed=config.seed, batch_size=2)[0]
    size = config.train.batch_size // len(devices)
    step = pmap_step(run.make_step(exp, optimizer, config), devices)
    lowered = step.lower(state, _spread(batch, len(devices), size))
    gradient_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
    return Traced(lowered, len(jax.tree.leaves(state)), gradient_bytes)


def _sampler(config: Any, exp: Any, params: Any, devices: list[Any]) -> Traced:
    side = exp.low_res_size
    spec, shared, batch = request(
        exp,
        SamplingSettings().filled(config.sampling),
        jax.random.key(0),
        np.zeros(1, np.int32),
        low_res=np.zeros((1, side, side, exp.shape[-1])) if side else None,
    )
    size = config.train.batch_size // len(devices)
    draw = pmap_rows(make_draw(exp, spec), devices)
    lowered = draw.lower(_shapes({"params": params, **shared}), _spread(batch, len(devices), size))
    return Traced(lowered, 0, 0)


def _spread(batch: Any, count: int, size: int) -> Any:
    """Shapes [count, size, ...] of a batch [B, ...]."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, size, *a.shape[1:]), a.dtype), batch)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
