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
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cfg_jax.config.validate import from_json, to_json
from cfg_jax.preflight.compiling import Compiled, Memory, finish, read
from cfg_jax.preflight.programs import trace
from cfg_jax.preflight.topologies import Topology, devices, topology

_PROGRAM = "*.after_optimizations_after_buffer_assignment.txt"
_MEMORY = "*.after_optimizations-buffer-assignment.txt"
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (.*):$", re.MULTILINE)


@contextlib.contextmanager
def lowered_elsewhere(
    config: Any, program: str, where: Topology
) -> Iterator[tuple[str, Callable[[], Compiled]]]:
    """(fingerprint of a config's program, what waits for the compiler to decide without code).

    A process of its own traces the program, and goes on compiling it until the context is left.

    Args:
      config: a validated ConfigDict.
      program: "train" or "sample".
      where: the pod.

    Raises:
      ValueError: the program cannot be traced.
      RuntimeError: the compiler fails for another reason than memory of the pod.
    """
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
        known = _receive(ours)

        def wait() -> dict[str, Any]:
            _wait(ours, Path(folder))
            (text,), (allocations,) = (list(_texts(folder, kind)) for kind in (_PROGRAM, _MEMORY))
            return read(text, known["num_donated"]) | {"memory": memory(allocations)}

        yield known.pop("fingerprint"), lambda: finish(known, wait)


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


def _compile(config: dict[str, Any], program: str, where: str, pipe: Connection) -> None:
    """What the process of its own does: sends what is known, then "" or what goes wrong."""
    try:
        traced = trace(from_json(config), program, devices(topology(where)))
        pipe.send(traced.described())
        traced.lowered.compile()
        pipe.send("")  # a small program may be done before it is stopped
    except (RuntimeError, ValueError) as error:
        kind = RuntimeError if isinstance(error, RuntimeError) else ValueError
        pipe.send(kind(str(error)))


def _receive(pipe: Connection) -> Any:
    """What the compiler's process sends next; raised, if it is an error."""
    try:
        received = pipe.recv()
    except EOFError:
        raise RuntimeError(
            "the compiler's process ended without a word: this machine may have too little "
            "memory for it"
        ) from None
    if isinstance(received, Exception):
        raise received
    return received


def _wait(pipe: Connection, folder: Path) -> None:
    """Returns when all is written down in `folder`."""
    size = 0
    while not pipe.poll(0.5):
        sizes = [path.stat().st_size for path in folder.glob(_PROGRAM)]
        if sizes and sizes == [size]:
            return
        size = sum(sizes)
    _receive(pipe)


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
