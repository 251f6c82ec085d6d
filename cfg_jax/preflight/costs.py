"""What does a compiled program move, compute and keep?

The collectives in it, the FLOPs of its matrix products and convolutions, the cycles that the TPU
compiler estimates for what it has fused, the arguments whose memory it takes over. XLA's own cost
analysis counts the body of a loop once; here it counts as often as the loop goes round.

    dot          2 |out| prod(contracted sizes)
    convolution  2 batch_out features_out features_in prod_d (pairs of output and kernel positions
                 along d that meet an element of the input)

Source: "estimated_cycles" is a field of an instruction's backend_config, of the TPU compiler only.
"""

import collections
import functools
import math
import re

from cfg_jax.preflight.hlo import (
    Instruction,
    Module,
    executed,
    leaves,
    num_bytes,
    operand_shapes,
)

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


def collectives(module: Module) -> dict[str, dict[str, int]]:
    """{kind: {"count": how many run, "bytes": what they move}} on one device.

    An operation's bytes are those it is given or those it returns, whichever is more: the sum's
    of an all-reduce, the whole of an all-gather.
    """
    found = collections.defaultdict(lambda: {"count": 0, "bytes": 0})
    for instruction, shapes, times, _ in executed(module):
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            given = sum(num_bytes(shape) for shape in operand_shapes(instruction, shapes))
            returned = num_bytes(instruction.shape)
            if instruction.opcode != kind and instruction.shape.startswith("("):
                returned -= given  # the start of one returns its operands too
            found[kind]["count"] += times
            found[kind]["bytes"] += times * max(given, returned)
    return dict(sorted(found.items()))


def estimated_cycles(module: Module) -> int:
    """The sum of the TPU compiler's "estimated_cycles"; 0 where it gave none, as on a CPU.

    An estimate by the compiler of what it has fused, one operation after the other: waiting for
    collectives and whatever it does not fuse is not in it.
    """
    pattern = re.compile(r'"estimated_cycles":"(\d+)"')
    return sum(
        times * sum(map(int, pattern.findall(instruction.attributes)))
        for instruction, _, times, fused in executed(module)
        if not fused
    )


def dtypes(module: Module) -> dict[str, int]:
    """{element type: instructions that return an array of it}."""
    counts = collections.Counter(
        dtype
        for instructions in module.computations.values()
        for instruction in instructions
        for dtype in {dtype for dtype, _ in leaves(instruction.shape)}
    )
    return dict(sorted(counts.items()))


def donated_arguments(module: Module) -> set[int]:
    """The arguments, by number, whose memory a result takes over."""
    # Thousands of them are one argument, a tuple.
    pairs = re.findall(r"\((\d+), \{(\d*)\}, (?:may|must)-alias\)", module.header)
    return {int(element or number) for number, element in pairs}


def flops(module: Module) -> int:
    """Of all matrix products and convolutions, a multiplication and an addition counting as two."""
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
def _meetings(window: tuple[tuple[str, str], ...], given: int, kernel: int, returned: int) -> int:
    """Pairs of an output and a kernel position along one axis that meet an input element."""
    here = dict(window)
    stride, low = int(here.get("stride", 1)), int(here.get("pad", "0_0").split("_")[0])
    spread, step = int(here.get("lhs_dilate", 1)), int(here.get("rhs_dilate", 1))
    positions = (
        place * stride + tap * step - low for place in range(returned) for tap in range(kernel)
    )
    return sum(0 <= at <= (given - 1) * spread and at % spread == 0 for at in positions)
