"""How is what a preflight found told to a person?

A few lines for one program, one row of a table for many. Cycles, and what follows from them, are
always called the compiler's estimate: nothing was run.
"""

from collections.abc import Sequence

from cfg_jax.preflight import verdict
from cfg_jax.preflight.results import Result
from cfg_jax.preflight.topologies import Topology, topology

_GIB = 2**30
_WHAT = {"train": "training step", "sample": "guided sampler"}
_EACH = {"train": "examples", "sample": "images"}


def describe(result: Result) -> str:
    """All that was found of one program, with the verdict at the end."""
    where, found = topology(result.topology), result.compiled
    per_device, devices = result.per_device, result.num_devices
    lines = [
        f"{result.name}, {_WHAT[result.program]}, on {result.topology}: {devices} devices, "
        f"{per_device} {_EACH[result.program]} on each, {per_device * devices} in all"
    ]
    if found.memory:
        lines += [
            f"memory: {_memory(result)}",
            f"computation: {found.flops / 1e12:.3g} TFLOP a device (matrix products and "
            "convolutions)",
            f"exchange: {_exchange(result)}",
            f"the compiler's estimate, not a measurement: {_estimate(result, where)}",
        ]
    if found.unknown_loops:
        lines.append(f"{found.unknown_loops} loops of unknown length are counted once")
    checks = verdict.checks(found, devices)
    if checks:
        lines.append("; ".join(f"{name}: {'yes' if ok else 'NO'}" for name, ok in checks.items()))
    lines.append(f"compiled in {found.seconds:.0f} s with {_versions(result)}")
    lines.append(_verdict(result, where))
    return "\n  ".join(lines)


def ways(found: Sequence[verdict.Way], result: Result) -> str:
    """What makes a program fit that does not."""
    if not found:
        return (
            f"{result.name} on {result.topology}: recomputing block insides, accumulating "
            "gradients and fewer examples on a device do not make it fit; give a larger chip"
        )
    if result.program == "sample":
        (way,) = found
        return (
            f"{result.name} on {result.topology} fits with "
            f"{way.changes['train.batch_size'] // result.num_devices} images on each device: "
            f"{_gib(verdict.needed_bytes(way.compiled))}; launch.sample --batch_size is what the "
            "devices of one host draw at a time"
        )
    lines = [f"{result.name} on {result.topology} fits with one of"]
    for way in found:
        flags = " ".join(f"--config.{field}={value}" for field, value in way.changes.items())
        lines.append(f"{flags}: {_gib(verdict.needed_bytes(way.compiled))}")
    return "\n  ".join(lines)


def table(results: Sequence[Result]) -> str:
    """Markdown, a row for each result."""
    titles = (
        "config",
        "program",
        "topology",
        "devices",
        "on each",
        "arguments",
        "temporaries",
        "code",
        "memory",
        "of",
        "TFLOP a device",
        "estimated Mcycles",
        "estimated share of peak",
        "fits",
    )
    rows = [titles, tuple("---" for _ in titles), *map(_row, results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(result: Result) -> tuple[str, ...]:
    where, found = topology(result.topology), result.compiled
    unknown = ("-",) * 3
    memory = found.memory
    parts = (
        tuple(map(_gib, (memory.arguments, memory.temporaries, memory.code))) if memory else unknown
    )
    speed = unknown
    if memory:
        share = verdict.share_of_peak(found, where.flops_per_cycle)
        estimate = (f"{found.estimated_cycles / 1e6:.1f}", f"{share:.0%}")
        speed = (f"{found.flops / 1e12:.3g}", *(estimate if found.estimated_cycles else "--"))
    return (
        result.name,
        result.program,
        result.topology,
        str(result.num_devices),
        str(result.per_device),
        *parts,
        _gib(verdict.needed_bytes(found)),
        _gib(where.usable_bytes),
        *speed,
        "yes" if verdict.fits(found, where.usable_bytes) else "no",
    )


def _memory(result: Result) -> str:
    memory = result.compiled.memory
    return (
        f"{_gib(memory.arguments)} arguments + {_gib(memory.results)} results - "
        f"{_gib(memory.donated)} donated + {_gib(memory.temporaries)} temporaries + "
        f"{_gib(memory.code)} code = {_gib(memory.total)} a device"
    )


def _exchange(result: Result) -> str:
    moved = result.compiled.collectives.items()
    return (
        ", ".join(f"{of['count']} {kind} of {_gib(of['bytes'])} together" for kind, of in moved)
        or "nothing"
    )


def _estimate(result: Result, where: Topology) -> str:
    cycles = result.compiled.estimated_cycles
    if not cycles:
        return "none without code, or by this compiler"
    share = verdict.share_of_peak(result.compiled, where.flops_per_cycle)
    return (
        f"{cycles / 1e6:.1f} M cycles, which are {cycles / where.chip.clock:.3g} s at "
        f"{where.chip.clock / 1e9:.2f} GHz and {share:.0%} of the chip's peak"
    )


def _versions(result: Result) -> str:
    return ", ".join(f"{name} {result.versions[name]}" for name in ("jax", "libtpu"))


def _verdict(result: Result, where: Topology) -> str:
    needed, usable = verdict.needed_bytes(result.compiled), where.usable_bytes
    whole = where.chip.hbm_bytes // where.chip.devices
    chip = f"the {_gib(usable)} that a program can have of {_gib(whole)}"
    if verdict.fits(result.compiled, usable):
        return f"FITS: {_gib(needed)} of {chip}"
    least = "" if result.compiled.memory else "at least "
    return f"DOES NOT FIT: {least}{_gib(needed)} of {chip}"


def _gib(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 100 else f"{size / 2**20:.2f} MiB"
