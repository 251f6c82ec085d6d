"""What does the compiler make of a program, and what memory does it need?

    memory = arguments + results - donated + temporaries + code

per device. A program that needs more than a device has is a finding, not a failure: the compiler
says how much it needs and how much there is.
"""

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from cfg_jax.preflight import costs, hlo
from cfg_jax.preflight.programs import Traced

_OUT_OF_MEMORY = (
    r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
    r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)",
    r"Hbm usage: ([\d.]+)([KMGT]?), .* exceeding available bytes: ([\d.]+)([KMGT]?)",
)
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    arguments: what the program is given: for a training step the state and its part of the batch.
    results: what it returns.
    donated: results that take over the memory of arguments.
    temporaries: what it needs in between.
    code: the program itself; None where it was not generated.
    """

    arguments: int
    results: int
    donated: int
    temporaries: int
    code: int | None

    @property
    def total(self) -> int:
        """All that is held at the same time."""
        kept = self.arguments + self.results - self.donated
        return kept + self.temporaries + (self.code or 0)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What is known of a compiled program; bytes, FLOPs and cycles are those of one device.

    seconds: that compiling took.
    gradient_bytes: of all gradients; 0 for a sampler.
    num_donated: arguments meant to be given up to the results.
    memory: None where the program needs more than there is.
    needed_bytes, limit_bytes: what the compiler says then, at least and at most, otherwise None.
    flops: of matrix products and convolutions, loops counted as often as they run.
    compiler_flops: the compiler's own count of all FLOPs, with the body of a loop counted once.
    estimated_cycles: the compiler's estimate, see `costs.estimated_cycles`.
    collectives: see `costs.collectives`.
    dtypes: instructions by the element type of their result.
    float64: whether one has 64-bit floats, before compiling or after it.
    donated_arguments: how many of the first num_donated arguments are given up.
    unknown_loops: loops that count once because the program does not say how often they run.
    """

    seconds: float
    gradient_bytes: int
    num_donated: int
    memory: Memory | None = None
    needed_bytes: int | None = None
    limit_bytes: int | None = None
    flops: int = 0
    compiler_flops: float = 0.0
    estimated_cycles: int = 0
    collectives: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    dtypes: dict[str, int] = dataclasses.field(default_factory=dict)
    float64: bool = False
    donated_arguments: int = 0
    unknown_loops: int = 0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Compiled":
        """From what `dataclasses.asdict` made of it."""
        memory = values["memory"] and Memory(**values["memory"])
        return cls(**{**values, "memory": memory})


@contextlib.contextmanager
def lowered_here(traced: Traced) -> Iterator[tuple[str, Callable[[], Compiled]]]:
    """(fingerprint of a program, what compiles it and reads what the compiler says of it)."""
    known = traced.described()

    def compile_() -> dict[str, Any]:
        compiled = traced.lowered.compile()
        found = read(compiled.as_text(), traced.num_donated)
        flops = float(compiled.cost_analysis().get("flops", 0.0))
        return found | {"memory": _memory(compiled), "compiler_flops": flops}

    yield known.pop("fingerprint"), lambda: finish(known, compile_)


def finish(known: dict[str, Any], compile_: Callable[[], dict[str, Any]]) -> Compiled:
    """What is `known` of a program and what compiling it finds; too little memory is a finding.

    Raises:
      RuntimeError: the compiler fails for another reason than memory.
    """
    start = time.monotonic()
    try:
        found = compile_()
    except RuntimeError as error:  # jax.errors.JaxRuntimeError is one
        needed, limit = out_of_memory(str(error))
        if needed is None:
            raise
        found = {"needed_bytes": needed, "limit_bytes": limit}
    # The TPU compiler may make pairs of other numbers of 64-bit floats.
    found["float64"] = known["float64"] or found.get("float64", False)
    return Compiled(time.monotonic() - start, **(known | found))


def _memory(compiled: jax.stages.Compiled) -> Memory:
    said = compiled.memory_analysis()
    return Memory(
        arguments=said.argument_size_in_bytes,
        results=said.output_size_in_bytes,
        donated=said.alias_size_in_bytes,
        temporaries=said.temp_size_in_bytes,
        code=said.generated_code_size_in_bytes,
    )


def read(text: str, num_donated: int) -> dict[str, Any]:
    """The fields of `Compiled` that the text of an optimized program has."""
    module = hlo.parse(text)
    found = costs.dtypes(module)
    return {
        "flops": costs.flops(module),
        "estimated_cycles": costs.estimated_cycles(module),
        "collectives": costs.collectives(module),
        "dtypes": found,
        "float64": bool({"f64", "c128"} & set(found)),
        "donated_arguments": len(costs.donated_arguments(module) & set(range(num_donated))),
        "unknown_loops": hlo.unknown_loops(module),
    }


def out_of_memory(message: str) -> tuple[int | None, int | None]:
    """(bytes needed at least, bytes there are) where a message is about memory, else Nones."""
    for pattern in _OUT_OF_MEMORY:
        if found := re.search(pattern, message):
            return _bytes(*found.groups()[:2]), _bytes(*found.groups()[2:])
    return None, None


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])
