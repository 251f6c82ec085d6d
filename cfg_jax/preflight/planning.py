"""What is known of a program before its code is generated?

Nearly all of the time that compiling takes goes into machine code. What is computed, exchanged and
kept, and where, is decided before, and XLA writes it down if it is told to (`--xla_dump_to`). So a
process of its own compiles, and is stopped as soon as that is there. What is missing: the size of
the code, and the cycles, which the compiler estimates with it.
"""

import contextlib
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax

from cfg_jax.config.validate import from_json, to_json
from cfg_jax.preflight.compiling import Compiled, Memory, asks_for_float64, out_of_memory, read
from cfg_jax.preflight.programs import trace
from cfg_jax.preflight.topologies import Topology, devices, topology

_PROGRAM = "*.after_optimizations_after_buffer_assignment.txt"
_MEMORY = "*.after_optimizations-buffer-assignment.txt"
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (.*):$", re.MULTILINE)


def plan(config: Any, program: str, where: Topology) -> Compiled:
    """What the compiler decides of a config's program on a pod, without its code.

    Args:
      config: a validated ConfigDict.
      program: "train" or "sample".
      where: the pod.

    Raises:
      RuntimeError: the compiler fails for another reason than memory of the pod.
    """
    start = time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        ours, theirs = spawn.Pipe(duplex=False)
        arguments = to_json(config), program, where.name, theirs
        process = spawn.Process(target=_compile, args=arguments, daemon=True)
        with _dumping_to(folder):
            process.start()
        theirs.close()
        running.callback(process.join)
        running.callback(process.kill)
        known, failure = _wait(ours, Path(folder))
        seconds = time.monotonic() - start
        if failure:
            needed, limit = out_of_memory(failure)
            if needed is None:
                raise RuntimeError(failure)
            known |= {"needed_bytes": needed, "limit_bytes": limit}
            return Compiled(seconds, **known)
        (text,), (allocations,) = (list(_texts(folder, kind)) for kind in (_PROGRAM, _MEMORY))
    found = read(text, known["num_donated"])
    found["float64"] |= known.pop("float64")
    return Compiled(seconds, **known, **found, memory=memory(allocations))


def memory(allocations: str) -> Memory:
    """From what XLA prints of its buffer assignment; a device's memory is color 0."""
    sizes = {"arguments": 0, "given up": 0, "results": 0, "temporaries": 0}
    for size, described in _ALLOCATION.findall(allocations):
        if "color " in described:
            continue
        is_result = "maybe-live-out" in described
        if "parameter " in described:
            sizes["arguments"] += int(size)
            sizes["given up"] += int(size) * is_result
        else:
            sizes["results" if is_result else "temporaries"] += int(size)
    return Memory(
        arguments=sizes["arguments"],
        results=sizes["results"] + sizes["given up"],
        donated=sizes["given up"],
        temporaries=sizes["temporaries"],
        code=None,
    )


def _compile(config: dict[str, Any], program: str, where: str, told: Connection) -> None:
    """What the process of its own does: tells what is known at once, and what goes wrong."""
    try:
        traced = trace(from_json(config), program, devices(topology(where)))
        known = {"gradient_bytes": traced.gradient_bytes, "num_donated": traced.num_donated}
        told.send(known | {"float64": asks_for_float64(traced)})
        traced.lowered.compile()
        told.send("")  # a small program may be done before it is stopped
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        told.send(str(error))


def _wait(told: Connection, folder: Path) -> tuple[dict[str, Any], str]:
    """What is known at once, and what went wrong, "" where all is written down."""
    known, size = {}, 0
    while True:
        try:
            if told.poll(0.5):
                said = told.recv()
                if isinstance(said, str):
                    return known, said
                known = said
        except EOFError:
            raise RuntimeError(
                "the compiler's process ended without a word: this machine may have too little "
                "memory for it"
            ) from None
        sizes = [path.stat().st_size for path in folder.glob(_PROGRAM)]
        if known and sizes and sizes == [size]:
            return known, ""
        size = sum(sizes)


def _texts(folder: str, kind: str) -> Iterator[str]:
    return (path.read_text("utf-8") for path in Path(folder).glob(kind))


@contextlib.contextmanager
def _dumping_to(folder: str) -> Iterator[None]:
    """Has XLA, in processes started inside, write down what it decides."""
    before = os.environ.get("XLA_FLAGS")
    wanted = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    os.environ["XLA_FLAGS"] = f"{before or ''} {wanted}"
    try:
        yield
    finally:
        del os.environ["XLA_FLAGS"]
        if before is not None:
            os.environ["XLA_FLAGS"] = before
