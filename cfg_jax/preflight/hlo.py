"""Which collectives, FLOPs, estimated cycles and donated arguments does a compiled program have?

They are counted in the program's HLO text, with a loop body counted once per iteration. XLA's own
cost analysis counts it once.

    dot          2 |out| prod(contracted sizes)
    convolution  2 batch_out features_out features_in prod_d (pairs of output and kernel positions
                 along d that meet an element of the input)

Source: XLA's HLO text. "known_trip_count" and, from the TPU compiler only, "estimated_cycles" are
fields of an instruction's backend_config.
"""

import collections
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce all-gather reduce-scatter all-to-all ragged-all-to-all collective-permute "
    "collective-broadcast"
).split()
_COMPUTATION = re.compile(r"(ENTRY\s+)?%?([\w.\-]+)\s*[({]")
_INSTRUCTION = re.compile(r"\s+(?:ROOT\s+)?%?([\w.\-]+) = (.*)")
_LEAF = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_OPERAND = re.compile(r"%([\w.\-]+)(?:#(\d+))?")  # without machine code, elements are #k
_KERNEL = 'custom_call_target="tpu_custom_call"'
_CALLED = {
    "while": ("body", "condition"),
    "call": ("to_apply",),
    "conditional": ("branch_computations", "true_computation", "false_computation"),
    "async-start": ("calls",),
    "fusion": ("calls",),
}


class Instruction(NamedTuple):
    """One instruction: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: str
    attributes: str


class Module(NamedTuple):
    """A program: header line with the donated arguments, instructions by computation, entry."""

    header: str
    computations: dict[str, list[Instruction]]
    entry: str


class Executed(NamedTuple):
    """An instruction, the shapes in its computation, number of runs, whether inside a fusion."""

    instruction: Instruction
    shapes: dict[str, str]
    times: int
    fused: bool


def parse(text: str) -> Module:
    """Parses HLO text; raises ValueError if it has no entry computation."""
    header, computations, entry, current = "", {}, "", None
    for line in text.splitlines():
        if line.startswith("HloModule"):
            header = line
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(_instruction(*found.groups()))
        elif line.rstrip().endswith("{") and (found := _COMPUTATION.match(line)):
            current = computations.setdefault(found[2], [])
            entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            current = None
    if not entry:
        raise ValueError("no ENTRY computation: text must be the HLO text of a program")
    return Module(header, computations, entry)


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opening = rest.index("(", end)
    closing = _closing(rest, opening)
    opcode, operands = rest[end:opening].strip(), rest[opening + 1 : closing]
    return Instruction(name, rest[:end], opcode, operands, rest[closing + 1 :])


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the first open one from `start` on."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    raise ValueError(f"unbalanced parenthesis in {text[:80]!r}")


def leaves(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """(element type, sizes) of an array shape, or of every array in a tuple shape."""
    return [
        (dtype, tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size))
        for dtype, sizes in _LEAF.findall(shape)
    ]


def num_bytes(shape: str) -> int:
    """Bytes of all arrays in a shape, without layout padding."""
    return sum(_bits(dtype) * math.prod(sizes) for dtype, sizes in leaves(shape)) // 8


def _bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 0


def executed(
    module: Module, name: str = "", times: int = 1, fused: bool = False
) -> Iterator[Executed]:
    """Yields each instruction that computation `name` runs, also in fusions; default: entry.

    All branches of a conditional count; a loop of unknown trip count counts as one iteration.
    """
    instructions = module.computations[name or module.entry]
    shapes = {instruction.name: instruction.shape for instruction in instructions}
    for instruction in instructions:
        yield Executed(instruction, shapes, times, fused)
        inside = times
        if instruction.opcode == "while":
            inside *= trip_count(module, instruction) or 1
        for called in _called(instruction):
            yield from executed(module, called, inside, fused or instruction.opcode == "fusion")


def _called(instruction: Instruction) -> list[str]:
    names = []
    for attribute in _CALLED.get(instruction.opcode, ()):
        found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%[\w.\-]+)", instruction.attributes)
        names += _NAME.findall(found[1]) if found else []
    return names


def trip_count(module: Module, loop: Instruction) -> int | None:
    """Number of iterations of a `while`; None if unknown.

    Read from "known_trip_count", otherwise from the limit of a counter that starts at 0.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition = re.search(r"\bcondition=%([\w.\-]+)", loop.attributes)
    run = list(executed(module, condition[1])) if condition else []
    compared = [e for e in run if e.instruction.opcode == "compare"]
    limits = [e.instruction.operands for e in run if e.instruction.opcode == "constant"]
    if len(compared) == len(limits) == 1 and "direction=LT" in compared[0].instruction.attributes:
        return int(limits[0]) if limits[0].isdigit() else None
    return None


