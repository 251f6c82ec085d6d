"""Softmax attention in forms that compile to fast programs, for all heads of all examples.

    softmax(q k^T / sqrt(d)) v

`attend` projects h to q, k and v first, `attend_heads` takes them. One example is [heads, d, L],
tokens last, with scores [heads, keys, queries] in float32. The backward pass keeps the result and
the logarithm of the softmax's denominator, and computes the scores again. Each form equals the
plain one up to rounding; docs/speed.md has the gains.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from cfg_jax.models.ops import KEPT, product

Array = jax.Array

MANY_TOKENS = 1024
"""Number of tokens from which `attend` computes one example at a time."""
FORWARD_EXAMPLES, BACKWARD_EXAMPLES = 16, 4
"""Examples per turn of a TPU's passes in `attend_heads`."""


def attend(h: Array, kernel: Array, bias: Array) -> Array:
    """softmax(q k^T / sqrt(d)) v for every head, with (q, k, v) = h kernel + bias.

    h is [B, L, C], kernel [C, 3, heads, d], bias [3, heads, d] and the result [B, heads, d, L], in
    h's dtype, with C = heads d. Scores are float32. From MANY_TOKENS tokens on, one example is
    computed at a time: then the scores [heads, L, L] of a batch are never in memory, nor are q, k
    and v, which the backward pass computes again.
    """
    if h.shape[1] < MANY_TOKENS:
        return jax.vmap(lambda h: _attend(*_project("lc,cshd->shdl", h, kernel, bias)))(h)
    return _attend_in_turn(h, kernel, bias)


def _project(formula: str, h: Array, kernel: Array, bias: Array) -> Array:
    """q, k and v of one example: [3, heads, d, L]."""
    return _add_to_rows(product(formula, h, kernel.astype(h.dtype)).astype(h.dtype), bias)


@jax.custom_vjp
def _attend_in_turn(h: Array, kernel: Array, bias: Array) -> Array:
    """`attend`, one example at a time.

    The scan carries h and writes each result over its example. A TPU would fill a stacked output
    with zeros first, and the barrier of `jax.checkpoint` would make a copy of every slice.
    """
    return _attend_in_turn_forward(h, kernel, bias)[0]


def _attend_in_turn_forward(
    h: Array, kernel: Array, bias: Array
) -> tuple[Array, tuple[Array, ...]]:
    sizes = kernel.shape[2:]

    def one(carry: tuple[Array, int], _: None) -> tuple[tuple[Array, int], Array]:
        rows, i = carry
        split = kernel.reshape(*sizes, *kernel.shape[1:])
        *_, out, log_total = _attend_forward(*_project("ghl,ghsed->sedl", rows[i], split, bias))[1]
        rows = jax.lax.dynamic_update_index_in_dim(rows, out, i, axis=0)
        return (rows, i + 1), log_total

    rows = jnp.swapaxes(h, 1, 2).reshape(len(h), *sizes, -1)
    (out, _), log_total = jax.lax.scan(one, (rows, 0), length=len(h))
    return out, (h, kernel, bias, out, log_total)


def _attend_in_turn_backward(kept: tuple[Array, ...], cotangent: Array) -> tuple[Array, ...]:
    h, *weights, out, log_total = kept
    project = lambda *given: _project("lc,cshd->shdl", *given)  # noqa: E731

    def one(carry: tuple, example: tuple[Array, ...]) -> tuple[tuple, None]:
        h, sums, i = carry
        out, log_total, cotangent = example
        qkv, backward = jax.vjp(project, h[i], *weights)
        changes = _attend_backward((*qkv, out, log_total), cotangent)
        change, *terms = backward(jnp.stack(changes))
        h = jax.lax.dynamic_update_index_in_dim(h, change, i, axis=0)
        return (h, jax.tree.map(jnp.add, sums, terms), i + 1), None

    start = h, jax.tree.map(jnp.zeros_like, weights), 0
    (change, sums, _), _ = jax.lax.scan(one, start, (out, log_total, cotangent))
    return change, *sums


_attend_in_turn.defvjp(_attend_in_turn_forward, _attend_in_turn_backward)


@jax.custom_vjp
def attend_heads(q: Array, k: Array, v: Array) -> Array:
    """softmax(q k^T / sqrt(d)) v for every head; q, k, v and the result are [B, heads, d, L].

    From MANY_TOKENS tokens on, one example is computed at a time, as in `attend`. With fewer
    tokens, a TPU takes FORWARD_EXAMPLES and BACKWARD_EXAMPLES at a time: its fast memory does not
    hold the scores of more.
    """
    return _attend_heads_forward(q, k, v)[0]


