"""One training step: an optimizer update, then the moving average (EMA) of the parameters.

    params <- params - optimizer(mean gradient),   ema <- d ema + (1 - d) params,
    d = min(ema_decay, (1 + n) / (10 + n)) after n steps

A step takes any loss function. The same step runs on one device (axis_name None) and on many,
because gradients are averaged before any use.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from cfg_jax.core.arguments import INT32_MAX, function, number, seed_of, whole
from cfg_jax.core.keys import indexed
from cfg_jax.core.types import Array, Key
from cfg_jax.training import sharded

Batch = dict[str, Array]
Weighted = tuple[Array, Array]
LossFn = Callable[[Any, Key, Batch], tuple[Array, dict[str, Weighted]]]


LARGEST = 1e18
"""Limit of a parameter and of the norm of all: the square of a larger one is near overflow."""


class TrainState(struct.PyTreeNode):
    """Everything that a step changes.

    step: [] int32, batches consumed, skipped ones included.
    params: parameters of the network.
    ema_params: exponential moving average of `params`, of the same structure.
    opt_state: state of the optimizer.
    skipped: [] int32, steps skipped since the start, of an update that was not finite.

    Examples:
      >>> optimizer = cfg_jax.create_optimizer(
      ...     learning_rate=0.1, warmup_steps=0, b1=0.9, b2=0.999, grad_clip=0.0
      ... )
      >>> state = cfg_jax.create_train_state({"a": jnp.zeros(2)}, optimizer)
      >>> int(state.step), state.ema_params["a"].tolist(), int(state.skipped)
      (0, [0.0, 0.0], 0)
    """

    step: Array
    params: Any
    ema_params: Any
    opt_state: Any
    skipped: Array


def create_train_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the EMA starts at the parameters.

    Examples:
      >>> optimizer = cfg_jax.create_optimizer(
      ...     learning_rate=0.1, warmup_steps=0, b1=0.9, b2=0.999, grad_clip=0.0
      ... )
      >>> state = cfg_jax.create_train_state({"a": jnp.zeros(2)}, optimizer)
      >>> int(state.step), state.params["a"].tolist()
      (0, [0.0, 0.0])
    """
    zero = jnp.zeros((), jnp.int32)
    ema_params = jax.tree.map(jnp.copy, params)
    return TrainState(zero, params, ema_params, optimizer.init(params), zero.copy())


def create_optimizer(
    *,
    learning_rate: float,
    warmup_steps: int,
    b1: float,
    b2: float,
    grad_clip: float,
    weight_decay: float = 0.0,
    anneal_steps: int = 0,
) -> optax.GradientTransformation:
    """Adam, or AdamW if weight_decay is not 0, with linear warm-up and gradient clipping.

    The gradient that is clipped is already averaged over devices by `make_train_step`. The state
    has one form for all values, so a run may resume with others.

    Args:
      learning_rate: rate after the warm-up.
      warmup_steps: steps from rate 0 to learning_rate; 0 for none.
      b1, b2: decay rates of Adam's moments.
      grad_clip: largest global norm of the gradient; 0 for no clipping.
      weight_decay: decay of AdamW per unit of learning rate.
      anneal_steps: step at which the rate, falling linearly from step 0 and multiplied by the
        warm-up, reaches 0; 0 for a constant rate.

    Raises ValueError for an argument out of range: a learning_rate of 0 or less, say.

    Examples:
      >>> optimizer = cfg_jax.create_optimizer(
      ...     learning_rate=0.1, warmup_steps=0, b1=0.9, b2=0.999, grad_clip=0.0
      ... )
      >>> params = jnp.array([1.0, -1.0])
      >>> updates, _ = optimizer.update(jnp.array([3.0, -5.0]), optimizer.init(params), params)
      >>> print(np.asarray(updates).round(3))  # Adam's first step is -rate sign(gradient)
      [-0.1  0.1]
    """
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    number("learning_rate", learning_rate, "a finite number above 0", smallest)
    for name, decay in (("b1", b1), ("b2", b2)):
        # A decay that float32 rounds to 1 makes Adam divide by zero.
        number(name, decay, "a number in [0, 1)", 0, 1 - float(np.finfo(np.float32).epsneg))
    number("grad_clip", grad_clip, "a finite number above 0, or 0 for no clipping", 0)
    number("weight_decay", weight_decay, "a finite number of at least 0", 0)
    whole("warmup_steps", warmup_steps, 0, INT32_MAX)
    whole("anneal_steps", anneal_steps, 0, INT32_MAX)
    rate = rate_schedule(learning_rate, warmup_steps, anneal_steps)
    clip = _clip(grad_clip) if grad_clip else optax.identity()
    return optax.chain(clip, optax.adamw(rate, b1=b1, b2=b2, weight_decay=weight_decay))


