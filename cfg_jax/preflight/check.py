"""Preflight of a config: compiles its programs, or loads cached results, and logs a report.

One pod slice is reported in full, with remedies if a program does not fit. Several pod slices or
batch sizes are reported as a table.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cfg_jax.config.validate import from_json, to_json, validate
from cfg_jax.io.files import check_writable
from cfg_jax.preflight import cache, remedies, report
from cfg_jax.preflight.compile import lower
from cfg_jax.preflight.programs import PROGRAMS, forwards, programs_of, task_of
from cfg_jax.preflight.topologies import Topology, check_compiler, topology


def run(
    config: Any,
    name: str,
    topologies: Sequence[str],
    *,
    folder: Path,
    batch_sizes: Sequence[int] = (),
    programs: Sequence[str] = PROGRAMS,
    search: bool = True,
    code: bool = True,
    log: Callable[[str], None] = print,
) -> bool:
    """Compiles the programs of a config for pod slices, and logs a report.

    Args:
      config: a ConfigDict; config.train.batch_size is the global batch size.
      topologies: names of pod slices, such as "v5e:4x4".
      folder: cache of results.
      batch_sizes: examples per device, one program each; the config's batch size if empty.
      programs: subset of PROGRAMS.
      search: whether to search remedies for a program that does not fit; ignored for a table.
      code: whether to generate machine code; without it, code size and cycles stay unknown.

    Returns whether all programs fit.

    Raises ValueError, before anything is traced or written, if a topology or program is unknown, if
    the config is not valid for these devices or its data, if `folder` is not writable, or if the
    compiler is missing. Raises RuntimeError if the compiler fails for a reason other than lack of
    memory.
    """
    there = programs_of(config)
    wanted = [program for program in there if program in programs]
    if not wanted or not set(programs) <= set(PROGRAMS):
        raise ValueError(
            f"programs={','.join(programs)}: {name} has {' and '.join(there)}; choose from these"
        )
    cases = [case for place in topologies for case in _cases(config, topology(place), batch_sizes)]
    task_of(config)
    check_writable(folder, "folder")
    check_compiler()
    measured = functools.partial(measure, folder=folder, code=code, log=log)
    results = []
    for where, case in cases:
        for program in wanted:
            result = measured(name, case, where, program)
            results.append(result)
            if len(cases) > 1:
                continue
            log(report.describe(result))
            if program == "sample":
                log(f"  {forwards(case)}")
            if search and not result.fits:
                log(report.describe_remedies(_remedies(result, case, measured), result))
    if len(cases) > 1:
        log(report.table(results))
    return all(result.fits for result in results)


def _cases(config: Any, where: Topology, batch_sizes: Sequence[int]) -> list[tuple[Topology, Any]]:
    sizes = [size * where.num_devices for size in batch_sizes] or [config.train.batch_size]
    cases = [(where, changed(config, {"train.batch_size": size})) for size in sizes]
    for _, case in cases:
        validate(case, where.num_devices)
    return cases


def changed(config: Any, changes: dict[str, Any]) -> Any:
    """A copy of a config with changed fields; the keys of `changes` are "section.field"."""
    copy = from_json(to_json(config))
    copy.update_from_flattened_dict(changes)
    return copy


def measure(
    name: str,
    config: Any,
    where: Topology,
    program: str,
    *,
    folder: Path,
    code: bool,
    log: Callable[[str], None],
) -> cache.Result:
    """The compile result of one program, from `folder` or new; arguments as for `run`."""
    log(f"tracing {program} of {name} for {where.name}")
    with lower(config, program, where, code=code) as lowered:
        known = cache.key(name, config, where, program, lowered.fingerprint, code=code)
        if found := cache.find(folder, known):
            path, result = found
            log(f"found {path}")
            return result
        log(f"compiling {program} of {name} for {where.name}; a large network takes minutes")
        result = cache.Result(**known, compiled=lowered.compile())
    log(f"wrote {cache.write(folder, result)}")
    return result


def _remedies(
    result: cache.Result, config: Any, measured: Callable[..., cache.Result]
) -> list[remedies.Remedy]:
    def attempt(changes: dict[str, Any]) -> Any:
        name = "_".join([result.name, *(f"{f.split('.')[-1]}={v}" for f, v in changes.items())])
        return measured(name, changed(config, changes), result.where, result.program).compiled

    return remedies.find(
        config,
        result.compiled,
        num_devices=result.num_devices,
        usable_bytes=result.where.usable_bytes,
        program=result.program,
        attempt=attempt,
    )
