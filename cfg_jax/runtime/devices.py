"""Which device computes what?

The state is one replicated tree without a device axis; a batch [B, ...] becomes [D, B/D, ...] and
device d gets row d. One pmapped step serves training, one pmapped function sampling. Everything
else in the package is written for a single device.

Each of several processes has D devices and its own part of the global batch. A training step runs
on the devices of all of them; samplers and evaluation run on the process's own. Arrays are the
process's own too, except for orbax, which wants the same state in all processes to be one array
(`as_global`, `as_local`).
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def num_devices() -> int:
    """D, the devices that this process computes on."""
    return jax.local_device_count()


def num_devices_of_all() -> int:
    """The devices of all processes, on which a training step runs: P D."""
    return jax.process_count() * num_devices()


def _sharding(*axes: str) -> NamedSharding:
    return NamedSharding(Mesh(np.asarray(jax.local_devices()), (AXIS,)), PartitionSpec(*axes))


def _replicated_over_all() -> NamedSharding:
    if jax.process_count() == 1:
        return _sharding()
    # The order of pmap's own mesh: a process's devices side by side.
    processes = range(jax.process_count())
    every = [device for p in processes for device in jax.local_devices(process_index=p)]
    return NamedSharding(Mesh(np.asarray(every), (AXIS,)), PartitionSpec())


def replicate(tree: Any) -> Any:
    """A copy of every leaf on every device, without a device axis.

    The result may be donated while the original stays.
    """
    # device_put alone shares the buffer of a leaf that lies on one of the devices already.
    return jax.device_put(jax.tree.map(jnp.copy, tree), _sharding())


def as_global(tree: Any) -> Any:
    """Arrays from `replicate` as arrays over the devices of all processes; the same buffers.

    All processes write one checkpoint in this form. A single process gets its arrays back.
    """
    return _rewrapped(tree, _replicated_over_all())


def as_local(tree: Any) -> Any:
    """The inverse of `as_global`: arrays over this process's devices; the same buffers."""
    return _rewrapped(tree, _sharding())


def _rewrapped(tree: Any, sharding: NamedSharding) -> Any:
    if jax.process_count() == 1:
        return tree

    def rewrapped(array: jax.Array) -> jax.Array:
        own = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, sharding, own)

    return jax.tree.map(rewrapped, tree)


def replicated_like(tree: Any) -> Any:
    """The shapes and dtypes of `tree`, with the sharding that `as_global` gives."""
    placement = _replicated_over_all()
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=placement), tree)


def split_batch(tree: Any) -> Any:
    """[B, ...] leaves as [D, B/D, ...], row d on device d; ValueError unless D divides B.

    B is the batch of this process.
    """
    count = num_devices()

    def split(array):
        if array.shape[0] % count:
            raise ValueError(
                f"a batch of {array.shape[0]} on {count} devices: need a multiple of {count}"
            )
        return array.reshape(count, array.shape[0] // count, *array.shape[1:])

    return jax.device_put(jax.tree.map(split, tree), _sharding(AXIS))


def filled(start: int, stop: int, size: int) -> np.ndarray:
    """[size] indices start, start + 1, ...; stop - 1 again in the places from `stop` on."""
    return np.minimum(np.arange(start, start + size), stop - 1)


def index_batches(start: int, stop: int, size: int) -> list[tuple[np.ndarray, int]]:
    """Batches of start..stop - 1 in order: (indices [size], how many of them count).

    All have one shape, so that a program is compiled once: the last is `filled` up with copies of
    its last index, whose results are to be dropped.
    """
    firsts = range(start, stop, size)
    return [(filled(first, stop, size), min(size, stop - first)) for first in firsts]


def even_batch(total: int, batch_size: int) -> int:
    """The examples that each process computes at a time, of `total` in batches of batch_size.

    The batch of a device does not depend on how the devices are divided among processes: it is
    that of the smallest batches that are as few, rounded up to a multiple of all devices.
    """
    smallest = -(-total // -(-total // batch_size))
    return num_devices() * -(-smallest // num_devices_of_all())


def prefetch(batches: Iterable[Any], size: int = 2) -> Iterator[Any]:
    """`split_batch` of each, `size` of them on their way to the devices ahead of the one used."""
    ahead = collections.deque()
    for batch in batches:
        ahead.append(split_batch(batch))
        if len(ahead) > size:
            yield ahead.popleft()
    yield from ahead


def pmap_step(step: Callable, devices: Sequence[Any] | None = None) -> Callable:
    """(replicated state, batch [D, B/D, ...]) -> (replicated state, replicated metrics).

    It runs on the devices of all processes, each of which calls it with the same state and its own
    part of the batch. The step averages over axis `AXIS` itself: pmap does not check that outputs
    are replicated, and a step that forgets to average gives each device a state of its own. The
    state is donated. `devices`: to compile for, instead of those that are here.
    """
    axes = {"axis_name": AXIS, "in_axes": (None, 0), "out_axes": None}
    return jax.pmap(step, **axes, donate_argnums=0, devices=devices)


def pmap_rows(function: Callable, devices: Sequence[Any] | None = None) -> Callable:
    """(shared, batch [D, B/D, ...]) -> result [D, B/D, ...], `devices` as for `pmap_step`."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(None, 0), devices=devices)


def pmap_batch(function: Callable) -> Callable:
    """function(shared, batch [B, ...]) -> result [B, ...], its batch spread over the devices.

    It uses the process's own devices, so that no process waits for another. A batch that they do
    not divide is filled up with copies of its last row, whose results are dropped. `function` must
    compute each row from that row and `shared` alone.
    """
    devices = jax.local_devices() if jax.process_count() > 1 else None
    mapped = pmap_rows(function, devices)

    def spread(shared: Any, batch: Any) -> Any:
        size = jax.tree.leaves(batch)[0].shape[0]
        rows = filled(0, size, -(-size // num_devices()) * num_devices())
        result = mapped(shared, split_batch(jax.tree.map(lambda a: a[rows], batch)))
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:size], result)

    return spread
