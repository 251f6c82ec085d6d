"""Rules that combine the outputs of two branches into a guided one.

    x_guided, state = rule(x_cond, x_other, w, state),   state = rule.init(shape) before the first

All rules are x_cond at w = 0. A rule that is not linear
depends on the quantity it combines, its `space`: eps, x, v, or the velocity eps - x of straight
paths ("flow"). `guiding.guide` converts.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from cfg_jax.core import guidance
from cfg_jax.core.arguments import choice, number, whole
from cfg_jax.core.diffusion import (
    HEADS,
    alpha_sigma,
    combined,
    expand,
    predict_eps_from_v,
    predict_v,
    x_for,
)
from cfg_jax.core.types import (
    Array,
    ArrayLike,
    Output,
    Prediction,
    eps_of,
    with_eps,
    x_of,
)


class Rule(NamedTuple):
    """A guidance rule: called with (x_cond [B, ...], x_other [B, ...], w [] or [B], state).

    apply: the rule itself.
    init: shape [B, ...] -> state before the first call.
    space: quantity that is combined, a key of `SPACES`; None for a linear rule, which combines
      eps_hat and x_hat alike.

    Examples:
      >>> x_guided, _ = cfg_jax.cfg()(jnp.array([[2.0]]), jnp.array([[1.0]]), 3.0, ())
      >>> print(x_guided)  # (1 + 3) 2 - 3
      [[5.]]
    """

    apply: Callable[[Array, Array, ArrayLike, Any], tuple[Array, Any]]
    init: Callable[[tuple[int, ...]], Any]
    space: str | None = "eps"

    def __call__(
        self, x_cond: Array, x_other: Array, w: ArrayLike, state: Any
    ) -> tuple[Array, Any]:
        """(x_guided [B, ...], state)."""
        return self.apply(x_cond, x_other, w, state)

    def guided(
        self, z: Array, logsnr: Array, outputs: Sequence[Output], w: ArrayLike, state: Any
    ) -> tuple[Output, Any]:
        """The guided output of both branches' outputs, with x_hat if the first has it; the state.

        z is [B, ...], logsnr and w are [] or [B].
        """
        if self.space is None:
            linear = combined(z, outputs, logsnr, lambda one, other: self(one, other, w, state)[0])
            first, other = map(eps_of, outputs)
            return linear, self(first, other, w, state)[1]
        to_space, from_space = SPACES[self.space]
        x_cond, x_other = (to_space(z, output, logsnr) for output in outputs)
        quantity, state = self(x_cond, x_other, w, state)
        found = from_space(z, quantity, logsnr)
        x_hat = None if x_of(outputs[0]) is None else x_for(z, found, logsnr)
        return with_eps(outputs[0], eps_of(found), x_hat), state


def _stateless(shape: tuple[int, ...]) -> tuple:
    return ()


def cfg() -> Rule:
    """(1 + w) x_cond - w x_other: Ho & Salimans 2022, equation 6; linear, so of any space.

    Examples:
      >>> guided, _ = cfg_jax.cfg().apply(jnp.array([[3.0]]), jnp.array([[1.0]]), 0.5, ())
      >>> print(guided)
      [[4.]]
    """

    def apply(x_cond, x_other, w, state):
        return guidance.cfg(x_cond, x_other, w), state

    return Rule(apply, _stateless, space=None)


def rescale(phi: float, *, space: str = "v") -> Rule:
    """`cfg` scaled towards the standard deviation of the conditional branch, per sample.

    g (phi std(x_cond) / std(g) + 1 - phi), g the result of `cfg`. Lin et al. 2023, arXiv
    2305.08891, equations 15 and 16, who apply it to a network that predicts v, with phi = 0.7.
    Raises ValueError unless phi is in [0, 1] and the space is known.

    Examples:
      >>> x = jnp.array([[1.0, -1.0]])
      >>> guided, _ = cfg_jax.rescale(1.0).apply(x, 0 * x, 3.0, ())
      >>> print(np.asarray(guided).round(3))  # the deviation of the conditional branch again
      [[ 1. -1.]]
    """
    phi = _number("phi", phi, 0.0, 1.0)

    def apply(x_cond, x_other, w, state):
        guided, _ = cfg()(x_cond, x_other, w, ())
        axes = tuple(range(1, x_cond.ndim))
        ratio = jnp.std(x_cond, axes, keepdims=True) / jnp.std(guided, axes, keepdims=True)
        # phi = 0 and w = 0 are the identity bit for bit.
        scaled = guided * (phi * ratio + 1 - phi)
        return jnp.where(expand(w, x_cond) == 0, guided, scaled) if phi else guided, state

    return Rule(apply, _stateless, choice("space", space, SPACES))


def apg(eta: float = 0.0, r: float = 0.0, beta: float = 0.0) -> Rule:
    """Adaptive projected guidance in x: Sadat et al. 2024, arXiv 2410.02416, algorithm 1.

    d = x_cond - x_other + beta d_before, cut to norm r, is split into parts parallel and orthogonal
    to x_cond: x_guided = x_cond + w (orthogonal + eta parallel). The state is d [B, ...].

    Args:
      eta: weight of the parallel part, which saturates colours; 1 keeps it.
      r: largest norm of d per sample; 0 for no limit. It grows with the root of the pixel count.
      beta: momentum of d; negative values, such as -0.5, favour the present direction.

    Raises ValueError unless the numbers are finite and r is at least 0.

    Examples:
      >>> rule, shape = cfg_jax.apg(r=1.0), (1, 2)
      >>> x_cond, x_other = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, -5.0]])
      >>> guided, _ = rule.apply(x_cond, x_other, 2.0, rule.init(shape))
      >>> print(np.asarray(guided).round(3))  # a difference of norm 5, shortened to 1
      [[1. 2.]]
    """
    eta, beta = _number("eta", eta), _number("beta", beta)
    r = _number("r", r, 0.0)

    def apply(x_cond, x_other, w, state):
        update = x_cond - x_other + beta * state
        axes = tuple(range(1, x_cond.ndim))
        # A sample that is not guided keeps its direction, whatever others of the batch do.
        state = jnp.where(expand(w, x_cond) == 0, state, update)
        if r:
            norm = jnp.sqrt(jnp.sum(update**2, axes, keepdims=True))
            update = update * jnp.minimum(1.0, r / jnp.maximum(norm, 1e-12))
        along = jnp.sum(update * x_cond, axes, keepdims=True)
        parallel = along / jnp.maximum(jnp.sum(x_cond**2, axes, keepdims=True), 1e-12) * x_cond
        return x_cond + expand(w, x_cond) * (update + (eta - 1) * parallel), state

    return Rule(apply, jnp.zeros, "x")


def zero_star(zero_calls: int = 1) -> Rule:
    """CFG-Zero*: Fan et al. 2025, arXiv 2503.18886, on the velocity of straight paths.

    g = v_cond + w (v_cond - s v_other), s = <v_cond, v_other> / |v_other|^2; the first zero_calls
    guided calls give v = 0. Made for flow models at the first steps. The state [B] counts them.

    Examples:
      >>> rule = cfg_jax.zero_star(zero_calls=1)
      >>> x = jnp.array([[1.0, 2.0]])
      >>> first, state = rule.apply(x, x / 2, 1.0, rule.init(x.shape))
      >>> second, _ = rule.apply(x, x / 2, 1.0, state)
      >>> print(first, np.asarray(second).round(3))  # the second branch is scaled to fit the first
      [[0. 0.]] [[1. 2.]]
    """
    zero_calls = whole("zero_calls", zero_calls)

    def apply(x_cond, x_other, w, state):
        axes = tuple(range(1, x_cond.ndim))
        inner = jnp.sum(x_cond * x_other, axes, keepdims=True)
        scale = inner / jnp.maximum(jnp.sum(x_other**2, axes, keepdims=True), 1e-12)
        guided = x_cond + expand(w, x_cond) * (x_cond - scale * x_other)
        guided = jnp.where(expand(state < zero_calls, x_cond), 0.0, guided)
        off = jnp.broadcast_to(jnp.asarray(w) == 0, state.shape)
        return jnp.where(expand(off, x_cond), x_cond, guided), state + ~off

    return Rule(apply, lambda shape: jnp.zeros(shape[:1], jnp.int32), "flow")


def dynamic_threshold(
    quantile: float = 0.995, most: float | None = None
) -> Callable[[Array], Array]:
    """A function of x_hat for `sample(clip_x=...)`: Saharia et al. 2022, arXiv 2205.11487.

    clip(x_hat, -s, s) / s per sample, s the quantile of |x_hat|, at least 1 and at most `most`. For
    images in [-1, 1] only. Raises ValueError unless quantile is in (0, 1] and most above 1.

    Examples:
      >>> x_hat = jnp.array([[-4.0, 2.0, 1.0, 0.0]])
      >>> print(cfg_jax.dynamic_threshold(1.0)(x_hat))  # divided by the largest
      [[-1.    0.5   0.25  0.  ]]
    """
    quantile = _number("quantile", quantile, 1e-6, 1.0)
    limit = jnp.inf if most is None else _number("most", most, 1.0 + 1e-6)

    def threshold(x_hat: Array) -> Array:
        flat = jnp.abs(x_hat.reshape(len(x_hat), -1))
        s = expand(jnp.clip(jnp.quantile(flat, quantile, axis=1), 1.0, limit), x_hat)
        return jnp.clip(x_hat, -s, s) / s

    return threshold


RULES: dict[str, Callable[..., Rule]] = {
    "cfg": cfg,
    "rescale": rescale,
    "apg": apg,
    "zero_star": zero_star,
}
"""Functions that make a rule, by name."""


_EXAMPLES = {
    "cfg": "cfg",
    "rescale": "rescale:phi=0.7",
    "apg": "apg:eta=0,r=15,beta=-0.5",
    "zero_star": "zero_star:zero_calls=1",
}


def rule_of(text: str) -> Rule:
    """The rule of a text such as "cfg", "rescale:phi=0.7" or "apg:eta=0,r=15,beta=-0.5".

    Raises ValueError if the name or an argument is unknown, missing or out of range.
    """
    if not isinstance(text, str):
        examples = ", ".join(map(repr, _EXAMPLES.values()))
        raise ValueError(f"rule of type {type(text).__name__}: need a text, such as {examples}")
    name, _, given = text.partition(":")
    choice("rule", name, RULES)
    arguments: dict[str, Any] = {}
    for part in filter(None, given.split(",")):
        key, _, value = part.partition("=")
        try:
            arguments[key] = value if key == "space" else float(value)
        except ValueError:
            raise ValueError(
                f"rule={text!r}: {part!r} is not NAME=NUMBER, as in {_EXAMPLES[name]}"
            ) from None
    if (calls := arguments.get("zero_calls")) is not None and calls.is_integer():
        arguments["zero_calls"] = int(calls)
    known = inspect.signature(RULES[name]).parameters
    required = [key for key, each in known.items() if each.default is each.empty]
    wrong = [key for key in arguments if key not in known]
    missing = [key for key in required if key not in arguments]
    if wrong or missing:
        raise ValueError(
            f"rule={text!r}: {name} takes {', '.join(known) or 'no arguments'}, as in "
            f"{_EXAMPLES[name]}"
        )
    return RULES[name](**arguments)


def _to_v(z: Array, output: Output, logsnr: Array) -> Array:
    if (x_hat := x_of(output)) is not None:
        return predict_v(x_hat, eps_of(output), logsnr)
    alpha, sigma = alpha_sigma(expand(logsnr, z))
    return (eps_of(output) - sigma * z) / alpha


def _from_v(z: Array, v_hat: Array, logsnr: Array) -> Prediction:
    alpha, sigma = alpha_sigma(expand(logsnr, z))
    return Prediction(predict_eps_from_v(z, v_hat, logsnr), x_hat=alpha * z - sigma * v_hat)


def _to_flow(z: Array, output: Output, logsnr: Array) -> Array:
    return eps_of(output) - x_for(z, output, logsnr)


def _from_flow(z: Array, velocity: Array, logsnr: Array) -> Prediction:
    alpha, sigma = alpha_sigma(expand(logsnr, z))
    eps_hat, x_hat = z + alpha * velocity, z - sigma * velocity
    return Prediction(eps_hat / (alpha + sigma), x_hat=x_hat / (alpha + sigma))


_Convert = tuple[
    Callable[[Array, Output, Array], Array],
    Callable[[Array, Array, Array], Output],
]
SPACES: dict[str, _Convert] = {
    "eps": (lambda z, output, logsnr: eps_of(output), HEADS["eps"]),
    "x": (x_for, HEADS["x"]),
    "v": (_to_v, _from_v),
    "flow": (_to_flow, _from_flow),
}
"""Functions (z, output, logsnr) -> the quantity, and (z, quantity, logsnr) -> output."""


def _number(name: str, value: Any, least: float = -jnp.inf, most: float = jnp.inf) -> float:
    return float(number(name, value, f"a number from {least:g} to {most:g}", least, most))
