"""A state divided among the devices against the same training with the whole state on each."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.runtime import devices
from cfg_jax.storage.checkpoint import Checkpoints
from cfg_jax.training import placement, sharded
from cfg_jax.training.run import train
from cfg_jax.training.step import create_optimizer, create_train_state, make_train_step
from tests.tiny import parameters, pixel_networks, records, tiny_config

NUM = devices.num_devices()
BATCH = 8 * NUM
ADAM = dict(learning_rate=0.05, warmup_steps=2, b1=0.9, b2=0.99, grad_clip=0.1, weight_decay=0.1)
# Rows that no number of devices above 1 divides, a scalar, and axes to merge.
SHAPES = {"kernel": (1, 3, 5), "bias": (7,), "gain": (), "conv": (3, 3, 2, 4)}


def initial():
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in SHAPES.items()}


def loss_fn(params, keys, batch):
    """A loss with a gradient in every parameter, and noise per example."""
    flat = jnp.concatenate([jnp.ravel(leaf) for leaf in params.values()])
    noise = jax.vmap(lambda key: jax.random.normal(key, (flat.size,)))(keys)
    seen = batch["x"] @ jnp.sin(jnp.arange(3.0 * flat.size)).reshape(3, -1)
    loss = jnp.mean((flat[None] * (1 + seen) - 0.1 * noise) ** 2, axis=1)
    return loss, {}


def batch_of(step):
    x = np.random.default_rng(step).standard_normal((BATCH, 3)).astype(np.float32)
    x[0] *= 30
    return {"x": x, "index": np.arange(BATCH, dtype=np.int32)}


class Trainer:
    """A placement, its state and its step."""

    def __init__(self, shard_state, **options):
        optimizer = create_optimizer(**ADAM | options)

        def create():
            return create_train_state(initial(), optimizer)

        abstract = jax.eval_shape(create)
        self.place = (
            placement.Sharded(abstract, optimizer, NUM)
            if shard_state
            else placement.Replicated(abstract)
        )
        step = make_train_step(
            loss_fn,
            optimizer,
            seed=3,
            ema_decay=0.9,
            num_microbatches=2,
            axis_name=devices.AXIS,
            shard_state=shard_state,
        )
        self.step = devices.pmap_step(step, axes=self.place.axes)
        self.state = self.place.create(create)

    def take(self, batch):
        self.state, metrics = self.step(self.state, devices.split_batch(batch))
        return jax.device_get(metrics)

    def whole(self):
        return jax.device_get(self.place.whole(self.state))


def both(**options):
    return Trainer(False, **options), Trainer(True, **options)


def assert_close(got, expected):
    chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [*SHAPES.values(), (0,), (9, 1)])
def test_an_array_is_the_join_of_its_equal_parts(shape, count):
    array = np.random.default_rng(1).standard_normal(shape)
    parts = sharded.split(array, count)
    assert parts.shape[0] == count and parts.shape[2:] == (shape[-1:] if len(shape) > 1 else ())
    rows = np.prod(shape[:-1] if len(shape) > 1 else shape, dtype=int)
    assert parts.shape[1] == -(-rows // count)
    np.testing.assert_array_equal(sharded.join(parts, array), array)
    assert np.sum(parts**2) == pytest.approx(np.sum(array**2))  # padding is 0


def test_ten_steps_of_a_divided_state_are_those_of_the_whole_one():
    plain, divided = both()
    assert_close(divided.whole(), plain.whole())
    for k in range(10):
        expected, got = plain.take(batch_of(k)), divided.take(batch_of(k))
        assert expected["grad_norm"][0] > 2 * ADAM["grad_clip"]
        chex.assert_trees_all_close(got, expected, rtol=1e-5)
    assert_close(divided.whole(), plain.whole())
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), divided.whole().params, initial())
    assert min(jax.tree.leaves(moved)) > 0.05


def test_every_device_ends_with_the_same_parameters():
    _, divided = both()
    for k in range(3):
        divided.take(batch_of(k))
    for leaf in jax.tree.leaves(divided.state.params):
        first, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        assert len(others) == NUM - 1
        for other in others:
            np.testing.assert_array_equal(other, first)


def test_a_step_that_is_not_finite_on_one_device_changes_nothing_anywhere():
    _, divided = both()
    divided.take(batch_of(0))
    before, poisoned = divided.whole(), batch_of(1)
    poisoned["x"][-1, 0] = np.nan
    metrics = divided.take(poisoned)
    after = divided.whole()
    for name in ("params", "ema_params", "opt_state"):
        chex.assert_trees_all_equal(getattr(after, name), getattr(before, name))
    assert (after.step, after.skipped, metrics["skipped"][0]) == (2, 1, 1)
    assert metrics["loss"] == (0, 0)


def test_an_update_that_overflows_in_one_part_is_counted_on_every_device():
    plain, divided = both(learning_rate=3e38, warmup_steps=0)
    expected, got = plain.take(batch_of(0)), divided.take(batch_of(0))
    assert got["skipped"][0] == expected["skipped"][0] == 1
    chex.assert_trees_all_equal(divided.whole().params, plain.whole().params)
    for shard in divided.state.skipped.addressable_shards:
        assert shard.data == 1


def held(tree):
    """Bytes of a tree on each device."""
    sizes = np.zeros(NUM, int)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            sizes[shard.device.id] += shard.data.nbytes
    return sizes


def test_a_device_holds_its_part_of_average_and_moments_alone():
    plain, divided = both()
    for k in range(2):
        plain.take(batch_of(k)), divided.take(batch_of(k))
    large = [(t.state.ema_params, t.state.opt_state) for t in (plain, divided)]
    whole, parts = map(held, large)
    # Padding: at most a row of 5, of 4, and two scalars per device, in three trees; two counters.
    assert (parts <= whole / NUM + 3 * 4 * (5 + 4 + 2) + 8).all()
    said = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(divided.place.of_device))
    np.testing.assert_array_equal(held(divided.state), said)


def test_the_axes_of_a_divided_state_can_be_hashed_as_several_processes_need():
    axes = both()[1].place.axes
    assert hash(axes) == hash(axes)


def test_the_state_that_is_given_to_a_step_is_donated():
    _, divided = both()
    before = divided.state
    divided.take(batch_of(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


@pytest.mark.parametrize("wrote", [True, False])
def test_a_checkpoint_of_either_state_restores_as_the_other(wrote, tmp_path):
    plain, divided = both()
    writer, reader = (divided, plain) if wrote else (plain, divided)
    writer.take(batch_of(0))
    expected = writer.whole()
    with Checkpoints(tmp_path) as checkpoints:
        state = writer.place.whole(writer.state)
        parts = state.replace(ema_params=None), state.ema_params
        checkpoints.save(1, *parts, config={}, meta={}, loss=0.0)
        writer.take(batch_of(1))  # while the save is running
        checkpoints.wait()
        target = reader.place.target()
        found = checkpoints.restore_latest(target.replace(ema_params=None), target.ema_params)
    reader.state = reader.place.placed(found.state.replace(ema_params=found.ema))
    chex.assert_trees_all_equal(reader.whole(), expected)
    reader.take(batch_of(1))
    assert_close(reader.whole(), writer.whole())


def test_a_run_goes_on_with_and_without_a_divided_state(data_dir, tmp_path):
    def go_on(name, **overrides):
        settings = {f"train.{field}": value for field, value in overrides.items()}
        with pixel_networks():
            train(tiny_config(**{"data.data_dir": data_dir} | settings), tmp_path / name)
        return records(tmp_path / name)[-1], parameters(tmp_path / name)

    go_on("parts", shard_state=True, num_steps=2, preview_every=2)
    go_on("parts", num_steps=3)
    log, average = go_on("parts", shard_state=True)
    expected_log, expected = go_on("whole")
    assert_close(average, expected)
    assert log["step"] == expected_log["step"] == 4
    assert len(list((tmp_path / "parts" / "previews").iterdir())) == 1


def test_a_divided_state_without_a_pmap_is_refused():
    with pytest.raises(ValueError, match="shard_state=True without axis_name"):
        make_train_step(loss_fn, create_optimizer(**ADAM), seed=0, ema_decay=0, shard_state=True)
