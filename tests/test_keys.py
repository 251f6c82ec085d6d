"""Random draws depend on the example, not on the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.core import keys

per_example = jax.jit(keys.per_example, static_argnums=1)
KEYS = [jax.random.fold_in(jax.random.key(3), i) for i in range(4)]
BATCH = jnp.stack(KEYS)


def data(key):
    return np.asarray(jax.random.key_data(key))


def test_example_i_has_the_key_folded_with_i_whatever_the_batch_size():
    for batch_size in (1, 4):
        found = per_example(jax.random.key(3), batch_size)
        assert found.shape == (batch_size,)
        np.testing.assert_array_equal(data(found), data(BATCH[:batch_size]))


def test_one_key_per_example_is_used_as_it_is():
    np.testing.assert_array_equal(data(per_example(BATCH, 4)), data(BATCH))


@pytest.mark.parametrize("to_array", [jnp.asarray, np.asarray])
def test_legacy_keys_give_the_draws_of_typed_ones(to_array):
    one = per_example(to_array(jax.random.PRNGKey(3)), 4)
    np.testing.assert_array_equal(data(one), data(BATCH))
    each = per_example(to_array(data(BATCH)), 4)
    np.testing.assert_array_equal(data(each), data(BATCH))


@pytest.mark.parametrize("batch_size", [3, 5, 1])
def test_keys_that_are_not_one_per_example_are_refused(batch_size):
    with pytest.raises(ValueError, match=rf"\(4,\).*batch of {batch_size}"):
        keys.per_example(BATCH, batch_size)
    with pytest.raises(ValueError, match=rf"\(4,\).*batch of {batch_size}"):
        keys.per_example(data(BATCH), batch_size)
    with pytest.raises(ValueError, match=rf"\(4, 1\).*batch of {batch_size}"):
        keys.per_example(BATCH[:, None], batch_size)


def test_every_example_draws_its_noise_from_its_own_key():
    noise = jax.jit(keys.normal, static_argnums=1)(BATCH, (4, 2, 3))
    assert noise.shape == (4, 2, 3) and noise.dtype == jnp.float32
    for key, row in zip(KEYS, noise, strict=True):
        np.testing.assert_array_equal(row, jax.random.normal(key, (2, 3)))
    uniform = jax.jit(keys.uniform)(BATCH)
    np.testing.assert_array_equal(uniform, [jax.random.uniform(key) for key in KEYS])


def test_folding_in_a_number_acts_on_every_key():
    for number in (0, 7):
        expected = [data(jax.random.fold_in(key, number)) for key in KEYS]
        np.testing.assert_array_equal(data(jax.jit(keys.fold_in)(BATCH, number)), expected)


def test_a_named_stream_is_the_key_folded_with_the_crc32_of_its_name():
    # The checksum of "123456789" is in every table of CRCs. The others must never change, or seeds
    # would draw other labels and images.
    known = (("123456789", 0xCBF43926), ("label", 0x0EA750E8), ("upsampled", 0xF7400E6A))
    for name, crc in known:
        expected = [data(jax.random.fold_in(key, np.uint32(crc))) for key in KEYS]
        np.testing.assert_array_equal(data(keys.stream(BATCH, name)), expected)


def test_split_gives_each_example_keys_that_occur_nowhere_else():
    split = jax.jit(keys.split, static_argnums=1)(BATCH, 3)
    assert split.shape == (3, 4)
    for i, key in enumerate(KEYS):
        np.testing.assert_array_equal(data(split[:, i]), data(jax.random.split(key, 3)))
    everything = np.concatenate([data(split).reshape(-1, 2), data(BATCH)])
    assert len(np.unique(everything, axis=0)) == len(everything)


@pytest.mark.parametrize("key", [0, None])
def test_a_seed_is_no_key(key):
    with pytest.raises(ValueError, match="jax.random.key"):
        keys.per_example(key, 3)
