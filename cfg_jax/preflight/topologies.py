"""Which pod slices can a program be compiled for, and what are their memory and peak speed?

SHAPES lists the pod slices, and CHIPS the memory and peak of every kind of chip. A topology has the
compiler's name, chip and shape: "v5e:4x4", "v4:2x2x4". Devices are counted as in JAX: the two cores
of a v4 or v5p chip are one device, and the cores of a v3 or 7x chip are two.

    FLOPs per cycle = cores x matrix units x rows x columns x 2,   clock = peak / FLOPs per cycle

Sources: memory, peak, matrix units and shapes are from the pages "TPU v3" to "TPU7x" of Cloud TPU's
documentation (docs.cloud.google.com/tpu/docs), except v5p memory: 95 GB there, 103e9 bytes in JAX
(jax/_src/pallas/mosaic/tpu_info.py) and here. The clocks match the published ones of v3 and v4 (940
and 1,050 MHz: Jouppi et al. 2023, arXiv 2304.01433, table 4) and v5e (1.5 GHz: Austin et al. 2025,
"How to Scale Your Model", chapter 2). v6e and 7x need another factor of 2: without it, their two
256 x 256 units per core would need twice the clock, and libtpu 0.0.50.1 estimates 369,000 and
422,000 FLOPs per cycle for an 8192 x 8192 matrix product. This libtpu reports the usable memory.
"""

import functools
import importlib.util
import math
from typing import Any, NamedTuple

import jax

from cfg_jax.io.text import extra
from cfg_jax.runtime.peaks import TPU_CHIPS

_GIB = 2**30


class Chip(NamedTuple):
    """One chip, with all its cores.

    hbm_bytes, usable_bytes: published memory, and memory available to a program.
    peak_flops: bfloat16 FLOPs per second.
    flops_per_cycle: bfloat16 FLOPs per cycle of all matrix units.
    devices: number of devices that JAX counts.
    """

    hbm_bytes: int
    usable_bytes: int
    peak_flops: float
    flops_per_cycle: int
    devices: int = 1

    @property
    def clock(self) -> float:
        """Cycles per second."""
        return self.peak_flops / self.flops_per_cycle


CHIPS = {
    "v3": Chip(32 * _GIB, 2 * int(15.48 * _GIB), TPU_CHIPS["v3"], 2 * 2 * 128 * 128 * 2, devices=2),
    "v4": Chip(32 * _GIB, int(30.75 * _GIB), TPU_CHIPS["v4"], 2 * 4 * 128 * 128 * 2),
    "v5e": Chip(16 * _GIB, int(15.75 * _GIB), TPU_CHIPS["v5e"], 4 * 128 * 128 * 2),
    "v5p": Chip(96 * _GIB, int(95.73 * _GIB), TPU_CHIPS["v5p"], 2 * 4 * 128 * 128 * 2),
    "v6e": Chip(32 * _GIB, int(31.24 * _GIB), TPU_CHIPS["v6e"], 2 * 256 * 256 * 2 * 2),
    "tpu7x": Chip(
        192 * _GIB, 2 * int(94.74 * _GIB), TPU_CHIPS["tpu7x"], 2 * 2 * 256 * 256 * 2 * 2, devices=2
    ),
}
_FLAT = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16".split()
_DEEP = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16".split()
SHAPES = {
    "v3": "2x2 4x4 4x8 8x8 8x16 16x16 16x32 32x32".split(),
    "v4": _DEEP,
    "v5e": _FLAT,
    "v5p": [*_DEEP, "16x16x16", "16x16x24"],
    "v6e": _FLAT,
    "tpu7x": _DEEP,
}
# gcloud counts cores in the name of a slice of these chips, and chips in that of others.
_CORES = {"v3": 2, "v4": 2, "v5p": 2}
# Without "megacore" the compiler counts a v4 chip as two devices, JAX on a v4 as one.
_SETTINGS = {"v4": {"chip_config_name": "megacore"}}


class Topology(NamedTuple):
    """A pod slice: name such as "v5e:4x4", kind of chip, number of chips."""

    name: str
    chip: Chip
    num_chips: int

    @property
    def num_devices(self) -> int:
        """Number of devices that JAX counts."""
        return self.num_chips * self.chip.devices

    @property
    def usable_bytes(self) -> int:
        """Memory available to a program on one device."""
        return self.chip.usable_bytes // self.chip.devices

    @property
    def flops_per_cycle(self) -> float:
        """bfloat16 FLOPs per cycle of one device."""
        return self.chip.flops_per_cycle / self.chip.devices

    @property
    def peak_flops(self) -> float:
        """bfloat16 FLOPs per second of one device."""
        return self.chip.peak_flops / self.chip.devices


def topology(name: str) -> Topology:
    """The topology called `name`; raises ValueError if there is none."""
    kind, _, shape = name.partition(":")
    if shape not in SHAPES.get(kind, ()):
        if meant := _of_slice(name):
            raise ValueError(f"topology {name!r} is the name of a slice: its topology is {meant}")
        known = ", ".join(f"{kind}:{shape}" for kind in SHAPES for shape in SHAPES[kind])
        raise ValueError(f"topology {name!r} is unknown: choose one of {known}")
    return Topology(name, CHIPS[kind], math.prod(map(int, shape.split("x"))))


def _of_slice(name: str) -> str | None:
    """The topology of a slice that gcloud calls `name`, such as v5litepod-16; None for another."""
    kind, _, size = name.partition("-")
    kind = {"v5litepod": "v5e"}.get(kind, kind)
    for shape in SHAPES.get(kind, ()):
        if size == str(math.prod(map(int, shape.split("x"))) * _CORES.get(kind, 1)):
            return f"{kind}:{shape}"
    return None


def check_compiler() -> None:
    """Raises ValueError if the TPU compiler is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"the TPU compiler (libtpu) is not installed: run {extra('tpu')}")


@functools.cache
def devices(where: Topology) -> list[Any]:
    """Devices of a topology, to compile for; nothing can run on them.

    Set TPU_SKIP_MDS_QUERY=1 and JAX_PLATFORMS=cpu before importing JAX, or it searches for a TPU.
    """
    from jax.experimental import topologies

    settings = _SETTINGS.get(where.name.partition(":")[0], {})
    found = topologies.get_topology_desc(platform="tpu", topology_name=where.name, **settings)
    if len(found.devices) != where.num_devices:
        raise RuntimeError(
            f"{where.name} has {len(found.devices)} devices in JAX {jax.__version__}, not "
            f"{where.num_devices}: use a supported JAX version"
        )
    return list(found.devices)
