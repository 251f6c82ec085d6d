"""Compiles a program for a pod slice and reads its memory, FLOPs and communication.

Without machine code, which takes most of the time, compiling stops after memory assignment: a
separate process compiles, and is killed once XLA has written its decisions to `--xla_dump_to`. Code
size and estimated cycles then stay unknown. Running out of memory is a result, not an error.
"""

import contextlib
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cfg_jax.config.validate import from_json, to_json
from cfg_jax.preflight import hlo
from cfg_jax.preflight.programs import Facts, trace
from cfg_jax.preflight.topologies import Topology, devices, topology
from cfg_jax.preflight.verdict import Compiled, Memory

_PROGRAM = "*.after_optimizations_after_buffer_assignment.txt"
_MEMORY = "*.after_optimizations-buffer-assignment.txt"
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (.*):$", re.MULTILINE)
_OUT_OF_MEMORY = (
    r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
    r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)",
    r"Hbm usage: ([\d.]+)([KMGT]?), .* exceeding available bytes: ([\d.]+)([KMGT]?)",
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Lowered(NamedTuple):
    """A program ready to compile, and its fingerprint, see `Facts`.

    `compile` raises RuntimeError if the compiler fails for a reason other than lack of memory.
    """

    fingerprint: str
    compile: Callable[[], Compiled]


@contextlib.contextmanager
def lower(config: Any, program: str, where: Topology, *, code: bool) -> Iterator[Lowered]:
    """Lowers "train" or "sample" of a validated ConfigDict; compile it inside the context.

    Without `code`, no machine code is generated: a separate process starts to compile at once and
    is killed when the context exits. Raises ValueError if the program cannot be traced.
    """
    if code:
        yield in_full(*trace(config, program, devices(where)))
        return
    with tempfile.TemporaryDirectory() as folder, _compiler(config, program, where, folder) as pipe:
        facts = _receive(pipe)

        def plan() -> dict[str, Any]:
            _wait(pipe, Path(folder))
            (module,), (buffers,) = (list(Path(folder).glob(kind)) for kind in (_PROGRAM, _MEMORY))
            text, allocations = module.read_text("utf-8"), buffers.read_text("utf-8")
            return read(text, facts.num_donated) | {"memory": planned_memory(allocations)}

        yield Lowered(facts.fingerprint, lambda: _finish(facts, plan))


def in_full(lowered: jax.stages.Lowered, facts: Facts) -> Lowered:
    """A traced program that compiles in this process, with machine code."""

    def compile_() -> dict[str, Any]:
        compiled = lowered.compile()
        found = read(compiled.as_text(), facts.num_donated)
        found["compiler_flops"] = float(compiled.cost_analysis().get("flops", 0.0))
        sizes = compiled.memory_analysis()
        found["memory"] = Memory(
            arguments=sizes.argument_size_in_bytes,
            results=sizes.output_size_in_bytes,
            donated=sizes.alias_size_in_bytes,
            temporaries=sizes.temp_size_in_bytes,
            code=sizes.generated_code_size_in_bytes,
        )
        return found

    return Lowered(facts.fingerprint, lambda: _finish(facts, compile_))


def _finish(facts: Facts, compile_: Callable[[], dict[str, Any]]) -> Compiled:
    """Runs and times `compile_`; lack of memory leaves only `needed_bytes` and `limit_bytes`."""
    start = time.monotonic()
    try:
        found = compile_()
    except RuntimeError as error:
        needed, limit = out_of_memory(str(error))
        if needed is None:
            raise
        found = {"needed_bytes": needed, "limit_bytes": limit}
    # The TPU compiler may replace a 64-bit float with two narrower ones.
    found["float64"] = facts.float64 or found.get("float64", False)
    for name in ("gradient_bytes", "scattered_bytes", "num_donated"):
        found[name] = getattr(facts, name)
    return Compiled(time.monotonic() - start, calls=facts.calls, **found)


def read(text: str, num_donated: int) -> dict[str, Any]:
    """Fields of `Compiled` that the text of an optimized program determines."""
    module = hlo.parse(text)
    dtypes = hlo.dtypes(module)
    return {
        "flops": hlo.flops(module),
        "estimated_cycles": hlo.estimated_cycles(module),
        "collectives": hlo.collectives(module),
        "dtypes": dtypes,
        "float64": bool({"f64", "c128"} & set(dtypes)),
        "donated_arguments": len(hlo.donated_arguments(module) & set(range(num_donated))),
        "unknown_loops": hlo.unknown_loops(module),
        "kernels": hlo.kernels(module),
    }


def planned_memory(allocations: str) -> Memory:
    """Memory in XLA's buffer assignment report; device memory is color 0, which is not printed."""
    arguments = results = donated = temporaries = 0
    for size, described in _ALLOCATION.findall(allocations):
        if "color " in described:
            continue
        is_argument, is_result = "parameter " in described, "maybe-live-out" in described
        arguments += int(size) * is_argument
        results += int(size) * is_result
        donated += int(size) * (is_argument and is_result)
        temporaries += int(size) * (not is_argument and not is_result)
    return Memory(arguments, results, donated, temporaries, code=None)


def out_of_memory(message: str) -> tuple[int | None, int | None]:
    """(minimum required bytes, available bytes) in an out-of-memory error; else (None, None)."""
    for pattern in _OUT_OF_MEMORY:
        if found := re.search(pattern, message):
            needed, unit, limit, limit_unit = found.groups()
            return int(float(needed) * _UNITS[unit]), int(float(limit) * _UNITS[limit_unit])
    return None, None


@contextlib.contextmanager
def _compiler(config: Any, program: str, where: Topology, folder: str) -> Iterator[Connection]:
    """Runs `_compile` in a separate process that dumps to `folder`; yields the pipe from it."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    arguments = to_json(config), program, where.name, folder, theirs
    process = spawn.Process(target=_compile, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


def _compile(config: dict, program: str, where: str, folder: str, pipe: Connection) -> None:
    """Sends the facts of a program, compiles it and sends None; sends an error on failure."""
    # XLA reads the variable at its first use.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_dump_to={folder} --xla_dump_hlo_as_text"
    try:
        lowered, facts = trace(from_json(config), program, devices(topology(where)))
        pipe.send(facts)
        lowered.compile()
        pipe.send(None)  # a small program may finish before the process is killed
    except (RuntimeError, ValueError) as error:
        kind = RuntimeError if isinstance(error, RuntimeError) else ValueError
        pipe.send(kind(str(error)))  # some subclasses cannot be pickled


def _receive(pipe: Connection) -> Any:
    """The next object from the compiler process; raises it if it is an error."""
    try:
        received = pipe.recv()
    except EOFError:
        raise RuntimeError(
            "the compiler process was killed, probably by too little memory: use a larger machine"
        ) from None
    if isinstance(received, Exception):
        raise received
    return received


def _wait(pipe: Connection, folder: Path) -> None:
    """Waits until the size of the dumped program in `folder` stops changing."""
    size = 0
    while not pipe.poll(0.5):
        sizes = [path.stat().st_size for path in folder.glob(_PROGRAM)]
        if sizes and sizes == [size]:
            return
        size = sum(sizes)
    _receive(pipe)
