import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cfg_jax.runtime import devices
from cfg_jax.training.step import create_optimizer, create_train_state, make_train_step

BATCH = 16


def quadratic(params, keys, batch):
    """Loss |p - x_i - noise_i|^2, with known gradient and noise per example."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    loss = jnp.sum((params["p"][None] - batch["x"] - 0.1 * noise) ** 2, axis=1)
    return loss, {"first": (batch["x"][:, 0], (batch["x"][:, 1] > 0).astype(jnp.float32))}


def batch_of(step, size=BATCH):
    # One direction dominates some rows: clipping part of the batch differs from clipping all of it.
    x = np.random.default_rng(step).standard_normal((size, 3)).astype(np.float32)
    x[0] *= 30
    return {"x": x, "index": np.arange(size, dtype=np.int32)}


def fresh(optimizer):
    return create_train_state({"p": jnp.array([1.0, -2.0, 0.5])}, optimizer)


def run(num_steps, *, pmapped, grad_clip=0.5, num_microbatches=1, start=None, first=0):
    optimizer = optax.chain(optax.clip_by_global_norm(grad_clip), optax.sgd(0.1))
    step = make_train_step(
        quadratic,
        optimizer,
        seed=3,
        ema_decay=0.9,
        num_microbatches=num_microbatches,
        axis_name=devices.AXIS if pmapped else None,
    )
    state = start or fresh(optimizer)
    if pmapped:
        state, step = devices.replicate(state), devices.pmap_step(step)
    else:
        step = jax.jit(step)
    for k in range(first, first + num_steps):
        batch = batch_of(k)
        state, metrics = step(state, devices.split_batch(batch) if pmapped else batch)
    return state, jax.device_get(metrics)


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), got, expected)


def test_several_devices_and_one_agree_on_parameters_average_and_metrics():
    one, one_metrics = run(4, pmapped=False)
    several, several_metrics = run(4, pmapped=True)
    assert_close((several.params, several.ema_params), (one.params, one.ema_params))
    assert_close(several_metrics, one_metrics)


def test_every_device_holds_the_same_parameters_after_some_steps():
    # pmap does not check that outputs are replicated; only this test detects a forgotten pmean.
    state, _ = run(3, pmapped=True)
    for leaf in jax.tree.leaves(state):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == devices.num_devices() > 1
        for copy in copies[1:]:
            np.testing.assert_array_equal(copy, copies[0])


def test_the_gradient_is_clipped_after_the_mean_over_devices():
    # By hand: mean gradient over all rows, then its norm cut to the limit, then SGD.
    state, metrics = run(1, pmapped=True, grad_clip=0.5)
    key = jax.random.fold_in(jax.random.key(3), 0)
    noise = np.stack([jax.random.normal(jax.random.fold_in(key, i), (3,)) for i in range(BATCH)])
    params = np.array([1.0, -2.0, 0.5])
    gradient = 2 * (params - batch_of(0)["x"] - 0.1 * noise).mean(axis=0)
    norm = np.linalg.norm(gradient)
    assert norm > 0.5
    np.testing.assert_allclose(state.params["p"], params - 0.1 * 0.5 * gradient / norm, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"][0], norm, rtol=1e-5)


@pytest.mark.parametrize("parts", [2, 4])
def test_microbatches_change_nothing_but_memory(parts):
    whole, whole_metrics = run(3, pmapped=False)
    state, metrics = run(3, pmapped=False, num_microbatches=parts)
    assert_close((state.params, metrics), (whole.params, whole_metrics))


def test_a_batch_that_microbatches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="num_microbatches=3"):
        run(1, pmapped=False, num_microbatches=3)


def test_metrics_are_weighted_sums_over_the_global_batch():
    _, metrics = run(1, pmapped=True)
    x = batch_of(0)["x"]
    chosen = x[:, 1] > 0
    np.testing.assert_allclose(metrics["first"][0], x[chosen, 0].sum(), rtol=1e-5)
    assert metrics["first"][1] == chosen.sum() and metrics["loss"][1] == BATCH


def test_the_average_follows_its_warm_up_rule():
    # d = min(0.2, (1 + n) / (10 + n)): 1/10, 2/11, then 0.2 in the first four steps.
    step = jax.jit(make_train_step(quadratic, optax.sgd(0.1), seed=3, ema_decay=0.2))
    state = fresh(optax.sgd(0.1))
    average = np.asarray(state.params["p"])
    for k, decay in enumerate([1 / 10, 2 / 11, 0.2, 0.2]):
        state, _ = step(state, batch_of(k))
        average = decay * average + (1 - decay) * np.asarray(state.params["p"])
        np.testing.assert_allclose(state.ema_params["p"], average, rtol=1e-5)


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(poison):
    optimizer = create_optimizer(learning_rate=0.1, warmup_steps=0, b1=0.9, b2=0.99, grad_clip=1.0)
    step = jax.jit(make_train_step(quadratic, optimizer, seed=0, ema_decay=0.9))
    good, _ = step(fresh(optimizer), batch_of(0))
    batch = batch_of(1)
    batch["x"][3, 2] = poison
    state, metrics = step(good, batch)
    same = [(state.params, good.params), (state.ema_params, good.ema_params)]
    for after, before in [*same, (state.opt_state, good.opt_state)]:
        chex.assert_trees_all_equal(after, before)
    assert (state.step, state.skipped) == (2, 1)
    assert metrics["skipped"][0] == 1 and metrics["loss"] == (0, 0)
    after, metrics = step(state, batch_of(2))
    assert metrics["skipped"][0] == 0 and after.skipped == 1
    assert np.abs(after.params["p"] - state.params["p"]).max() > 0


@pytest.mark.parametrize("setting", [{"learning_rate": 3e38}, {"weight_decay": 3e38}])
def test_an_update_that_overflows_changes_no_parameter_and_is_counted(setting):
    settings = dict(learning_rate=0.1, warmup_steps=0, b1=0.9, b2=0.99, grad_clip=1.0)
    optimizer = create_optimizer(**settings | setting)

    def without_the_last(params, keys, batch):
        return quadratic({"p": params["p"] * jnp.array([1.0, 1.0, 0.0])}, keys, batch)

    step = jax.jit(make_train_step(without_the_last, optimizer, seed=0, ema_decay=0.9))
    before = fresh(optimizer)
    state, metrics = step(before, batch_of(0))
    assert np.isfinite(metrics["grad_norm"][0]) and metrics["skipped"][0] == 1
    assert (metrics["param_norm"], state.skipped) == ((0, 0), 1)
    chex.assert_trees_all_equal(state.params, before.params)
    chex.assert_trees_all_close(state.ema_params, before.ema_params, rtol=1e-6)
    chex.assert_tree_all_finite(state.opt_state)


def test_a_nan_on_one_device_is_skipped_on_all():
    optimizer = optax.sgd(0.1)
    step = make_train_step(quadratic, optimizer, seed=0, ema_decay=0.9, axis_name=devices.AXIS)
    batch = batch_of(0)
    batch["x"][5] = np.nan
    before = fresh(optimizer)
    state, _ = devices.pmap_step(step)(devices.replicate(before), devices.split_batch(batch))
    for shard in state.params["p"].addressable_shards:
        np.testing.assert_array_equal(shard.data, before.params["p"])


def test_stopping_and_going_on_is_bit_for_bit_the_unbroken_run():
    whole, _ = run(6, pmapped=True)
    half, _ = run(3, pmapped=True)
    resumed, _ = run(3, pmapped=True, start=jax.device_get(half), first=3)
    chex.assert_trees_all_equal(resumed, whole)


def moves(optimizer, count):
    """Total movement by Adam at constant gradient: the learning rate per step."""
    params = {"p": jnp.zeros(1)}
    state = optimizer.init(params)
    moved = []
    for _ in range(count):
        updates, state = optimizer.update({"p": jnp.ones(1)}, state, params)
        moved.append(float(-updates["p"][0]))
    return moved


ADAM = dict(learning_rate=0.1, b1=0.9, b2=0.9, grad_clip=0.0)


def test_the_learning_rate_climbs_in_a_line_and_stays():
    found = moves(create_optimizer(warmup_steps=4, **ADAM), 6)
    np.testing.assert_allclose(found, [0, 0.025, 0.05, 0.075, 0.1, 0.1], atol=1e-6)


def test_an_annealed_rate_falls_in_a_line_from_the_first_step_with_the_warm_up_on_top():
    found = moves(create_optimizer(warmup_steps=2, anneal_steps=8, **ADAM), 10)
    # 0 and 1/2 of the warm-up times 8/8 and 7/8, then 6/8, ..., 1/8, 0, 0.
    expected = [0, 0.5 * 7 / 8, *(np.arange(6, -1, -1) / 8), 0]
    np.testing.assert_allclose(found, 0.1 * np.array(expected), atol=1e-6)
