"""Which random numbers does example i get?

Every draw belongs to one example: its key is fold_in(key, i), or is handed in as key i of a [B]
array. So an example's noise does not depend on the batch, the devices or the hosts around it.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.core.types import Array, Key


def per_example(key: Key, batch_size: int) -> Key:
    """The keys [B] of a batch: fold_in(key, i) for a single key, or the [B] keys given.

    Args:
      key: a typed key [] or [B], or a legacy uint32 key [2] or [B, 2]; consumed.
      batch_size: B.

    Raises:
      ValueError: no key; an array of keys whose shape is neither [] nor [B].
    """
    if not isinstance(key, jax.Array | np.ndarray):
        raise ValueError(f"key={key!r}: need jax.random.key(seed), or one key per example")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.shape == ():
        return indexed(key, jnp.arange(batch_size))
    if key.shape == (batch_size,):
        return key
    raise ValueError(
        f"keys of shape {key.shape} for a batch of {batch_size}: give one key or one per example"
    )


def indexed(key: Key, indices: Array) -> Key:
    """fold_in(key, index) for every index: [B] keys from one, consumed, and [B] integers."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def fold_in(keys: Key, data: int | Array) -> Key:
    """fold_in(keys[i], data) for every example: [B] keys, consumed, to [B] keys."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def stream(keys: Key, name: str) -> Key:
    """[B] keys of the random stream `name`, fold_in(keys[i], crc32(name)), from [B] keys.

    The same keys may also be given to a sampler, which folds in the numbers of its steps.
    """
    return fold_in(keys, zlib.crc32(name.encode()))


def split(keys: Key, num: int = 2) -> Key:
    """[num, B] independent keys from [B] keys, consumed."""
    return jnp.swapaxes(jax.vmap(lambda key: jax.random.split(key, num))(keys), 0, 1)


def normal(keys: Key, shape: tuple[int, ...]) -> Array:
    """Standard normal noise of `shape` [B, ...], row i drawn from keys[i] (consumed)."""
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(keys)


def uniform(keys: Key) -> Array:
    """One number in [0, 1) per example: [B] from [B] keys (consumed)."""
    return jax.vmap(jax.random.uniform)(keys)