def _attend_heads_forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
    def one(given: tuple[Array, ...]) -> tuple[Array, ...]:
        return _attend_forward(*given)[1][3:]

    kept = _each_example(one, (q, k, v), FORWARD_EXAMPLES)
    out, log_total = (checkpoint_name(each, KEPT) for each in kept)
    return out, (q, k, v, out, log_total)


def _attend_heads_backward(kept: tuple[Array, ...], cotangent: Array) -> tuple[Array, ...]:
    def one(given: tuple[Array, ...]) -> tuple[Array, ...]:
        return _attend_backward(given[:-1], given[-1])

    return _each_example(one, (*kept, cotangent), BACKWARD_EXAMPLES)


def _each_example(
    one: Callable[[tuple[Array, ...]], tuple[Array, ...]], given: tuple[Array, ...], turn: int
) -> tuple[Array, ...]:
    """`one` of every example, with few tokens `turn` examples at a time on a TPU."""
    few = given[0].shape[-1] < MANY_TOKENS

    def in_turn(*given: Array) -> tuple[Array, ...]:
        return jax.lax.map(one, given, batch_size=turn if few else None)

    def at_once(*given: Array) -> tuple[Array, ...]:
        return jax.vmap(one)(given)

    if few and len(given[0]) <= turn:
        return at_once(*given)
    default = at_once if few else in_turn
    return jax.lax.platform_dependent(*given, tpu=in_turn, default=default)


attend_heads.defvjp(_attend_heads_forward, _attend_heads_backward)


@jax.custom_vjp
def _add_to_rows(h: Array, bias: Array) -> Array:
    """`add_bias` for h [3, heads, d, L] and bias [3, heads, d]."""
    return (h.astype(jnp.float32) + bias[..., None]).astype(h.dtype)


def _add_to_rows_backward(kept: None, cotangent: Array) -> tuple[Array, Array]:
    ones = jnp.ones((cotangent.shape[-1], 8), cotangent.dtype)
    return cotangent, product("shdl,lk->shdk", cotangent, ones)[..., 0]


_add_to_rows.defvjp(lambda h, bias: (_add_to_rows(h, bias), None), _add_to_rows_backward)


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array) -> Array:
    """`attend` for one example: q, k, v and the result are [heads, d, L]."""
    return _attend_forward(q, k, v)[0]


def _attend_forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
    """Scores are [heads, keys, queries]; their sum over keys is a product with ones."""
    scores = product("hdk,hdq->hkq", k, q * q.shape[1] ** -0.5)
    # Fused into the products below, the maximum would be computed again in each.
    largest = jax.lax.optimization_barrier(jnp.max(scores, axis=1))
    weights = jnp.exp(scores - largest[:, None]).astype(v.dtype)
    ones = jnp.ones((8, v.shape[2]), v.dtype)
    total = product("nk,hkq->nhq", ones, weights)[0]
    out = (product("hdk,hkq->hdq", v, weights) / total[:, None]).astype(v.dtype)
    return out, (q, k, v, out, largest + jnp.log(total))


def _attend_backward(kept: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, Array]:
    """With p the softmax and scale = 1 / sqrt(d):

    dv = dout p,   ds = p (v dout - sum_d out dout),   dk = scale q ds,   dq = scale k ds.
    """
    q, k, v, out, log_total = kept
    scale = q.shape[1] ** -0.5
    scores = product("hdk,hdq->hkq", k, q * scale)
    slope = product("hdk,hdq->hkq", v, cotangent)
    inner = jnp.sum(cotangent.astype(jnp.float32) * out, axis=1)
    # Three copies, so that each product below computes its own ds or p, and none is stored.
    first, second, third = jax.lax.optimization_barrier([(scores, slope, log_total, inner)] * 3)

    def change(scores: Array, slope: Array, log_total: Array, inner: Array) -> Array:
        return (jnp.exp(scores - log_total[:, None]) * (slope - inner[:, None])).astype(q.dtype)

    dq = product("hdk,hkq->hdq", k, change(*first)) * scale
    dk = product("hdq,hkq->hdk", q, change(*second)) * scale
    weights = jnp.exp(third[0] - third[2][:, None])
    dv = product("hdq,hkq->hdk", cotangent, weights.astype(q.dtype))
    return dq.astype(q.dtype), dk.astype(q.dtype), dv.astype(q.dtype)


_attend.defvjp(_attend_forward, _attend_backward)
