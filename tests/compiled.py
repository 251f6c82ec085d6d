"""Persistent compilation cache shared by all test workers and their child processes.

jax writes each entry once, in place and without a lock. A reader of an unfinished entry warns and
compiles. A killed process leaves such an entry behind; each session first discards entries that do
not decompress.
"""

import contextlib
import os
import platform
import runpy
import shutil
import zlib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_BYTES = 2**30
"""Size limit at which the cache is emptied, since programs of older sources never recur."""

_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # jax's other compression, used if installed


# Importing the package would import jax before the variables of its cache are set.
_OURS = runpy.run_path(str(ROOT / "cfg_jax" / "runtime" / "xla_flags.py"))
_XLA_FLAGS = (  # the same everywhere, or a program that one has compiled is compiled again
    *_OURS["extended"]("", version("jaxlib"), only_cpu=_OURS["only_cpu"]()).split(),
    "--xla_cpu_collective_timeout_seconds=1200",  # a busy machine keeps a process waiting
    "--xla_cpu_collective_call_terminate_timeout_seconds=1200",
)


OPTIMIZED = "CFG_JAX_TEST_OPTIMIZED"
"""Variable of the environment of long tests, whose programs run for longer than they compile."""

# LLVM's optimizations take most of the time to compile, and the suite's programs are small.
_UNOPTIMIZED = "--xla_backend_optimization_level=0"


def xla_flags(devices, *, optimized=False):
    """XLA_FLAGS for virtual CPU devices; `optimized`, or in long tests, as for users."""
    optimized = optimized or OPTIMIZED in os.environ
    own = [f"--xla_force_host_platform_device_count={devices}"]
    return " ".join([*own, *_XLA_FLAGS, *([] if optimized else [_UNOPTIMIZED])])


def _processor():
    """Identifier of the CPU that machine code is compiled for."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    features = sorted({line for line in lines if line.startswith(("flags", "Features"))})
    return f"{zlib.crc32(''.join(features).encode()):08x}"


def folder():
    own = ROOT / ".cache" / f"compiled-{version('jaxlib')}-{_processor()}"
    return Path(os.environ.get("CFG_JAX_TEST_CACHE") or own)


def environment():
    """jax's cache variables; small programs are cached too, since reading beats compiling."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",  # they add the folder to every key
    }


def discard_unfinished():
    total = 0
    for entry in folder().glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another session discarded it
            content = entry.read_bytes()
            total += len(content)
            try:
                content.startswith(_ZSTANDARD) or zlib.decompress(content)
            except zlib.error:
                entry.unlink()
    if total > MOST_BYTES:
        shutil.rmtree(folder(), ignore_errors=True)
