"""Random keys of examples.

Example i draws from fold_in(key, i), or from entry i of a [B] array of keys, so its random numbers
do not depend on the batch size, the devices or the hosts.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.core.arguments import seed_of, text_of
from cfg_jax.core.types import Array, ArrayLike, Key


def per_example(key: Key, batch_size: int) -> Key:
    """The keys [B] of a batch: fold_in(key, i) for a single key, or the given [B] keys.

    key is typed, [] or [B], or legacy uint32, [2] or [B, 2]; consumed. Raises ValueError for any
    other value or shape.

    Examples:
      >>> one = cfg_jax.keys.per_example(jax.random.key(0), 4)
      >>> more = cfg_jax.keys.per_example(jax.random.key(0), 8)
      >>> bool((one == more[:4]).all())
      True
    """
    if not isinstance(key, jax.Array | np.ndarray):
        raise ValueError(f"key={text_of(key)}: need jax.random.key(seed), or one key per example")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        try:
            key = jax.random.wrap_key_data(key)
        except TypeError:  # of another type or shape than legacy keys
            raise ValueError(
                f"key of type {key.dtype} and shape {key.shape}: need jax.random.key(seed), or one "
                "key per example"
            ) from None
    if key.shape == ():
        return indexed(key, jnp.arange(batch_size))
    if key.shape == (batch_size,):
        return key
    raise ValueError(
        f"keys of shape {key.shape} for a batch of {batch_size}: give one key or one per example"
    )


def key_of(key: Key | int) -> Key:
    """`key`, or jax.random.key(seed) for a seed, an integer in 0..2^32 - 1.

    Raises ValueError for a value of another type or range.

    Examples:
      >>> bool(cfg_jax.keys.key_of(3) == jax.random.key(3))
      True
    """
    if isinstance(key, jax.Array | np.ndarray):
        return key
    if isinstance(key, bool) or not isinstance(key, int | np.integer):
        raise ValueError(
            f"key={text_of(key)}: need a seed such as 0, jax.random.key(0), or one key per example"
        )
    return jax.random.key(seed_of(key, "key"))


def indexed(key: Key, indices: ArrayLike) -> Key:
    """fold_in(key, index) for every index: [B] keys from one key (consumed) and [B] integers.

    Examples:
      >>> keys = cfg_jax.keys.indexed(jax.random.key(0), jnp.array([5, 7]))
      >>> bool(keys[1] == jax.random.fold_in(jax.random.key(0), 7))
      True
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def fold_in(keys: Key, data: ArrayLike) -> Key:
    """fold_in(keys[i], data) for every example: [B] keys from [B] keys (consumed).

    Examples:
      >>> keys = cfg_jax.keys.per_example(jax.random.key(0), 2)
      >>> bool(cfg_jax.keys.fold_in(keys, 9)[1] == jax.random.fold_in(keys[1], 9))
      True
    """
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def stream(keys: Key, name: str) -> Key:
    """[B] keys of the random stream `name`, fold_in(keys[i], crc32(name)), from [B] keys.

    The original keys may also be passed to a sampler, which folds in its step numbers.

    Examples:
      >>> keys = cfg_jax.keys.per_example(jax.random.key(0), 2)
      >>> bool((cfg_jax.keys.stream(keys, "noise") == cfg_jax.keys.stream(keys, "label")).any())
      False
    """
    return fold_in(keys, zlib.crc32(name.encode()))


def split(keys: Key, num: int = 2) -> Key:
    """[num, B] independent keys from [B] keys (consumed).

    Examples:
      >>> cfg_jax.keys.split(cfg_jax.keys.per_example(jax.random.key(0), 4), 3).shape
      (3, 4)
    """
    return jnp.swapaxes(jax.vmap(lambda key: jax.random.split(key, num))(keys), 0, 1)


def normal(keys: Key, shape: tuple[int, ...]) -> Array:
    """Standard normal noise of `shape` [B, ...], row i drawn from keys[i] (consumed).

    Examples:
      >>> keys = cfg_jax.keys.per_example(jax.random.key(0), 4)
      >>> noise = cfg_jax.keys.normal(keys, (4, 2))
      >>> bool((noise[:2] == cfg_jax.keys.normal(keys[:2], (2, 2))).all())
      True
    """
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(keys)


def uniform(keys: Key) -> Array:
    """One number in [0, 1) per example: [B] from [B] keys (consumed).

    Examples:
      >>> u = cfg_jax.keys.uniform(cfg_jax.keys.per_example(jax.random.key(0), 4))
      >>> u.shape, bool((0 <= u).all() and (u < 1).all())
      ((4,), True)
    """
    return jax.vmap(jax.random.uniform)(keys)
