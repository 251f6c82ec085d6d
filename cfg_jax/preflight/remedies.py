"""What would make a program fit its devices?

`find` returns the mildest change of each kind: a sharded state, remat (recomputing block
activations), more microbatches, fewer examples per device. Remat and microbatches are combined if
neither is enough alone. An estimate skips hopeless changes:

    memory(fraction) ~ fixed + fraction (memory - fixed),   fixed = state and gradients

Every reported remedy was compiled; the estimate is never reported.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from cfg_jax.preflight.verdict import Compiled

# Changes with an estimate above this multiple of the memory are not compiled.
_HOPELESS = 1.15
# EMA and Adam's two moments, which a sharded state divides among the devices.
_DIVIDED = 3


class Remedy(NamedTuple):
    """Changes to a config, {"section.field": value}, and the program compiled with them."""

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
    """The mildest change of each kind that makes a program fit; empty if none does.

    `config` and `compiled` describe the "train" or "sample" program that does not fit. The batch is
    divided among num_devices, each with usable_bytes for a program. `attempt` compiles the program
    with the given changes.
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
    if num_devices > 1 and not config.train.shard_state:
        sharded = {"train.shard_state": True}
        if compiled.total_bytes - _DIVIDED * compiled.gradient_bytes <= limit:
            remedy = Remedy(sharded, attempt(sharded))
            found = [remedy, *found] if remedy.compiled.fits(usable_bytes) else found
    return found + fewer


def _estimate(compiled: Compiled, fraction: float) -> float:
    """Estimated bytes when `fraction` of the examples are computed at a time."""
    # Gradients and parameters are of equal size, and so are EMA and moments that are not divided.
    trees = 2 if compiled.scattered_bytes else 2 + _DIVIDED
    fixed = min(trees * compiled.gradient_bytes, compiled.total_bytes)
    return fixed + fraction * (compiled.total_bytes - fixed)
