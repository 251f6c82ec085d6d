"""What does the compiler make of a program?

A program is compiled in full, or only until its memory is assigned: nearly all of the compile time
goes into machine code. XLA writes its decisions before that where `--xla_dump_to` says, so a
separate process compiles and is killed once they are written; the size of the code and the
estimated cycles are unknown then. Too little memory is a finding, not a failure.
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
    """A program that can be compiled.

    fingerprint: see `Facts`.
    compile: () -> Compiled; raises RuntimeError if the compiler fails, except for lack of memory.
    """

    fingerprint: str
    compile: Callable[[], Compiled]


@contextlib.contextmanager
def lower(config: Any, program: str, where: Topology, *, code: bool) -> Iterator[Lowered]:
    """Lowers a config's program, to be compiled inside the context.

    Args:
      config: a validated ConfigDict.
      program: "train" or "sample".
      where: the pod slice.
      code: whether to generate machine code. Without it, a separate process starts to compile at
        once and is killed when the context is left.

    Raises:
      ValueError: the program cannot be traced.
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
    """A traced program, to be compiled with machine code in this process."""

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
    """Times `compile_`, which returns fields of `Compiled`; lack of memory gives two of them."""
    start = time.monotonic()
    try:
        found = compile_()
    except RuntimeError as error:
        needed, limit = out_of_memory(str(error))
        if needed is None:
            raise
        found = {"needed_bytes": needed, "limit_bytes": limit}
    # The TPU compiler may replace 64-bit floats by pairs of others.
    found["float64"] = facts.float64 or found.get("float64", False)
    return Compiled(time.monotonic() - start, facts.gradient_bytes, facts.num_donated, **found)


def read(text: str, num_donated: int) -> dict[str, Any]:
    """The fields of `Compiled` that follow from the text of an optimized program."""
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
    }


def planned_memory(allocations: str) -> Memory:
    """The memory in XLA's report of its buffer assignment; a device's memory is color 0."""
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
    """(required bytes at least, available bytes) in an error about memory, else Nones."""
    for pattern in _OUT_OF_MEMORY:
        if found := re.search(pattern, message):
            needed, unit, limit, limit_unit = found.groups()
            return int(float(needed) * _UNITS[unit]), int(float(limit) * _UNITS[limit_unit])
    return None, None


@contextlib.contextmanager
def _compiler(config: Any, program: str, where: Topology, folder: str) -> Iterator[Connection]:
    """Runs `_compile` in a process of its own, which dumps to `folder`; yields what it sends."""
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
    """Sends the facts of a program, compiles it, and sends None, or an error instead."""
    # XLA reads it when it is first used.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_dump_to={folder} --xla_dump_hlo_as_text"
    try:
        lowered, facts = trace(from_json(config), program, devices(topology(where)))
        pipe.send(facts)
        lowered.compile()
        pipe.send(None)  # a small program may be complete before the process is killed
    except (RuntimeError, ValueError) as error:
        kind = RuntimeError if isinstance(error, RuntimeError) else ValueError
        pipe.send(kind(str(error)))  # not every subclass can be pickled


def _receive(pipe: Connection) -> Any:
    """What the compiler's process sends next; raised, if it is an error."""
    try:
        received = pipe.recv()
    except EOFError:
        raise RuntimeError(
            "the compiler's process was killed: this machine may have too little memory for it"
        ) from None
    if isinstance(received, Exception):
        raise received
    return received


def _wait(pipe: Connection, folder: Path) -> None:
    """Returns once the program in `folder` is complete: its size no longer changes."""
    size = 0
    while not pipe.poll(0.5):
        sizes = [path.stat().st_size for path in folder.glob(_PROGRAM)]
        if sizes and sizes == [size]:
            return
        size = sum(sizes)
    _receive(pipe)
