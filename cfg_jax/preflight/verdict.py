"""Does a compiled program fit its devices, and does it have the required properties?

`Compiled.fits` answers the first, `Compiled.checks` the second.

    memory = arguments + results - donated + temporaries + code        bytes on one device
    fits  <=>  memory <= memory of a device that is available to a program
"""

import dataclasses
from typing import Any

# XLA sums equal gradients, such as those of two added biases, only once. Metrics are summed too.
_LEAST_SUMMED, _MOST_SUMMED, _METRIC_BYTES = 0.95, 1.05, 4096
# The TPU compiler pads the parts to its tiles, and reduce-scatters by a fused all-reduce.
_MOST_SCATTERED = 1.5


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    arguments: for a training step, the state and the batch of this device.
    results: all results, including donated.
    donated: results that reuse the memory of arguments.
    code: machine code; None if it was not generated.
    """

    arguments: int
    results: int
    donated: int
    temporaries: int
    code: int | None

    @property
    def total(self) -> int:
        """Memory held at the same time."""
        kept = self.arguments + self.results - self.donated
        return kept + self.temporaries + (self.code or 0)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Properties of one compiled program; bytes, FLOPs and cycles are per device.

    seconds: compile time.
    gradient_bytes: size of all gradients; 0 for a sampler.
    scattered_bytes: their size with padding if they are reduce-scattered; 0 otherwise.
    num_donated: number of leading arguments that must be donated.
    memory: memory by kind; None if the compiler ran out of memory.
    needed_bytes, limit_bytes: minimum required and available bytes if memory is None.
    flops: FLOPs of matrix products and convolutions, with loop bodies counted once per iteration.
    compiler_flops: the compiler's own count of all FLOPs, with loop bodies counted once.
    estimated_cycles, collectives, dtypes: see the functions of `hlo`.
    float64: whether 64-bit floats occur, before or after compiling.
    donated_arguments: number of donated arguments among the first num_donated.
    unknown_loops: number of loops of unknown trip count, counted as one iteration.
    kernels: number of custom calls whose cycles and FLOPs the compiler does not state.
    calls: number of network calls of a sampler; 0 for a training step.
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
    kernels: int = 0
    calls: int = 0
    scattered_bytes: int = 0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Compiled":
        """The inverse of `dataclasses.asdict`."""
        memory = values["memory"] and Memory(**values["memory"])
        return cls(**{**values, "memory": memory})

    @property
    def total_bytes(self) -> int:
        """Memory on one device; a lower bound if the compiler ran out of memory."""
        return self.memory.total if self.memory else self.needed_bytes

    def fits(self, usable_bytes: int) -> bool:
        """Whether the program needs at most `usable_bytes` on a device."""
        return self.memory is not None and self.memory.total <= usable_bytes

    def fraction_of_peak(self, flops_per_cycle: float) -> float:
        """FLOPs / (estimated cycles x FLOPs per cycle of the matrix units); 0 without cycles."""
        cycles = self.estimated_cycles
        return self.flops / (cycles * flops_per_cycle) if cycles else 0.0

    def checks(self, num_devices: int) -> dict[str, bool]:
        """{required property: whether the program has it}; empty if memory is None.

        A training step donates every array of the state, all-reduces the gradients once and
        communicates only metrics besides. With a sharded state it reduce-scatters the gradients and
        all-gathers the parameters instead. A sampler communicates nothing. None uses float64.
        """
        if self.memory is None:
            return {}
        moved = {kind: total["bytes"] for kind, total in self.collectives.items()}
        summed = moved.pop("all-reduce", 0)
        found = {"no float64": not self.float64}
        if not self.gradient_bytes:
            return found | {"nothing exchanged": not summed and not moved}
        found["state donated"] = self.donated_arguments == self.num_donated
        if num_devices > 1:
            size = self.scattered_bytes or self.gradient_bytes
            factor = _MOST_SCATTERED if self.scattered_bytes else _MOST_SUMMED
            least, most = _LEAST_SUMMED * size, factor * size + _METRIC_BYTES
            if self.scattered_bytes:
                summed += moved.pop("reduce-scatter", 0)
                found["parameters gathered once"] = least <= moved.pop("all-gather", 0) <= most
            found["gradients summed once"] = least <= summed <= most
            found["nothing else exchanged"] = not moved
        return found
