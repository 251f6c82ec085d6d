"""Writing of a network with its parameters as the folder of a run.

    <workdir>/checkpoints/STEP     read by `cfg_jax.load` and `cfg-jax sample`

Without optimizer state the run can be sampled from but not trained further.
"""

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from cfg_jax.io.files import check_writable, folder
from cfg_jax.storage import manifest


def check_free(workdir: str | os.PathLike[str]) -> Path:
    """The checkpoint folder of `workdir`; raises ValueError if not writable or in use."""
    check_writable(workdir, "workdir", "give a new folder, such as runs/new")
    place = folder(workdir) / manifest.FOLDER
    check_writable(place, "workdir", "give a new folder")
    steps = sorted(step.name for step in place.iterdir()) if place.exists() else []
    if any(step.isdecimal() for step in steps):
        raise ValueError(f"workdir={workdir} holds checkpoints ({', '.join(steps)}): give another")
    return place


def write(
    workdir: str | os.PathLike[str],
    params: Any,
    *,
    config: Mapping[str, Any],
    meta: Mapping[str, Any],
    step: int = 0,
) -> None:
    """Writes a checkpoint with EMA parameters `params`, completely or not at all.

    `config` and `meta` are JSON values, as `cfg_jax.load` reads them; step is 0 for weight files,
    which do not record it. Raises ValueError as `check_free`, and OSError if writing fails.
    """
    from etils import epath

    from cfg_jax.storage.checkpoint import Checkpoints

    checkpoint_folder = check_free(workdir)
    new = [place for place in (checkpoint_folder, *checkpoint_folder.parents) if not place.exists()]
    try:
        with Checkpoints(checkpoint_folder) as checkpoints:
            state = {"step": jnp.int32(step)}
            checkpoints.save(step, state, params, config=config, meta=meta, loss=math.nan)
    except BaseException:
        for place in new[-1:]:
            with contextlib.suppress(OSError):
                epath.Path(place).rmtree(missing_ok=True)
        raise
