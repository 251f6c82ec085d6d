"""Times of programs that take turns, and the JSON file of a benchmark with its machine.

    given = recording.parser(__doc__, rounds=5).parse_args()
    path = recording.destination("networks", ["forward"], settings, given.out)
    times = recording.interleaved({"ours": run, "PyTorch": run_torch}, given.rounds)
    recording.save(recording.record("networks", {"forward": times}, settings=settings), path)

A file holds {program: {implementation: {measure: value}}}, where "ours" is this library and the
others are rivals. `compare.py` reads two such files. Imports none of JAX, NumPy and PyTorch, which
read the number of cores when they start.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OURS = "ours"
TIMES = ("wall", "processor", "main thread")
"""Measures in seconds; the table has them in ms."""
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "scipy",
    "libtpu",
    "torch",
    "diffusers",
    "torch-fidelity",
    "pytorch-fid",
)
VECTOR_UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve")
PAUSE = 0.02  # seconds until the previous program's threads are idle

Measures = dict[str, float]
Measurements = dict[str, dict[str, Measures]]


def parser(
    docstring: str, rounds: int | None = None, threads: int | None = None
) -> argparse.ArgumentParser:
    """A parser with --out and, if their default number is given, --rounds and --threads."""
    made = argparse.ArgumentParser(description=docstring.splitlines()[0])
    made.add_argument("--out", help="JSON file; default benchmarks/results/NAME_JAXVERSION.json")
    if rounds:
        made.add_argument(
            "--rounds", type=positive, default=rounds, help="timed rounds after the first"
        )
    if threads:
        made.add_argument("--threads", type=positive, default=threads, help="cores and threads")
    return made


def at_least(least: int) -> Callable[[str], int]:
    """The type of an argument that is an integer of at least `least`."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r}: need an integer of at least {least}")
        return value

    return convert


positive = at_least(1)


def use_cores(threads: int) -> None:
    """Keeps this process on `threads` of its cores; call it before importing JAX or PyTorch."""
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if not hasattr(os, "sched_setaffinity"):
        print("this system cannot keep a process on some of its cores: JAX uses all of them")
        return
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise SystemExit(f"--threads={threads}: this process has {len(cores)} cores")
    os.sched_setaffinity(0, cores[:threads])


def interleaved(programs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Measures]:
    """Median seconds of programs that run in turn: {name: {"wall": s, "processor": s}}.

    One more round comes first, without a time, since it compiles. A program returns when its result
    is there. "processor" is the sum over all threads of this process.
    """
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for repeat in range(rounds + 1):
        for name, program in programs.items():
            time.sleep(PAUSE)
            begun = time.perf_counter(), time.process_time()
            program()
            ended = time.perf_counter(), time.process_time()
            if repeat:
                spent[name].append((ended[0] - begun[0], ended[1] - begun[1]))
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in every),
            "processor": statistics.median(processor for _, processor in every),
        }
        for name, every in spent.items()
    }


def same(name: str, ours: Any, theirs: Any, allowed: float) -> float:
    """Prints the largest difference of two results, relative to an array's largest value.

    Results are arrays, or dicts of arrays with the same keys. Exits if the difference is larger
    than allowed or not a number.
    """
    import numpy as np  # not before the process has its cores

    if not isinstance(ours, Mapping):
        ours, theirs = {name: ours}, {name: theirs}
    differences = []
    for key, own in ours.items():
        own, other = (np.asarray(array, np.float64) for array in (own, theirs[key]))
        difference = np.abs(own - other).max()
        with np.errstate(divide="ignore"):  # infinite if only theirs is zero
            differences.append(difference / np.abs(other).max() if difference else 0.0)
    largest = float(np.max(differences))  # NaN if one is
    print(f"{name}: largest relative difference {largest:.1e}", flush=True)
    if not largest <= allowed:
        raise SystemExit(f"{name} differs by {largest:.1e}, nothing is timed")
    return largest


def measure(threads: int) -> str:
    """The measure to compare: other programs disturb the processor time of one thread least."""
    return "processor" if threads == 1 else "wall"