def rate_schedule(learning_rate: float, warmup_steps: int, anneal_steps: int = 0) -> optax.Schedule:
    """The learning rate after a number of updates, with the arguments of `create_optimizer`."""
    rate = optax.constant_schedule(learning_rate)
    if warmup_steps:
        rate = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return _annealed(rate, anneal_steps) if anneal_steps else rate


def _clip(grad_clip: float) -> optax.GradientTransformationExtraArgs:
    """Clips by the argument grad_norm of `update` if given, else by the norm of the gradient.

    Of a part of the gradient, grad_norm is the norm of the whole. The state is that of optax.
    """
    clip = optax.clip_by_global_norm(grad_clip)

    def update_fn(grads, opt_state, params=None, *, grad_norm=None, **_):
        if grad_norm is None:
            return clip.update(grads, opt_state, params)
        small = grad_norm < grad_clip
        clipped = jax.tree.map(lambda g: jnp.where(small, g, (g / grad_norm) * grad_clip), grads)
        return clipped, opt_state

    return optax.GradientTransformationExtraArgs(clip.init, update_fn)


def _annealed(rate: optax.Schedule, num_steps: int) -> optax.Schedule:
    """`rate` times a factor that falls linearly from 1 at step 0 to 0 at num_steps."""
    falling = optax.linear_schedule(1.0, 0.0, num_steps)
    return lambda step: falling(step) * rate(step)


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_decay: float,
    num_microbatches: int = 1,
    axis_name: str | None = None,
    shard_state: bool = False,
    learning_rate: optax.Schedule | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Weighted]]]:
    """A pure function (state, batch) -> (state, metrics).

    Example i of a step draws from fold_in(fold_in(key(seed), step), index[i]). A step whose loss or
    gradient is not finite leaves params, EMA and optimizer unchanged, and counts as skipped. So
    does one with parameters that would overflow: they keep their values, see `update`.

    Args:
      loss_fn: (params, keys [b], batch) -> (loss [b], {name: (values [b], weights [b])}).
      seed: random seed of all training noise.
      ema_decay: largest decay of the EMA.
      num_microbatches: parts of a device's batch, computed in sequence for one update.
      axis_name: pmap axis to average over, or None.
      shard_state: whether each device holds its part of EMA and optimizer state alone, as
        `placement.Sharded` places them. The optimizer must then be elementwise, as that of
        `create_optimizer` is.
      learning_rate: schedule of the optimizer, to have `learning_rate` among the metrics.

    `batch` holds arrays [b, ...]; `index` [b] is the position of each example in the global batch.
    Metrics are (weighted sum, sum of weights) over the global batch: `loss`, `grad_norm`,
    `param_norm`, `skipped` and the metrics of loss_fn. Raises ValueError for an argument out of
    range or shard_state without axis_name; the step does if b is not a multiple of
    num_microbatches.

    Examples:
      >>> optimizer = cfg_jax.create_optimizer(
      ...     learning_rate=0.1, warmup_steps=0, b1=0.9, b2=0.999, grad_clip=0.0
      ... )
      >>> state = cfg_jax.create_train_state({"a": jnp.zeros((1, 2))}, optimizer)
      >>> def loss_fn(params, keys, batch):
      ...     loss = ((params["a"] - batch["x"]) ** 2).sum(axis=-1)
      ...     return loss, {}
      ...
      >>> step = cfg_jax.make_train_step(loss_fn, optimizer, seed=0, ema_decay=0.5)
      >>> batch = {"x": jnp.ones((4, 2)), "index": jnp.arange(4)}
      >>> state, metrics = step(state, batch)
      >>> print(state.step, np.asarray(state.params["a"]).round(3))  # rate sign(gradient)
      1 [[0.1 0.1]]
    """
    function("loss_fn", loss_fn, "(params, keys, batch) -> (loss, metrics)")
    seed = seed_of(seed)
    number("ema_decay", ema_decay, "a number in [0, 1]", 0, 1)
    whole("num_microbatches", num_microbatches, 1)
    update_fn: Callable = update
    if shard_state:
        if axis_name is None:
            raise ValueError(
                "shard_state=True without axis_name: give the pmap axis to divide over"
            )
        update_fn = functools.partial(_update_parts, axis_name)

    def mean_loss(params, batch, step):
        keys = indexed(jax.random.fold_in(jax.random.key(seed), step), batch["index"])
        loss, metrics = loss_fn(params, keys, batch)
        metrics = {"loss": (loss, jnp.ones_like(loss)), **metrics}
        return loss.mean(), {
            name: (jnp.sum(jnp.where(weights > 0, values * weights, 0)), jnp.sum(weights))
            for name, (values, weights) in metrics.items()
        }

    gradient = _in_parts(jax.grad(mean_loss, has_aux=True), num_microbatches)

    def step_fn(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Weighted]]:
        grads, metrics = gradient(state.params, batch, state.step)
        if axis_name is not None:
            if not shard_state:
                grads = jax.lax.pmean(grads, axis_name)
            metrics = jax.lax.psum(metrics, axis_name)
        new, norms, counts = update_fn(state, grads, metrics["loss"][0], optimizer, ema_decay)
        one = jnp.ones(())
        metrics |= {name: (norm, one) for name, norm in norms.items()}
        if learning_rate is not None:
            metrics["learning_rate"] = (learning_rate(state.step - state.skipped) * one, one)
        metrics = jax.tree.map(lambda value: jnp.where(counts, value, 0), metrics)
        metrics["skipped"] = (1 - counts.astype(jnp.float32), one)
        return new, metrics

    return step_fn


