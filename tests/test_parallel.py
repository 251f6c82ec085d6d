import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.runtime import devices
from cfg_jax.runtime.peaks import peak_flops

pytestmark = pytest.mark.compat


NUM = devices.num_devices()


def test_the_suite_runs_on_several_devices():
    assert NUM >= 2


def test_replicating_copies_so_that_donation_leaves_the_original():
    original = {"a": jnp.arange(4.0)}
    placed = devices.replicate(original)
    bump = devices.pmap_step(lambda state, batch: (jax.tree.map(lambda a: a + 1, state), ()))
    new, _ = bump(placed, devices.split_batch(np.zeros((NUM, 1))))
    np.testing.assert_array_equal(original["a"], np.arange(4.0))
    np.testing.assert_array_equal(new["a"], np.arange(4.0) + 1)
    assert new["a"].shape == (4,) and new["a"].sharding.is_fully_replicated


def test_the_state_given_to_a_step_is_donated():
    placed = devices.replicate({"a": jnp.arange(4.0)})
    step = devices.pmap_step(lambda state, batch: (jax.tree.map(lambda a: a + 1, state), ()))
    step(placed, devices.split_batch(np.zeros((NUM, 1))))
    assert placed["a"].is_deleted()


def test_device_d_gets_row_d_of_a_split_batch():
    split = devices.split_batch({"x": np.arange(2 * NUM).reshape(-1, 1)})["x"]
    assert split.shape == (NUM, 2, 1)
    for shard in split.addressable_shards:
        row = shard.index[0].start
        np.testing.assert_array_equal(np.ravel(shard.data), [2 * row, 2 * row + 1])


def test_a_batch_that_devices_do_not_divide_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=f"batch of {NUM + 1} on {NUM} devices"):
        devices.split_batch(np.zeros((NUM + 1, 1)))


def test_prefetching_keeps_order_and_loses_nothing():
    batches = [np.full((NUM, 1), k) for k in range(5)]
    got = [int(batch[0, 0, 0]) for batch in devices.prefetch(iter(batches), size=2)]
    assert got == [0, 1, 2, 3, 4]


def test_prefetching_reads_ahead_of_the_batch_in_use():
    read = []

    def batches():
        for k in range(5):
            read.append(k)
            yield np.full((NUM, 1), k)

    next(devices.prefetch(batches(), size=2))
    assert read == [0, 1, 2]


@pytest.mark.parametrize("size", [1, 3, 8, 13])
def test_a_mapped_batch_of_any_size_gives_each_row_its_own_result(size):
    square = devices.pmap_batch(lambda shared, batch: shared * batch["x"] ** 2)
    x = np.arange(1.0, size + 1, dtype=np.float32)
    np.testing.assert_array_equal(square(jnp.float32(3), {"x": x}), 3 * x**2)


@pytest.mark.parametrize(
    ("start", "stop", "size", "expected"),
    [
        (0, 6, 3, [([0, 1, 2], 3), ([3, 4, 5], 3)]),
        (0, 5, 3, [([0, 1, 2], 3), ([3, 4, 4], 2)]),
        (4, 6, 3, [([4, 5, 5], 2)]),
        (7, 8, 1, [([7], 1)]),
        (3, 3, 2, []),
    ],
)
def test_batches_of_indices_have_one_shape_and_count_every_index_once(start, stop, size, expected):
    found = devices.index_batches(start, stop, size)
    assert [(list(index), count) for index, count in found] == expected
    assert [i for index, count in found for i in index[:count]] == list(range(start, stop))


@pytest.mark.parametrize(("num_processes", "num_devices"), [(1, 8), (2, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize(("batch_size", "of_device"), [(256, 32), (20, 3), (1, 1)])
def test_a_device_computes_as_many_at_a_time_for_any_number_of_processes(
    monkeypatch, num_processes, num_devices, batch_size, of_device
):
    monkeypatch.setattr(jax, "process_count", lambda: num_processes)
    monkeypatch.setattr(jax, "local_device_count", lambda: num_devices)
    assert devices.even_batch(1000, batch_size) == of_device * num_devices


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v3", 61.5e12),  # a core, of two in a chip
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("TPU v4 lite", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("cpu", None),
    ],
)
def test_the_peak_of_a_device_is_known_by_its_name_or_not_at_all(kind, peak):
    assert peak_flops(kind) == peak


def test_the_devices_are_counted_and_named():
    assert devices.described() == f"{jax.device_count()} x cpu"


def test_a_step_at_the_peak_takes_its_flops_over_the_peak(monkeypatch):
    rows, width, height = 16, 32, 8
    step = devices.pmap_step(lambda state, batch: (state, jax.lax.psum(batch @ state, "data")))
    state = devices.replicate(jnp.ones((width, height)))
    batch = devices.split_batch(np.ones((devices.num_devices() * rows, width), np.float32))
    state, _ = step(state, batch)
    assert devices.seconds_at_peak(step, state, batch) is None  # the peak of a CPU is not known
    monkeypatch.setattr(devices, "peak_flops", lambda kind: 1e9)
    product = 2 * rows * width * height
    assert devices.seconds_at_peak(step, state, batch) == pytest.approx(product / 1e9, rel=0.05)
