"""Training states of version 0.1, converted to the current form.

    current   (clip, (adam, decay, schedule))      whatever the values of config.optim
    0.1       without clip where grad_clip was 0, without schedule where the rate was constant

The current form lets a run resume with other values, 0 included.
"""

import itertools

import jax
import jax.numpy as jnp
import optax

from cfg_jax.training.step import TrainState


def forms(state: TrainState) -> list[TrainState]:
    """`state`, of arrays or shapes, in the other forms that a checkpoint may have."""
    clip, (adam, decay, schedule) = state.opt_state
    found = []
    for rate, clips in itertools.product((schedule, optax.EmptyState()), (True, False)):
        chain = adam, decay, rate
        found.append(state.replace(opt_state=(clip, chain) if clips else chain))
    return found[1:]


def today(state: TrainState) -> TrainState:
    """A state of any of these forms, converted to the current one."""
    kinds = optax.ScaleByAdamState, optax.ScaleByScheduleState
    parts = jax.tree.leaves(state.opt_state, is_leaf=lambda node: isinstance(node, kinds))
    adam, *schedules = (part for part in parts if isinstance(part, kinds))
    # Both count the same steps: a skipped one leaves them unchanged. Donation needs two buffers.
    schedule = schedules[0] if schedules else optax.ScaleByScheduleState(jnp.copy(adam.count))
    return state.replace(opt_state=(optax.EmptyState(), (adam, optax.EmptyState(), schedule)))
