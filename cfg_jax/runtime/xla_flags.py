"""Which flags does XLA need for this package's networks?

`set_flags` extends $XLA_FLAGS when the package is imported. XLA reads the variable when the first
backend starts, so importing the package after jax is early enough, and after the first array it is
too late.

    --xla_cpu_experimental_ynn_fusion_type=
        YNNPACK's fusions, on by default on CPUs since jaxlib 0.10.2, crash or hang on some programs
        (jax-ml/jax issues 39257 and 40412, in 0.10.2 and 0.11.0) and are slower in others (37465):
        on 0.12 they make the gradient of a U-Net take 1.22 times as long. An empty list turns them
        off.
    --xla_disable_hlo_passes=cse_barrier_expander
        jaxlib 0.10.2 removes optimization barriers before it fuses, 0.12 afterwards. The barriers
        of `cfg_jax/models/ops.py` need the later removal: with this flag the gradient on 0.10.2
        takes 0.73 of the time. It holds for every backend, and was tried on CPUs alone.

docs/speed.md has the measurements.
"""

import os
from importlib.metadata import entry_points
from importlib.util import find_spec

import jaxlib

_FUSIONS = "--xla_cpu_experimental_ynn_fusion_type"
# The versions of jaxlib that have the flag and are better with it. XLA ends the process at a flag
# that it does not know, so a new version is added after `benchmarks/xla_flag.py` ran with it. Only
# 0.11 was not run: it lies between two versions that were, and its crashes are known.
_WITHOUT_FUSIONS = {(0, 10, 2), (0, 11, 0), (0, 11, 1), (0, 11, 2), (0, 12, 0)}

_PASSES = "--xla_disable_hlo_passes"
_REMOVES_BARRIERS = (0, 10, 2)


def extended(flags: str, version: str, *, only_cpu: bool) -> str:
    """$XLA_FLAGS with the flags that a version of jaxlib needs; a choice of the user stays."""
    parts = version.split(".")
    numbers = tuple(map(int, parts[:3])) if all(map(str.isdecimal, parts)) else ()
    if numbers in _WITHOUT_FUSIONS and _FUSIONS not in flags:
        flags += f" {_FUSIONS}="
    if numbers == _REMOVES_BARRIERS and only_cpu and _PASSES not in flags:
        flags += f" {_PASSES}=cse_barrier_expander"
    return flags.strip()


def only_cpu() -> bool:
    """Whether jax has no backend but the CPU's: neither libtpu nor a plugin is installed.

    $JAX_PLATFORMS does not count: with libtpu, a process of the CPU compiles for TPUs too.
    """
    # Asking jax would start a backend.
    modules = "libtpu", "jax_plugins"
    return not any(map(find_spec, modules)) and not entry_points(group="jax_plugins")


def set_flags() -> None:
    """Extends $XLA_FLAGS, unless a backend has read it: a later change has no effect.

    Child processes inherit the variable. One with another version of jaxlib needs its own value.
    """
    before = os.environ.get("XLA_FLAGS", "")
    after = extended(before, jaxlib.__version__, only_cpu=only_cpu())
    if after == before:
        return
    from jax._src import xla_bridge  # only of the versions above: the name is private

    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = after