def machine() -> dict[str, Any]:
    """The processor, its vector units, the cores that this process has, and the system."""
    found = {"processor": platform.processor() or platform.machine(), "vector_units": []}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
        facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}
        model = ", ".join(f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts)
        if "model name" in facts:
            found["processor"] = f"{facts['model name']} ({model})"
        flags = facts.get("flags", facts.get("Features", "")).split()
        found["vector_units"] = [unit for unit in VECTOR_UNITS if unit in flags]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found | {"cores": usable, "system": f"{platform.system()} {platform.machine()}"}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of this checkout, with "-dirty" after changes; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def record(
    name: str,
    measurements: Measurements,
    *,
    settings: Mapping[str, Any],
    compared: str = "processor",
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The form of the JSON file.

    Args:
      name: name of the benchmark.
      measurements: {program: {implementation: {measure: value}}}.
      settings: sizes and numbers of threads; files of other settings are not compared.
      compared: the measure that `compare.py` compares.
      facts: anything else to keep: rounds, parameter counts, differences of outputs.
    """
    return {
        "name": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "settings": dict(settings),
        "compared": compared,
        "facts": dict(facts or {}),
        "measurements": measurements,
    }


def destination(
    name: str, programs: Iterable[str], settings: Mapping[str, Any], out: str | None
) -> Path:
    """The file for a record, by default in benchmarks/results; call it before timing.

    Exits if the file cannot be written, or if it exists and is anything but a record of the same
    benchmark, programs and settings.
    """
    jax = versions().get("jax", "none")
    path = Path(out or ROOT / "benchmarks" / "results" / f"{name}_{jax}.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = read(path) if path.exists() else None
    except (OSError, ValueError) as error:
        raise SystemExit(f"--out={path}: {error}") from None
    if not os.access(path if before else path.parent, os.W_OK):
        raise SystemExit(f"--out={path}: no permission to write there")
    if before:
        wanted = name, set(programs), json.loads(json.dumps(settings))
        if (before["name"], set(before["measurements"]), before["settings"]) != wanted:
            raise SystemExit(
                f"{path} has a record of other programs or settings: give another file as --out"
            )
    return path


def read(path: Path | str) -> dict[str, Any]:
    """The record in a file; raises OSError, or ValueError if the file holds no record."""
    try:
        found = json.loads(Path(path).read_text("utf-8"))
        values = [
            row[found["compared"]]
            for rows in found["measurements"].values()
            for row in rows.values()
        ]
        mappings = all(isinstance(found[key], dict) for key in ("machine", "settings", "versions"))
        whole = mappings and {"name", "xla_flags"} <= found.keys()
        if whole and all(0 < value < math.inf for value in values):
            return found
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"{path}: not a record of a benchmark with positive measurements")


def save(recorded: Mapping[str, Any], path: Path) -> None:
    """Prints a record as a table and writes it as JSON."""
    print(markdown(recorded))
    path.write_text(json.dumps(recorded, indent=1) + "\n", "utf-8")
    print(f"written to {path}")


def markdown(recorded: Mapping[str, Any]) -> str:
    """The head of a record, and its measurements as a Markdown table with ratios ours / rival."""
    about = recorded["machine"]
    listed = ", ".join(f"{name} {version}" for name, version in recorded["versions"].items())
    head = [
        f"{recorded['name']}, {recorded['date']}, commit {recorded['commit']}",
        f"{about['processor']}, {about['cores']} cores, {listed}",
        f"XLA_FLAGS={recorded['xla_flags']}",
        ", ".join(f"{key} {value}" for key, value in recorded["settings"].items()),
        *(f"{key}: {value}" for key, value in recorded["facts"].items()),
    ]
    return "\n".join([*head, "", *_table(recorded["measurements"])])


def _table(measurements: Measurements) -> list[str]:
    """A row for each program and implementation; times in ms, anything else as it is."""
    names: Sequence[str] = list(
        dict.fromkeys(m for rows in measurements.values() for row in rows.values() for m in row)
    )
    timed = {name: f"{name}, ms" if name in TIMES else name for name in names}
    head = [cell for name in names for cell in (timed[name], "ours / this")]
    lines = ["| program | implementation | " + " | ".join(head) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(head))
    for program, rows in measurements.items():
        for implementation, row in rows.items():
            cells = []
            for name in names:
                value = row[name]
                factor = 1000 if timed[name] != name else 1
                own = rows.get(OURS, {}).get(name)
                cells.append(f"{factor * value:.4g}")
                cells.append("" if implementation == OURS or not own else f"{own / value:.2f}")
            lines.append(f"| {program} | {implementation} | " + " | ".join(cells) + " |")
    return lines