def unknown_loops(module: Module) -> int:
    """Number of loops with an unknown trip count, which count as one iteration."""
    loops = [e.instruction for e in executed(module) if e.instruction.opcode == "while"]
    return sum(trip_count(module, loop) is None for loop in loops)


def kernels(module: Module) -> int:
    """Number of runs of kernels such as Pallas', which have neither FLOPs nor estimated cycles."""
    return sum(
        times
        for instruction, _, times, _ in executed(module)
        if instruction.opcode == "custom-call" and _KERNEL in instruction.attributes
    )


def operand_shapes(instruction: Instruction, shapes: dict[str, str]) -> list[str]:
    """Shapes of the operands, looked up by name in the `shapes` of their computation."""
    named = _OPERAND.findall(instruction.operands)
    return [_element(shapes[name], at) for name, at in named if name in shapes]


def _element(shape: str, at: str) -> str:
    """Element `at` of a tuple shape, or the shape itself if `at` is empty."""
    if not at:
        return shape
    dtype, sizes = leaves(shape)[int(at)]
    return f"{dtype}[{','.join(map(str, sizes))}]"


def collectives(module: Module) -> dict[str, dict[str, int]]:
    """{kind: {"count": executions, "bytes": communicated bytes}} on one device.

    An operation communicates the larger of its operands and its results.
    """
    found = collections.defaultdict(lambda: {"count": 0, "bytes": 0})
    for instruction, shapes, times, _ in executed(module):
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            operands = sum(map(num_bytes, operand_shapes(instruction, shapes)))
            results = num_bytes(instruction.shape)
            if instruction.opcode != kind and instruction.shape.startswith("("):
                results -= operands  # a start operation also returns its operands
            found[kind]["count"] += times
            found[kind]["bytes"] += times * max(operands, results)
    return dict(sorted(found.items()))


def estimated_cycles(module: Module) -> int:
    """Sum of the TPU compiler's "estimated_cycles"; 0 if there are none, as on a CPU.

    They cover fusions run in sequence, neither waiting for collectives nor unfused operations.
    """
    pattern = re.compile(r'"estimated_cycles":"(\d+)"')
    return sum(
        times * sum(map(int, pattern.findall(instruction.attributes)))
        for instruction, _, times, fused in executed(module)
        if not fused
    )


def dtypes(module: Module) -> dict[str, int]:
    """{element type: number of instructions that return an array of it}."""
    counts = collections.Counter(
        dtype
        for instructions in module.computations.values()
        for instruction in instructions
        for dtype in dict(leaves(instruction.shape))
    )
    return dict(sorted(counts.items()))


def donated_arguments(module: Module) -> set[int]:
    """Indices of the donated arguments."""
    # XLA passes thousands of arguments as one tuple.
    pairs = re.findall(r"\((\d+), \{(\d*)\}, (?:may|must)-alias\)", module.header)
    return {int(element or number) for number, element in pairs}


def flops(module: Module) -> int:
    """FLOPs of all matrix products and convolutions; a multiply-add counts as two."""
    count = {"dot": _dot_flops, "convolution": _convolution_flops}
    return sum(
        times * count[instruction.opcode](instruction, operand_shapes(instruction, shapes))
        for instruction, shapes, times, _ in executed(module)
        if instruction.opcode in count
    )


def _dot_flops(instruction: Instruction, operands: list[str]) -> int:
    (_, out), (_, left) = *leaves(instruction.shape), *leaves(operands[0])
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    dims = [int(dim) for dim in contracted[1].split(",") if dim] if contracted else []
    return 2 * math.prod(out) * math.prod(left[dim] for dim in dims)


def _convolution_flops(instruction: Instruction, operands: list[str]) -> int:
    labels = re.search(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)", instruction.attributes).groups()
    arrays = (leaves(shape)[0][1] for shape in (*operands[:2], instruction.shape))
    left, right, out = (dict(zip(*pair, strict=True)) for pair in zip(labels, arrays, strict=True))
    found = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    window = dict(re.findall(r"(\w+)=(\S+)", found[1])) if found else {}
    pairs = 1
    for axis, name in enumerate(sorted(name for name in out if name.isdigit())):
        here = tuple((key, value.split("x")[axis]) for key, value in window.items())
        pairs *= _meetings(here, left[name], right[name], out[name])
    return 2 * out["b"] * out["f"] * right["i"] * pairs


@functools.cache
def _meetings(window: tuple[tuple[str, str], ...], size: int, kernel: int, out: int) -> int:
    """Number of (output, kernel) position pairs along one axis that meet an input element."""
    here = dict(window)
    stride, low = int(here.get("stride", 1)), int(here.get("pad", "0_0").split("_")[0])
    spread, step = int(here.get("lhs_dilate", 1)), int(here.get("rhs_dilate", 1))
    positions = (i * stride + tap * step - low for i in range(out) for tap in range(kernel))
    return sum(0 <= at <= (size - 1) * spread and at % spread == 0 for at in positions)
