"""Guidance of a sampler: branches, their weights per call, and a rule that combines them.

    guided = guide(branches(predict, labels, null_label=K), weights(plan, w), rule=cfg())
    x = sample(key, guided, shape, plan)

`branches` evaluates all branches in one forward pass. `weighting.weights` is data [C, B] for the C
calls of a plan; where they are 0, only the first branch is evaluated.
`guidance.classifier_free_guidance` is the plain form, for one weight and no plan.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import finite, is_concrete, text_of
from cfg_jax.core.diffusion import combined, expand
from cfg_jax.core.rules import Rule, cfg
from cfg_jax.core.types import (
    Array,
    ArrayLike,
    Guided,
    Key,
    Output,
    Predict,
    eps_of,
)
from cfg_jax.core.weighting import LinearWeights, Weights


class Branches(NamedTuple):
    """The branches of guidance.

    first: (z [B, ...], logsnr [B]) -> output of the first branch, in a forward pass of B.
    every: (z, logsnr, call) -> outputs of all branches; call is the number of the call in the
      sampler.
    num_branches: J.

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[-1.0], [1.0]], variance=0.5, weights=[1, 1])
      >>> cfg_jax.branches(mixture.predict, jnp.array([0, 1]), null_label=2).num_branches
      2
    """

    first: Callable[[Array, Array], Output]
    every: Callable[[Array, Array, Array], list[Output]]
    num_branches: int


def branches(
    predict: Predict,
    labels: Array,
    *,
    null_label: int | None = None,
    others: Sequence[Array] = (),
    blend: ArrayLike | None = None,
    weaker: Predict | None = None,
    pair: Callable[[Array, Array, Array], tuple[Output, Output]] | None = None,
    independent: tuple[Key, int] | None = None,
) -> Branches:
    """The branch of `labels` [B], and what it is guided away from; give exactly one of the others.

    Args:
      null_label: no label: classifier-free guidance, in one forward pass of 2B.
      others: labels [B] of further branches, such as a negative class or classes to combine; one
        forward pass of all.
      blend: weights b of `others`, [J - 1], with sum 1: they count as one branch, sum_j b_j eps_j,
        so that a `Rule` combines it with that of `labels`.
      weaker: a weaker model with the same labels: autoguidance, Karras et al. 2024, arXiv
        2406.02507; two forward passes.
      pair: (z, logsnr, labels) -> outputs of the model and of a weaker one of the same form, for
        example a vmap over both parameter trees.
      independent: (key [] or [B], K): a random class in every call, for networks without a
        null label: Sadat et al. 2024, arXiv 2407.02687. It approximates classifier-free guidance
        at high noise only: use it with an interval.

    Raises ValueError unless exactly one is given, or if blend does not suit `others`.

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[-1.0], [1.0]], variance=0.5, weights=[1, 1])
      >>> both = cfg_jax.branches(mixture.predict, jnp.array([0, 1]), null_label=2)
      >>> conditional, unconditional = both.every(jnp.zeros((2, 1)), jnp.zeros(2), 0)
      >>> print(np.asarray(conditional[:, 0]).round(3), unconditional[:, 0])
      [ 0.667 -0.667] [0. 0.]
    """
    given: dict[str, Any] = {"null_label": null_label, "others": tuple(others) or None}
    given |= {"weaker": weaker, "pair": pair, "independent": independent}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise ValueError(
            f"branches with {' and '.join(chosen) or 'none'} of {', '.join(given)}: give one"
        )

    blend = None if blend is None else _blend(blend, len(tuple(others)))

    def first(z: Array, logsnr: Array) -> Output:
        return predict(z, logsnr, labels)

    def every(z: Array, logsnr: Array, call: Array) -> list[Output]:
        if pair is not None:
            return list(pair(z, logsnr, labels))
        if weaker is not None:
            return [first(z, logsnr), weaker(z, logsnr, labels)]
        if independent is not None:
            key, num_classes = independent
            keys = keys_lib.fold_in(keys_lib.per_example(key, len(z)), call)
            drawn = jnp.floor(keys_lib.uniform(keys) * num_classes).astype(labels.dtype)
            return _together(predict, z, logsnr, [labels, drawn])
        if null_label is not None:
            return _together(predict, z, logsnr, [labels, jnp.full_like(labels, null_label)])
        output, *found = _together(predict, z, logsnr, [labels, *others])
        if blend is None:
            return [output, *found]

        def blended(*each: Array) -> Array:
            return jnp.tensordot(blend, jnp.stack(each), axes=1)

        return [output, combined(z, found, logsnr, blended)]

    single = blend is not None or not others
    return Branches(first, every, 2 if single else 1 + len(tuple(others)))


def _together(predict: Predict, z: Array, logsnr: Array, labels: Sequence[Array]) -> list[Output]:
    """The outputs for all labels, each [B], in one forward pass."""
    count = len(labels)
    every = jnp.tile(z, (count,) + (1,) * (z.ndim - 1)), jnp.tile(logsnr, count)
    output = predict(*every, jnp.concatenate(list(labels)))
    return [jax.tree.map(lambda a, i=i: jnp.split(a, count)[i], output) for i in range(count)]


def _blend(blend: ArrayLike, count: int) -> Array:
    """Weights [count] with sum 1; ValueError for others."""
    b = finite("blend", blend, "finite weights of others")
    if jnp.shape(b) != (count,) or (is_concrete(b) and not abs(float(jnp.sum(b)) - 1) < 1e-5):
        raise ValueError(f"blend={text_of(blend)}: need {count} weights of others, with sum 1")
    return jnp.asarray(b, jnp.float32)


class Watched(NamedTuple):
    """State of a `Guided` that is watched: the rule's state, and eps_hat of both branches [B, ...].

    In a call that is not guided both are the first branch.

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[-1.0], [1.0]], variance=0.5, weights=[1, 1])
      >>> both = cfg_jax.branches(mixture.predict, jnp.array([0, 1]), null_label=2)
      >>> guided = cfg_jax.guide(both, cfg_jax.weights([-2.0, 2.0], 1.0), watch=True)
      >>> _, states = cfg_jax.sample(
      ...     jax.random.key(0),
      ...     guided,
      ...     (2, 1),
      ...     jnp.array([-2.0, 2.0]),
      ...     record=lambda call: call.state,
      ... )
      >>> states.first.shape, states.other.shape
      ((2, 2, 1), (2, 2, 1))
    """

    rule: Any
    first: Array
    other: Array


def guide(
    every: Branches,
    weights: Weights | LinearWeights,
    rule: Rule | None = None,
    *,
    watch: bool = False,
) -> Guided:
    """A `Guided` for `sample`: branches combined by a rule (`cfg` for None) with weights per call.

    Where a call is not guided, only the first branch is evaluated, by a `lax.cond` on a row of
    data: nothing is compiled for another interval. A learned variance comes from the first branch.
    With `watch`, the state of the result is a `Watched`, for `telemetry.measure`. Raises ValueError
    if the number of branches and weights differ, or if a rule meets `LinearWeights`.

    Examples:
      >>> mixture = cfg_jax.GaussianMixture(means=[[-1.0], [1.0]], variance=0.5, weights=[1, 1])
      >>> labels, logsnrs = jnp.array([0, 1]), cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 16)
      >>> both = cfg_jax.branches(mixture.predict, labels, null_label=2)
      >>> guided = cfg_jax.guide(both, cfg_jax.weights(logsnrs, 1.0, interval=(-3.0, 3.0)))
      >>> x = cfg_jax.sample(jax.random.key(0), guided, (2, 1), logsnrs, clip_x=False)
      >>> print(jnp.sign(x[:, 0]))
      [-1.  1.]
    """
    if isinstance(weights, LinearWeights):
        if watch:
            raise ValueError("watch with linear_weights: give two branches and `weights`")
        if rule is not None or weights.a.shape[1] != every.num_branches:
            raise ValueError(
                f"{weights.a.shape[1]} weights for {every.num_branches} branches"
                + (" with a rule" if rule is not None else "")
                + ": give one weight per branch, and no rule"
            )
        return _guided_linearly(every, weights)
    if every.num_branches != 2:
        raise ValueError(f"{every.num_branches} branches with one weight: give `linear_weights`")
    rule = rule or cfg()
    rows = {"call": jnp.arange(weights.w.shape[0]), **weights._asdict()}

    def both_branches(
        z: Array, logsnr: Array, row: Any, state: Any
    ) -> tuple[Output, Any, tuple[Array, Array]]:
        outputs = every.every(z, logsnr, row["call"])
        w = jnp.broadcast_to(row["w"], z.shape[:1])
        output, after = rule.guided(z, logsnr, outputs, w, state)
        kept = jax.tree.map(lambda new, old: jnp.where(row["starts"], new, old), after, state)
        first, other = map(eps_of, outputs)
        return output, kept, (first, other)

    def denoise(z: Array, logsnr: Array, row: Any, state: Any) -> tuple[Output, Any]:
        return jax.lax.cond(
            row["guided"],
            lambda: both_branches(z, logsnr, row, state)[:2],
            lambda: (every.first(z, logsnr), state),
        )

    if watch:
        return _watched(every, rule, both_branches, rows)
    return Guided(denoise, rows, rule.init)


def _watched(every: Branches, rule: Rule, both_branches: Callable, rows: Any) -> Guided:
    """`guide` with a `Watched` state; both_branches returns (output, state of rule, both eps)."""

    def denoise(z: Array, logsnr: Array, row: Any, state: Watched) -> tuple[Output, Watched]:
        def both() -> tuple[Output, Watched]:
            output, kept, pair = both_branches(z, logsnr, row, state.rule)
            return output, Watched(kept, *pair)

        def first() -> tuple[Output, Watched]:
            output = every.first(z, logsnr)
            return output, Watched(state.rule, eps_of(output), eps_of(output))

        return jax.lax.cond(row["guided"], both, first)

    def init(shape: tuple[int, ...]) -> Watched:
        return Watched(rule.init(shape), jnp.zeros(shape), jnp.zeros(shape))

    return Guided(denoise, rows, init)


def _guided_linearly(every: Branches, weights: LinearWeights) -> Guided:
    rows = {"call": jnp.arange(weights.a.shape[0]), **weights._asdict()}

    def denoise(z: Array, logsnr: Array, row: Any, state: Any) -> tuple[Output, Any]:
        def all_branches() -> Output:
            factors = [expand(jnp.broadcast_to(a, z.shape[:1]), z) for a in row["a"]]

            def weighted(*found: Array) -> Array:
                return jnp.asarray(sum(a * each for a, each in zip(factors, found, strict=True)))

            return combined(z, every.every(z, logsnr, row["call"]), logsnr, weighted)

        return jax.lax.cond(row["guided"], all_branches, lambda: every.first(z, logsnr)), state

    return Guided(denoise, rows, lambda shape: ())
