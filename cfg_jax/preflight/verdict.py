"""Does a program fit its devices, is it what it should be, and what would make it fit?

    fits  <=>  memory <= what the compiler leaves a program of a device's memory

What would make it fit is tried out in three ways, from the mildest on: recomputing the insides of
blocks, more microbatches, fewer examples on a device; the first two together where neither is
enough. A guess from what is known skips what is hopeless:

    memory(fraction) ~ fixed + fraction (memory - fixed),   fixed = state and gradients

A guess is never reported; what is reported was compiled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from cfg_jax.preflight.compiling import Compiled

# Guesses above this share of the memory are not tried.
_HOPELESS = 1.15
# Gradients that are known to be equal, such as those of two biases added, are summed once; numbers
# to be logged are summed too.
_LEAST_SUMMED, _MOST_SUMMED = 0.95, 1.05


class Way(NamedTuple):
    """One change of a config that was tried out.

    changes: {"section.field": value}.
    """

    changes: dict[str, Any]
    compiled: Compiled


def needed_bytes(compiled: Compiled) -> int:
    """On one device; where the compiler gave up, what it said that is needed at least."""
    return compiled.memory.total if compiled.memory else compiled.needed_bytes


def fits(compiled: Compiled, usable_bytes: int) -> bool:
    """Whether the program fits a device that leaves it `usable_bytes`."""
    return compiled.memory is not None and compiled.memory.total <= usable_bytes


def share_of_peak(compiled: Compiled, flops_per_cycle: float) -> float:
    """FLOPs over what the matrix units do in the compiler's estimated cycles; 0 without cycles."""
    cycles = compiled.estimated_cycles
    return compiled.flops / (cycles * flops_per_cycle) if cycles else 0.0


def checks(compiled: Compiled, num_devices: int) -> dict[str, bool]:
    """What a compiled program should hold to, and whether it does.

    Of a training step: every array of the state is given up to the new state; the gradients are
    summed once over the devices, and nothing else is exchanged but numbers to be logged. Of both
    programs: no float64, and a sampler exchanges nothing.
    """
    if compiled.memory is None:
        return {}
    moved = {kind: of["bytes"] for kind, of in compiled.collectives.items()}
    summed = moved.pop("all-reduce", 0)
    found = {"no float64": not compiled.float64}
    if not compiled.gradient_bytes:
        return found | {"nothing exchanged": not summed and not moved}
    found["state donated"] = compiled.donated_arguments == compiled.num_donated
    if num_devices > 1:
        least, most = (share * compiled.gradient_bytes for share in (_LEAST_SUMMED, _MOST_SUMMED))
        found["gradients summed once"] = least <= summed <= most + 4096
        found["nothing else exchanged"] = not moved
    return found


def ways_to_fit(
    config: Any,
    compiled: Compiled,
    *,
    num_devices: int,
    usable_bytes: int,
    program: str,
    attempt: Callable[[dict[str, Any]], Compiled],
) -> list[Way]:
    """For each way of saving memory, the mildest change that makes the program fit.

    Args:
      config: what `compiled` was made from, and does not fit.
      compiled: it.
      num_devices: that the batch is spread over.
      usable_bytes: of a device.
      program: "train" or "sample".
      attempt: changes -> the program compiled with them.

    Returns:
      At most one way of each kind; none where nothing that was tried fits.
    """
    at_a_time = config.train.batch_size // num_devices
    parts = config.train.num_microbatches if program == "train" else 1
    divisors = [by for by in range(2, at_a_time // parts + 1) if at_a_time // parts % by == 0]

    def mildest(known: Compiled, candidates: list[tuple[dict[str, Any], float]]) -> list[Way]:
        for changes, fraction in candidates:
            if _guess(known, fraction) > _HOPELESS * usable_bytes:
                continue
            way = Way(changes, attempt(changes))
            if fits(way.compiled, usable_bytes):
                return [way]
        return []

    fewer = mildest(
        compiled, [({"train.batch_size": config.train.batch_size // by}, 1 / by) for by in divisors]
    )
    if program != "train":
        return fewer
    more = [({"train.num_microbatches": parts * by}, 1 / by) for by in divisors]
    found = mildest(compiled, more)
    if config.model.get("remat") is False and _guess(compiled, 0.0) <= _HOPELESS * usable_bytes:
        recompute = {"model.remat": True}
        way = Way(recompute, attempt(recompute))
        if fits(way.compiled, usable_bytes):
            found = [way, *found]
        elif not found:
            found = mildest(way.compiled, [(recompute | changes, by) for changes, by in more])
    return found + fewer


def _guess(compiled: Compiled, fraction: float) -> float:
    """Bytes with `fraction` of what grows with the examples computed at a time."""
    # Parameters, their average and Adam's two moments are of the gradients' size.
    fixed = 5 * compiled.gradient_bytes
    needed = needed_bytes(compiled)
    return min(fixed, needed) + fraction * max(needed - fixed, 0)
