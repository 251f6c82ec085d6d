"""Which programs are compiled for which pods, and which were compiled before?

A config on one pod as it stands is told in full, and if it does not fit, what would make it fit is
tried out. Several pods, or several numbers of examples on a device, make a table.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cfg_jax.config.validate import from_json, to_json, validate
from cfg_jax.preflight import results, verdict, wording
from cfg_jax.preflight.compiling import lowered_here
from cfg_jax.preflight.planning import lowered_elsewhere
from cfg_jax.preflight.programs import PROGRAMS, programs_of, trace
from cfg_jax.preflight.topologies import Topology, check_compiler, devices, topology


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
    say: Callable[[str], None] = print,
) -> bool:
    """Compiles the programs of a config for pods, and says what was found.

    Args:
      config: a ConfigDict; config.train.batch_size is of the whole pod.
      name: what to call the config.
      topologies: names, "v5e:4x4".
      folder: where results lie, and are found again.
      batch_sizes: examples on each device, one program for each, in place of the config's.
      programs: some of PROGRAMS.
      search: whether to look for what makes a program fit that does not; not for a table.
      code: whether to generate it; without, its size and the cycles stay unknown.
      say: is given every line.

    Returns:
      Whether all programs fit.

    Raises:
      ValueError: an unknown topology, no compiler, a config that cannot be run on these devices, a
        folder that cannot be written; before anything is compiled.
      RuntimeError: the compiler fails for another reason than memory.
    """
    places = [topology(name) for name in topologies]
    cases = [case for where in places for case in _cases(config, where, batch_sizes)]
    wanted = [program for program in programs_of(config) if program in programs]
    if not wanted:
        raise ValueError(
            f"--programs={','.join(programs)}: {name} has {' and '.join(programs_of(config))}, "
            "give one of them"
        )
    check_compiler()
    results.check_writable(folder)
    found = []
    for where, case in cases:
        for program in wanted:
            result = measure(name, case, where, program, folder=folder, code=code, say=say)
            found.append(result)
            if len(cases) > 1:
                continue
            say(wording.describe(result))
            if search and not verdict.fits(result.compiled, where.usable_bytes):
                say(_what_fits(result, case, where, folder, code, say))
    if len(cases) > 1:
        say(wording.table(found))
    return all(verdict.fits(r.compiled, topology(r.topology).usable_bytes) for r in found)


def _cases(config: Any, where: Topology, batch_sizes: Sequence[int]) -> list[tuple[Topology, Any]]:
    sizes = [size * where.num_devices for size in batch_sizes] or [config.train.batch_size]
    cases = [(where, changed(config, {"train.batch_size": size})) for size in sizes]
    for _, case in cases:
        validate(case, where.num_devices)
    return cases


def changed(config: Any, changes: dict[str, Any]) -> Any:
    """A copy of a config with other values of some fields, named "section.field"."""
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
    code: bool = True,
    say: Callable[[str], None] = print,
) -> results.Result:
    """What is found of one program, now or before.

    Args:
      name: what to call the config.
      config: a validated ConfigDict.
      where: the pod.
      program: "train" or "sample".
      folder: where results lie.
      code: as for `run`.
      say: is told where the result lies.
    """
    say(f"tracing {program} of {name} for {where.name}")
    with _lowered(config, program, where, code) as (fingerprint, compiled):
        asked = results.question(name, config, where, program, fingerprint, code=code)
        if found := results.find(folder, asked):
            path, result = found
            say(f"{path} has it")
            return result
        say(f"compiling {program} of {name} for {where.name}: minutes for a large network")
        result = results.Result(**asked, compiled=compiled())
    say(f"{results.write(folder, result)} has it")
    return result


def _lowered(config: Any, program: str, where: Topology, code: bool) -> Any:
    if code:
        return lowered_here(trace(config, program, _devices(where)))
    return lowered_elsewhere(config, program, where)


@functools.cache
def _devices(where: Topology) -> list[Any]:
    return devices(where)


def _what_fits(
    result: results.Result,
    config: Any,
    where: Topology,
    folder: Path,
    code: bool,
    say: Callable[[str], None],
) -> str:
    def attempt(changes: dict[str, Any]):
        again = changed(config, changes)
        name = "_".join([result.name, *(f"{f.split('.')[-1]}={v}" for f, v in changes.items())])
        options = {"folder": folder, "code": code, "say": say}
        return measure(name, again, where, result.program, **options).compiled

    found = verdict.ways_to_fit(
        config,
        result.compiled,
        num_devices=where.num_devices,
        usable_bytes=where.usable_bytes,
        program=result.program,
        attempt=attempt,
    )
    return wording.ways(found, result)
