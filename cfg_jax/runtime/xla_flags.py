"""Which flags does XLA need for this package's networks?

`set_flags` extends $XLA_FLAGS when the package is imported. XLA reads the variable when the first
backend starts, so importing the package after jax is early enough, and after the first array it is
too late.

There is one flag. YNNPACK's fusions, on by default on CPUs since jaxlib 0.10.2, crash or hang on
some programs (jax-ml/jax issues 39257 and 40412, in 0.10.2 and 0.11.0) and are slower in others
(37465): on 0.12 they make the gradient of a U-Net take 1.27 times as long (docs/speed.md). An empty
list of fusions turns them off.
"""

import os

import jaxlib

_NAME = "--xla_cpu_experimental_ynn_fusion_type"
# The versions of jaxlib that have the flag and are better with it. XLA ends the process at a flag
# that it does not know, so a new version is added after `benchmarks/xla_flag.py` ran with it. 0.11
# was not run: it lies between two versions that were.
_WITHOUT_FUSIONS = {(0, 10, 2), (0, 11, 0), (0, 11, 1), (0, 11, 2), (0, 12, 0)}


def extended(flags: str, version: str) -> str:
    """$XLA_FLAGS with the flag that a version of jaxlib needs; a choice of the user stays."""
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
    if numbers not in _WITHOUT_FUSIONS or _NAME in flags:
        return flags
    return f"{flags} {_NAME}=".strip()


def set_flags() -> None:
    """Extends $XLA_FLAGS, unless a backend has read it: then it would only mislead."""
    before = os.environ.get("XLA_FLAGS", "")
    after = extended(before, jaxlib.__version__)
    if after == before:
        return
    from jax._src import xla_bridge  # only of the versions above: the name is private

    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = after
