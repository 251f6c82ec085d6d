"""What does a compiled program run, and how often, as XLA prints it?

Instructions of computations, the computations that they call, and the bodies of loops as often as
the loop goes round. What an instruction costs is `costs`'s.

Source: the format is that of XLA's HLO text; "known_trip_count" is a field of the backend_config
of a `while`.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"(ENTRY\s+)?%?([\w.\-]+)\s*[({]")
_INSTRUCTION = re.compile(r"\s+(?:ROOT\s+)?%?([\w.\-]+) = (.*)")
_LEAF = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_OPERAND = re.compile(r"%([\w.\-]+)(?:#(\d+))?")  # while code is not generated, elements are #k
_CALLED = {
    "while": ("body", "condition"),
    "call": ("to_apply",),
    "conditional": ("branch_computations", "true_computation", "false_computation"),
    "async-start": ("calls",),
    "fusion": ("calls",),
}


class Instruction(NamedTuple):
    """One line: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: str
    attributes: str


class Module(NamedTuple):
    """A program.

    header: its first line, which says which arguments' memory the results take over.
    computations: instructions of each, in order, by name.
    entry: the name of the one that is called.
    """

    header: str
    computations: dict[str, list[Instruction]]
    entry: str


class Executed(NamedTuple):
    """An instruction, the shapes beside it, how often it runs, whether inside a fusion."""

    instruction: Instruction
    shapes: dict[str, str]
    times: int
    fused: bool


def parse(text: str) -> Module:
    """The module that XLA printed.

    Raises:
      ValueError: a text without an entry computation.
    """
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
        raise ValueError("no ENTRY computation in this text: give what XLA prints of a program")
    return Module(header, computations, entry)


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opening = rest.index("(", end)
    closing = _closing(rest, opening)
    return Instruction(
        name,
        rest[:end],
        rest[end:opening].strip(),
        rest[opening + 1 : closing],
        rest[closing + 1 :],
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    raise ValueError(f"a parenthesis stays open in {text[:80]!r}")


def leaves(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """(element type, sizes) of an array's shape, or of every array in a tuple's."""
    return [
        (dtype, tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size))
        for dtype, sizes in _LEAF.findall(shape)
    ]


def num_bytes(shape: str) -> int:
    """Of all arrays in a shape, without the padding that a layout adds."""
    return sum(_bits(dtype) * math.prod(sizes) for dtype, sizes in leaves(shape)) // 8


def _bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 0


def executed(module: Module) -> Iterator[Executed]:
    """Every instruction that the program runs, those inside fusions among them.

    All branches of a conditional count, and a loop whose length is not known counts once.
    """
    yield from _executed(module, module.entry, 1, False)


def _executed(module: Module, name: str, times: int, fused: bool) -> Iterator[Executed]:
    instructions = module.computations[name]
    shapes = {instruction.name: instruction.shape for instruction in instructions}
    for instruction in instructions:
        yield Executed(instruction, shapes, times, fused)
        inside = times
        if instruction.opcode == "while":
            inside *= trip_count(module, instruction) or 1
        for called in _called(instruction):
            yield from _executed(module, called, inside, fused or instruction.opcode == "fusion")


def _called(instruction: Instruction) -> list[str]:
    names = []
    for attribute in _CALLED.get(instruction.opcode, ()):
        found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%[\w.\-]+)", instruction.attributes)
        names += _NAME.findall(found[1]) if found else []
    return names


def trip_count(module: Module, loop: Instruction) -> int | None:
    """How often a `while` goes round; None where the program does not say.

    The compiler's word, or else the number that the condition compares a counter from 0 with.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition = re.search(r"\bcondition=%([\w.\-]+)", loop.attributes)
    run = list(_executed(module, condition[1], 1, False)) if condition else []
    compared = [e for e in run if e.instruction.opcode == "compare"]
    limits = [e.instruction.operands for e in run if e.instruction.opcode == "constant"]
    if len(compared) == len(limits) == 1 and "direction=LT" in compared[0].instruction.attributes:
        return int(limits[0]) if limits[0].isdigit() else None
    return None


def unknown_loops(module: Module) -> int:
    """Loops whose bodies count once because their length is not known."""
    loops = [e.instruction for e in executed(module) if e.instruction.opcode == "while"]
    return sum(trip_count(module, loop) is None for loop in loops)


def operand_shapes(instruction: Instruction, shapes: dict[str, str]) -> list[str]:
    """Of the operands, found by name among the `shapes` of their computation."""
    named = _OPERAND.findall(instruction.operands)
    return [_element(shapes[name], at) for name, at in named if name in shapes]


def _element(shape: str, at: str) -> str:
    """The array at a place of a tuple's shape, or the shape itself where `at` is empty."""
    if not at:
        return shape
    dtype, sizes = leaves(shape)[int(at)]
    return f"{dtype}[{','.join(map(str, sizes))}]"
