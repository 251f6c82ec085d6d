"""What would make a program fit its devices?

Three remedies are tried, each as mildly as possible: recomputing block activations (remat), more
microbatches, fewer examples on a device; the first two together where neither is enough. An
estimate skips what is hopeless:

    memory(fraction) ~ fixed + fraction (memory - fixed),   fixed = state and gradients

The estimate is never reported: every remedy that is reported was compiled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from cfg_jax.preflight.verdict import Compiled

# Estimates above this multiple of the memory are not compiled.
_HOPELESS = 1.15


class Remedy(NamedTuple):
    """Changes of a config, {"section.field": value}, and the program compiled with them."""

    changes: dict[str, Any]
    compiled: Compiled


def find(
    config: Any,
    compiled: Compiled,
    *,
    num_devices: int,
    usable_bytes: int,
    program: str,
    attempt: Callable[[dict[str, Any]], Compiled],
) -> list[Remedy]:
    """The mildest change of each kind that makes a program fit; empty where none does.

    Args:
      config: the config of the program, which does not fit.
      compiled: findings about that program.
      num_devices: number of devices that share the batch.
      usable_bytes: memory that a program can have on each.
      program: "train" or "sample".
      attempt: changes -> the program compiled with them.
    """
    batch_size = config.train.batch_size
    parts = config.train.num_microbatches if program == "train" else 1
    at_a_time = batch_size // num_devices // parts
    divisors = [by for by in range(2, at_a_time + 1) if at_a_time % by == 0]
    limit = _HOPELESS * usable_bytes

    def mildest(known: Compiled, changes_of: Callable[[int], dict[str, Any]]) -> list[Remedy]:
        for by in divisors:
            if _estimate(known, 1 / by) <= limit:
                remedy = Remedy(changes_of(by), attempt(changes_of(by)))
                if remedy.compiled.fits(usable_bytes):
                    return [remedy]
        return []

    fewer = mildest(compiled, lambda by: {"train.batch_size": batch_size // by})
    if program != "train":
        return fewer

    def more(by: int) -> dict[str, Any]:
        return {"train.num_microbatches": parts * by}

    found = mildest(compiled, more)
    if config.model.get("remat") is False and _estimate(compiled, 0.0) <= limit:
        remat = {"model.remat": True}
        remedy = Remedy(remat, attempt(remat))
        if remedy.compiled.fits(usable_bytes):
            found = [remedy, *found]
        elif not found:
            found = mildest(remedy.compiled, lambda by: remat | more(by))
    return found + fewer


def _estimate(compiled: Compiled, fraction: float) -> float:
    """Bytes if only `fraction` of the examples are computed at a time."""
    # Parameters, their average and Adam's two moments are of the gradients' size.
    fixed = min(5 * compiled.gradient_bytes, compiled.total_bytes)
    return fixed + fraction * (compiled.total_bytes - fixed)
