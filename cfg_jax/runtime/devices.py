"""Data parallelism over devices.

The state is one replicated tree without a device axis; `training.placement` may divide its large
part. A batch [B, ...] becomes [D, B/D, ...] and device d gets row d. One pmapped step serves
training, one pmapped function sampling. Everything else in the package is written for a single
device.

Each of P processes has D devices and its own part of the global batch. A training step runs on the
devices of all processes, samplers and evaluation on those of one process. Arrays are local to the
process; only orbax needs the state of all processes as global arrays (`as_global`, `as_local`).
"""

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cfg_jax.runtime.peaks import peak_flops

AXIS = "data"


def num_devices() -> int:
    """D, the number of devices of this process."""
    return jax.local_device_count()


def num_devices_of_all() -> int:
    """P D, the number of devices of all processes, on which a training step runs."""
    return jax.process_count() * num_devices()


def memory_per_device() -> int | None:
    """Bytes of memory of a device of this process; None if the backend does not tell.

    CPU devices share the memory of the machine equally.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if jax.default_backend() != "cpu":
        return stats.get("bytes_limit")
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not POSIX
        return None
    return total // num_devices()


def described() -> str:
    """The devices of all processes, as "8 x TPU v5 lite"."""
    return f"{num_devices_of_all()} x {jax.local_devices()[0].device_kind}"


def peak_memory() -> int | None:
    """Largest number of bytes that a device of this process has held; None if it does not tell."""
    every = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((stats.get("peak_bytes_in_use", 0) for stats in every), default=0) or None


def seconds_at_peak(step: Any, state: Any, batch: Any) -> float | None:
    """Seconds of a step at the peak of a device: its FLOPs / peak FLOPs per second.

    Arguments as in a call of `pmap_step` without axes. The step is lowered for one CPU, and not
    compiled: the plugins of TPUs and GPUs count no FLOPs of a lowered program, and a compiled one
    of a GPU calls libraries for its products. FLOPs in the body of a loop count once. None for a
    device without a known peak, and if jax has no CPU ($JAX_PLATFORMS).
    """
    peak = peak_flops(jax.local_devices()[0].device_kind)
    if peak is None:
        return None
    try:
        cpu = jax.devices("cpu")[:1]
    except RuntimeError:
        return None
    of_state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    of_batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), batch)
    on_cpu: Any = pmap_step(step.__wrapped__, cpu)
    counted = on_cpu.lower(of_state, of_batch).cost_analysis() or {}
    return counted["flops"] / peak if counted.get("flops", 0) > 0 else None


def _sharding(*axes: str) -> NamedSharding:
    return NamedSharding(Mesh(np.asarray(jax.local_devices()), (AXIS,)), PartitionSpec(*axes))


def _replicated_over_all() -> NamedSharding:
    if jax.process_count() == 1:
        return _sharding()
    # The order of pmap's own mesh: the devices of one process are adjacent.
    processes = range(jax.process_count())
    every = [device for p in processes for device in jax.local_devices(process_index=p)]
    return NamedSharding(Mesh(np.asarray(every), (AXIS,)), PartitionSpec())


def replicate(tree: Any) -> Any:
    """A copy of every leaf on every device, without a device axis.

    The result may be donated while the original stays valid.
    """
    # device_put alone would share the buffer of a leaf that is already on one of the devices.
    return jax.device_put(jax.tree.map(jnp.copy, tree), _sharding())


def as_global(tree: Any) -> Any:
    """Arrays from `replicate` as arrays over the devices of all processes; the same buffers.

    In this form all processes write one checkpoint. A single process gets its arrays unchanged.
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
    """[B, ...] leaves as [D, B/D, ...], row d on device d, where B is the batch of this process.

    Raises ValueError unless D divides B.
    """
    count = num_devices()

    def split(array):
        if array.shape[0] % count:
            raise ValueError(
                f"batch of {array.shape[0]} on {count} devices: need a multiple of {count}"
            )
        return array.reshape(count, array.shape[0] // count, *array.shape[1:])

    return jax.device_put(jax.tree.map(split, tree), _sharding(AXIS))


def filled(start: int, stop: int, size: int) -> np.ndarray:
    """[size] indices start, start + 1, ..., with stop - 1 in place of `stop` and above."""
    return np.minimum(np.arange(start, start + size), stop - 1)


def index_batches(start: int, stop: int, size: int) -> list[tuple[np.ndarray, int]]:
    """Batches of start..stop - 1 in order: (indices [size], number of valid indices).

    All have one shape, so a program is compiled once. `filled` pads the last batch; the caller
    drops the results of the padding.
    """
    firsts = range(start, stop, size)
    return [(filled(first, stop, size), min(size, stop - first)) for first in firsts]


def even_batch(total: int, batch_size: int) -> int:
    """Number of examples per process and batch, for `total` examples in batches of batch_size.

    The per-device batch size does not depend on how devices are divided among processes. The global
    batch is the smallest size with the same number of batches, rounded up to a multiple of the
    number of all devices.
    """
    smallest = -(-total // -(-total // batch_size))
    return num_devices() * -(-smallest // num_devices_of_all())


def prefetch(batches: Iterable[Any], size: int = 2) -> Iterator[Any]:
    """`split_batch` of each batch, transferred to the devices `size` batches ahead."""
    ahead: collections.deque[Any] = collections.deque()
    for batch in batches:
        ahead.append(split_batch(batch))
        if len(ahead) > size:
            yield ahead.popleft()
    yield from ahead


def own_rows(rows: Any) -> jax.Array:
    """Host rows [P D, ...] of all devices as an array [D, ...] on this process's devices."""
    first = jax.process_index() * num_devices()
    return jax.device_put(rows[first : first + num_devices()], _sharding(AXIS))


def pmap_create(function: Callable, axes: Any) -> Callable:
    """(replicated tree, donated) -> result of `function` on each device, `axes` as `pmap_step`."""
    mapped = jax.pmap(
        lambda tree, _: function(tree), AXIS, in_axes=(None, 0), out_axes=axes, donate_argnums=0
    )
    return lambda tree: mapped(tree, np.zeros(num_devices(), np.float32))


def pmap_step(step: Callable, devices: Sequence[Any] | None = None, axes: Any = None) -> Callable:
    """(replicated state, batch [D, B/D, ...]) -> (replicated state, replicated metrics).

    The result runs on the devices of all processes; each process calls it with the same state and
    its own part of the batch. The state is donated. `step` itself must average over axis `AXIS`:
    pmap does not check that outputs are replicated, and without the mean every device would get a
    different state. `devices` are the devices to compile for; None means all present devices.
    `axes` has 0 for a leaf of the state that is [D, ...] with row d on device d, else None.
    """
    return jax.pmap(
        step,
        AXIS,
        in_axes=(axes, 0),
        out_axes=(axes, None),
        donate_argnums=0,
        devices=devices,
    )


def pmap_rows(function: Callable, devices: Sequence[Any] | None = None) -> Callable:
    """(shared, batch [D, B/D, ...]) -> result [D, B/D, ...], `devices` as in `pmap_step`."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(None, 0), devices=devices)


def pmap_batch(function: Callable) -> Callable:
    """Returns `function` with its batch split over the D devices of this process.

    Signature of both: (shared, batch [B, ...]) -> result [B, ...]. The batch is padded to a
    multiple of D with copies of the last row, whose results are dropped. `function` must compute
    each row from that row and `shared` only. No process waits for another.
    """
    devices = jax.local_devices() if jax.process_count() > 1 else None
    mapped = pmap_rows(function, devices)

    def spread(shared: Any, batch: Any) -> Any:
        size = jax.tree.leaves(batch)[0].shape[0]
        rows = filled(0, size, -(-size // num_devices()) * num_devices())
        result = mapped(shared, split_batch(jax.tree.map(lambda a: a[rows], batch)))
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:size], result)

    return spread
