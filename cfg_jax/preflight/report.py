"""Text output of a preflight: several lines for one program, or a table of many.

Cycles and numbers derived from them are labelled as the compiler's estimate: nothing is executed.
"""

from collections.abc import Sequence

from cfg_jax.preflight.cache import Result
from cfg_jax.preflight.remedies import Remedy
from cfg_jax.preflight.verdict import Compiled

_GIB = 2**30
_PROGRAM = {"train": "training step", "sample": "guided sampler"}
_ROW = {"train": "examples", "sample": "images"}
_TITLES = (
    "config | program | topology | devices | per device | arguments | temporaries | code | "
    "memory | available | TFLOP per device | estimated Mcycles | estimated fraction of peak | fits"
).split(" | ")


def describe(result: Result) -> str:
    """The compile result of one program as text, with the verdict at the end."""
    found, each, devices = result.compiled, result.per_device, result.num_devices
    lines = [
        f"{result.name}, {_PROGRAM[result.program]}, on {result.topology}: {devices} devices, "
        f"{each} {_ROW[result.program]} on each, {each * devices} in total"
    ]
    if found.memory:
        lines += [
            f"memory: {_memory(result)}",
            f"computation: {_computation(found)} per device (matrix products and convolutions)",
            *_least_time(result),
            f"communication: {_communication(result)}",
            f"the compiler's estimate, not a measurement: {_estimate(result)}",
        ]
    if found.unknown_loops:
        lines.append(f"{found.unknown_loops} loops of unknown trip count are counted once")
    if found.kernels:
        lines.append(f"{found.kernels} custom calls are not in the FLOPs and the estimate")
    if checks := found.checks(devices):
        line = "; ".join(f"{name}: {'yes' if ok else 'NO'}" for name, ok in checks.items())
        lines.append(line.replace("exchanged", "communicated"))  # stored under an older word
    versions = ", ".join(f"{name} {result.versions[name]}" for name in ("jax", "libtpu"))
    lines.append(f"compiled in {found.seconds:.0f} s with {versions}")
    lines.append(_verdict(result))
    return "\n  ".join(lines)


def describe_remedies(remedies: Sequence[Remedy], result: Result) -> str:
    """Remedies for a program that does not fit."""
    program = f"{result.name} on {result.topology}"
    if not remedies:
        return (
            f"{program}: a sharded state, remat, gradient accumulation and fewer examples per "
            "device do not make it fit; choose a larger chip"
        )
    if result.program == "sample":
        (remedy,) = remedies
        images = remedy.changes["train.batch_size"] // result.num_devices
        return (
            f"{program} fits with {images} images on each device: "
            f"{_gib(remedy.compiled.total_bytes)}; cfg-jax sample --batch_size counts the images "
            "of all devices of one host"
        )
    lines = [f"{program} fits with one of"]
    for changes, compiled in remedies:
        flags = " ".join(f"--config.{field}={value}" for field, value in changes.items())
        lines.append(f"{flags}: {_gib(compiled.total_bytes)}")
    return "\n  ".join(lines)


def table(results: Sequence[Result]) -> str:
    """Markdown table with one row per result."""
    rows = [_TITLES, ["---"] * len(_TITLES), *map(_row, results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(result: Result) -> tuple[str, ...]:
    found, memory = result.compiled, result.compiled.memory
    parts, flops, estimate = ("-",) * 3, "-", ("-",) * 2
    if memory:
        parts = tuple(map(_gib, (memory.arguments, memory.temporaries, memory.code)))
        flops = f"{found.flops / 1e12:.3g}"
    if found.estimated_cycles:
        fraction = found.fraction_of_peak(result.where.flops_per_cycle)
        estimate = f"{found.estimated_cycles / 1e6:.1f}", f"{fraction:.0%}"
    return (
        *(result.name, result.program, result.topology),
        *(str(result.num_devices), str(result.per_device)),
        *parts,
        *(_gib(found.total_bytes), _gib(result.where.usable_bytes)),
        *(flops, *estimate),
        "yes" if result.fits else "no",
    )


def _memory(result: Result) -> str:
    memory = result.compiled.memory
    return (
        f"{_gib(memory.arguments)} arguments + {_gib(memory.results)} results - "
        f"{_gib(memory.donated)} donated + {_gib(memory.temporaries)} temporaries + "
        f"{_gib(memory.code)} code = {_gib(memory.total)} per device"
    )


def _computation(found: Compiled) -> str:
    if found.calls:
        each = found.flops / found.calls / 1e12
        return f"{found.calls} network calls of {each:.3g} TFLOP on average"
    return f"{found.flops / 1e12:.3g} TFLOP"


def _least_time(result: Result) -> list[str]:
    """Lower bound of a training's time, as a line: FLOPs x steps / peak; empty for a sampler."""
    if result.program != "train":
        return []
    steps = result.config["train"]["num_steps"]
    hours = result.compiled.flops * steps / result.where.peak_flops / 3600
    return [f"time, computed: at least {hours:.3g} h for {steps:,} steps at the chip's peak"]


def _communication(result: Result) -> str:
    moved = result.compiled.collectives.items()
    lines = [f"{of['count']} {kind} of {_gib(of['bytes'])} in total" for kind, of in moved]
    return ", ".join(lines) or "none"


def _estimate(result: Result) -> str:
    cycles, where = result.compiled.estimated_cycles, result.where
    if not cycles:
        generated = result.compiled.memory.code is not None
        why = "this compiler states no cycles" if generated else "it needs --code=True"
        return f"none, since {why}"
    fraction = result.compiled.fraction_of_peak(where.flops_per_cycle)
    return (
        f"{cycles / 1e6:.1f} M cycles, or {cycles / where.chip.clock:.3g} s at "
        f"{where.chip.clock / 1e9:.2f} GHz, at {fraction:.0%} of the chip's peak"
    )


def _verdict(result: Result) -> str:
    where, needed = result.where, _gib(result.compiled.total_bytes)
    total = _gib(where.chip.hbm_bytes // where.chip.devices)
    available = f"the {_gib(where.usable_bytes)} available of {total}"
    if result.fits:
        return f"FITS: {needed} of {available}"
    least = "" if result.compiled.memory else "at least "
    return f"DOES NOT FIT: {least}{needed} of {available}"


def _gib(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 100 else f"{size / 2**20:.2f} MiB"
