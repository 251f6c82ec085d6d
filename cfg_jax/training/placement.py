"""Where a training state lives: whole on every device, or its large part divided among them.

    Replicated   params, EMA and optimizer state on every device
    Sharded      params on every device, EMA and moments [D, ...] with part d on device d (ZeRO-1)

Sharded, a device holds params + (EMA + moments) / D. Checkpoints are the same for both and for any
number of devices. Loop and run call the common methods of the two classes. Every process calls
them, in the same order.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from cfg_jax.runtime import devices, processes
from cfg_jax.training import sharded
from cfg_jax.training.step import TrainState, create_train_state


class Replicated:
    """The whole state on every device.

    axes: pmap axes of the state.
    arguments: shapes of the state as an argument of the pmapped step.
    of_device: shapes of what one device holds.
    """

    def __init__(self, abstract: TrainState):
        self.axes: Any = None
        self.arguments = self.of_device = abstract

    def create(self, create: Callable[[], TrainState]) -> TrainState:
        """The state that `create` returns, on the devices."""
        return devices.replicate(jax.jit(create)())

    def target(self) -> TrainState:
        """Shapes and shardings to restore from a checkpoint, for `placed`."""
        return devices.replicated_like(self.arguments)

    def placed(self, restored: TrainState) -> TrainState:
        """A restored `target` on the devices."""
        return devices.as_local(restored)

    def whole(self, state: TrainState) -> TrainState:
        """The state as a checkpoint stores it."""
        return devices.as_global(state)

    def average(self, state: TrainState) -> Any:
        """The EMA parameters."""
        return state.ema_params


class Sharded:
    """EMA and moments divided among `count` devices, all others whole; attributes as Replicated.

    The whole EMA and moments exist on the host alone: while a checkpoint is saved or restored, and
    the EMA while a preview is drawn. A device then holds one array more at a time.
    """

    def __init__(self, abstract: TrainState, optimizer: optax.GradientTransformation, count: int):
        self._abstract, self._optimizer, self._count = abstract, optimizer, count
        self.axes: Any = _axes(abstract, optimizer)
        split = functools.partial(sharded.split, count=count)
        self.arguments = self._map(abstract, lambda leaf, _: jax.eval_shape(split, leaf))
        self.of_device = self._map(
            self.arguments, lambda leaf, _: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        )

    def create(self, create: Callable[[], TrainState]) -> TrainState:
        """The state that `create` returns; no device ever holds the whole of it."""

        def of_params(params: Any) -> TrainState:
            own = sharded.own(params, devices.AXIS)
            return create_train_state(own, self._optimizer).replace(params=params)

        init = jax.jit(lambda: create().params)  # leaves out the rest
        return devices.pmap_create(of_params, self.axes)(devices.replicate(init()))

    def target(self) -> TrainState:
        """Shapes and shardings to restore, with NumPy arrays for the divided leaves."""
        return self._map(
            self._abstract,
            lambda leaf, _: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape),
            devices.replicated_like,
        )

    def placed(self, restored: TrainState) -> TrainState:
        """A restored `target` on the devices."""
        return self._map(
            restored,
            lambda leaf, _: devices.own_rows(sharded.split(leaf, self._count)),
            devices.as_local,
        )

    def whole(self, state: TrainState) -> TrainState:
        """The state as a checkpoint stores it; divided arrays are joined on the host."""
        return self._map(state, self._joined, devices.as_global)

    def average(self, state: TrainState) -> Any:
        """The EMA parameters, joined on the host."""
        return jax.tree.map(self._joined, state.ema_params, self._abstract.params)

    def _joined(self, parts: jax.Array, like: Any) -> np.ndarray:
        # A copy: on a CPU the array may be the buffer itself, which the next step overwrites.
        return np.array(sharded.join(processes.gather(parts, self._count), like))

    def _map(
        self,
        state: TrainState,
        part: Callable[[Any, Any], Any],
        other: Callable[[Any], Any] = lambda leaf: leaf,
    ) -> TrainState:
        """`part` of every (divided leaf, parameter of its shape), `other` of every other leaf."""
        params = self._abstract.params
        return TrainState(
            step=other(state.step),
            params=jax.tree.map(other, state.params),
            ema_params=jax.tree.map(part, state.ema_params, params),
            opt_state=optax.tree.map_params(
                self._optimizer, part, state.opt_state, params, transform_non_params=other
            ),
            skipped=other(state.skipped),
        )


def _axes(abstract: TrainState, optimizer: optax.GradientTransformation) -> TrainState:
    # With several processes pmap hashes the axes, so one 0 stands for a whole dict of parameters.
    opt_state = optax.tree.map_params(
        optimizer,
        lambda _: 0,
        abstract.opt_state,
        transform_non_params=lambda _: None,
        is_leaf=lambda _: True,
    )
    whole: Any = None
    return TrainState(whole, params=None, ema_params=0, opt_state=opt_state, skipped=whole)


Placement = Replicated | Sharded
