"""How does an imported network become a run's folder?

    <workdir>/checkpoints/0     what `cfg_jax.load` and `launch.sample` read

Step 0: a file of weights does not say after how many steps it was written. There is no optimizer
state, so such a run can be sampled from and not be trained on.
"""

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from cfg_jax.io.files import check_writable


def check_free(workdir: str | os.PathLike[str]) -> Path:
    """The folder of checkpoints in `workdir`; ValueError where one cannot be put there or is."""
    check_writable(workdir, "--workdir", "give a new folder, such as runs/imported")
    folder = Path(workdir).expanduser() / "checkpoints"
    check_writable(folder, "--workdir", "give a new folder")
    steps = sorted(step.name for step in folder.iterdir()) if folder.exists() else []
    if any(step.isdecimal() for step in steps):
        raise ValueError(
            f"--workdir={workdir} holds checkpoints ({', '.join(steps)}): give another"
        )
    return folder


def write(
    workdir: str | os.PathLike[str],
    params: Any,
    *,
    config: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> None:
    """Writes a checkpoint whose averaged parameters are `params`; all of it or nothing.

    Args:
      config, meta: JSON values, as `cfg_jax.load` reads them.

    Raises:
      ValueError: as `check_free`.
      OSError: the folder cannot be written, or not all of it.
    """
    from cfg_jax.storage.checkpoint import Checkpoints

    folder = check_free(workdir)
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with Checkpoints(folder) as checkpoints:
            state = {"step": jnp.int32(0)}
            checkpoints.save(0, state, params, config=config, meta=meta, loss=math.nan)
    except BaseException:
        for place in new[-1:]:
            shutil.rmtree(place, ignore_errors=True)
        raise