def update(
    state: TrainState,
    grads: Any,
    loss: Array,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    norm: Callable[[Any], Array] | None = None,
) -> tuple[TrainState, dict[str, Array], Array]:
    """The next state, the norms of gradient and new parameters, and whether the step counts.

    Of parts of all arrays, `norm` is the norm of the whole, which the optimizer gets as grad_norm.
    If loss [] or the norm of the gradient is not finite, only `step` and `skipped` change. A
    parameter whose new value is LARGEST or more keeps its value, and the step counts as skipped.
    """
    norm_of = norm or optax.tree.norm
    norms = {"grad_norm": norm_of(grads)}
    good = jnp.isfinite(loss) & jnp.isfinite(norms["grad_norm"])
    given = {"grad_norm": norms["grad_norm"]} if norm else {}
    optimizer = optax.with_extra_args_support(optimizer)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, **given)
    params = optax.apply_updates(state.params, updates)
    norms["param_norm"] = norm_of(params)
    # Each parameter has its own guard: one for all would wait for the norm, with a second copy of
    # the parameters in memory.
    params = jax.tree.map(
        lambda new, old: jnp.where(good & (jnp.abs(new) < LARGEST), new, old), params, state.params
    )
    good_steps = (state.step - state.skipped).astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1 + good_steps) / (10 + good_steps))
    ema_params = optax.incremental_update(params, state.ema_params, 1 - decay)
    ema_params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(good, new, old),
        (ema_params, opt_state),
        (state.ema_params, state.opt_state),
    )
    counts = good & (norms["param_norm"] < LARGEST)
    skipped = state.skipped + 1 - counts.astype(jnp.int32)
    return TrainState(state.step + 1, params, ema_params, opt_state, skipped), norms, counts


def _update_parts(
    axis_name: str,
    state: TrainState,
    grads: Any,
    loss: Array,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> tuple[TrainState, dict[str, Array], Array]:
    """`update` of this device's parts, from its own gradients; the parameters stay whole."""
    parts = state.replace(params=sharded.own(state.params, axis_name))
    grads = sharded.scattered_mean(grads, axis_name)
    norm = functools.partial(sharded.norm, axis_name=axis_name)
    new, norms, counts = update(parts, grads, loss, optimizer, ema_decay, norm)
    return new.replace(params=sharded.gathered(new.params, state.params, axis_name)), norms, counts


def _in_parts(gradient: Callable, parts: int) -> Callable:
    """`gradient` of a batch as the mean over its parts, computed in sequence."""
    if parts == 1:
        return gradient

    def accumulated(params, batch, step):
        size = batch["index"].shape[0]
        if size % parts:
            raise ValueError(f"num_microbatches={parts} does not divide a device's batch of {size}")
        split = jax.tree.map(lambda a: a.reshape(parts, size // parts, *a.shape[1:]), batch)

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, part, step)), None

        one_part = jax.eval_shape(gradient, params, jax.tree.map(lambda a: a[0], split), step)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), one_part)
        (grads, metrics), _ = jax.lax.scan(add, zeros, split)
        return jax.tree.map(lambda g: g / parts, grads), metrics

    return accumulated
