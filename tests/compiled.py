"""The cache of compiled programs, one folder for all workers and all that they start.

It outlives a session. jax writes an entry in place, without a lock, and never twice. Who reads
one too early finds a compressed stream that breaks off, warns and compiles; but what a killed
process leaves so would stay, so each session first discards entries that do not decompress.
"""

import contextlib
import os
import platform
import shutil
import zlib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_BYTES = 2**30
"""Beyond, the cache is emptied: the programs of older sources are never asked for again."""

_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # jax's other compression, where someone has installed it


_XLA_FLAGS = (  # the same everywhere, or a program that one has compiled is compiled again
    "--xla_cpu_experimental_ynn_fusion_type=",  # see launch/environment.sh
    "--xla_cpu_collective_timeout_seconds=1200",  # a busy machine keeps a process waiting
    "--xla_cpu_collective_call_terminate_timeout_seconds=1200",
)


def xla_flags(devices):
    """XLA_FLAGS for so many virtual CPU devices."""
    return " ".join([f"--xla_force_host_platform_device_count={devices}", *_XLA_FLAGS])


def _processor():
    """A name of what machine code is compiled for."""
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
    """jax's variables for the cache; a small program costs less to read than to compile too."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",  # they put the folder into every key
    }


def discard_unfinished():
    total = 0
    for entry in folder().glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another session has discarded it
            content = entry.read_bytes()
            total += len(content)
            try:
                content.startswith(_ZSTANDARD) or zlib.decompress(content)
            except zlib.error:
                entry.unlink()
    if total > MOST_BYTES:
        shutil.rmtree(folder(), ignore_errors=True)
