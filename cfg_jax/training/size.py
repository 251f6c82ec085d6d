"""Size of a training run: its parameters, and the least memory that a step needs.

    memory of a device >= state + gradients + batch / D        bytes; activations come on top

The state holds parameters, their average and the optimizer's moments. `cfg-jax preflight` compiles
the step, and so knows its activations too.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax

from cfg_jax.runtime import devices
from cfg_jax.training.step import TrainState

_GB = 1e9


def checked(state: TrainState, shape: Sequence[int], batch_size: int) -> str:
    """One line on parameters and memory; raises ValueError if a device cannot hold them.

    Args:
      state: shapes of the training state, as from `jax.eval_shape`.
      shape: shape of one example.
      batch_size: examples per step over all devices.
    """
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    batch = 4 * math.prod(shape) * batch_size // devices.num_devices_of_all()
    needed = _bytes(state) + _bytes(state.params) + batch
    line = f"{count:,} parameters; state, gradients and batch take {_said(needed)}"
    there = devices.memory_per_device()
    if there is None:
        return f"{line} per device, and activations come on top"
    if needed > there:
        raise ValueError(
            f"config.model has {line}, more than the {_said(there)} of a device: use a smaller "
            "network or config.train.batch_size"
        )
    return f"{line} of {_said(there)} per device, and activations come on top"


def _bytes(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _said(count: int) -> str:
    return f"{count / _GB:,.2f} GB"
