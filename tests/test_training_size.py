"""Parameters and memory that a run announces before its first step."""

import jax
import numpy as np
import pytest

from cfg_jax.config import build
from cfg_jax.runtime import devices
from cfg_jax.training import run, size
from tests.tiny import tiny_config


def abstract_state(config):
    task = build.assemble(config, (8, 8, 1), 10)
    return jax.eval_shape(run.make_create(config, task, run.make_optimizer(config)))


def test_parameters_and_bytes_are_those_of_the_arrays(monkeypatch):
    monkeypatch.setattr(devices, "memory_per_device", lambda: 10**9)
    abstract = abstract_state(tiny_config())
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    arrays = jax.tree.leaves((state, state.params))
    held = sum(leaf.nbytes for leaf in arrays)
    batch = np.zeros((80_000_000 // devices.num_devices() // 64, 8, 8, 1), np.float32).nbytes
    said = size.checked(abstract, (8, 8, 1), 80_000_000 // 64)
    assert said.startswith(f"{count:,} parameters; ")
    assert f"take {(held + batch) / 1e9:.2f} GB of 1.00 GB per device" in said


@pytest.mark.parametrize(
    "overrides, batch_size",
    [({"model.channels": 16384, "model.norm_groups": 1}, 8), ({}, 2**31 - 1)],
)
def test_what_no_device_can_hold_is_refused_before_it_is_made(monkeypatch, overrides, batch_size):
    monkeypatch.setattr(devices, "memory_per_device", lambda: 8 * 10**9)
    abstract = abstract_state(tiny_config(**overrides))
    with pytest.raises(ValueError, match=r"more than the 8.00 GB of a device: use a smaller"):
        size.checked(abstract, (8, 8, 1), batch_size)


def test_the_memory_of_a_machine_is_divided_among_its_cpu_devices():
    # /proc/meminfo is the kernel's own count.
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024
    found = devices.memory_per_device() * devices.num_devices()
    assert found == pytest.approx(total, rel=1e-3)
