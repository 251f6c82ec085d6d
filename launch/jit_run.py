"""Config and folder of a run with imported JiT weights."""

import math
from pathlib import Path

from ml_collections import ConfigDict

from cfg_jax.config import fields
from cfg_jax.config.validate import to_json, validate
from cfg_jax.data import label_names
from cfg_jax.interop import jit
from cfg_jax.interop.jit_configs import SAMPLING_STEPS
from cfg_jax.io import weight_files
from cfg_jax.sampling import run_folder
from configs import base


def run_config(name: str) -> ConfigDict:
    """configs/base.py with the settings of a published name."""
    config = base.get_config()
    config.model = fields.transformer()
    config.update_from_flattened_dict(jit.settings(name))
    return config


def import_checkpoint(checkpoint: str, name: str, workdir: str, weights: str | None = None) -> int:
    """Writes the run's folder and returns its number of parameters.

    Arguments as for `jit.load`. Raises ValueError as `jit.load` and if the workdir is in use, and
    OSError if writing fails. Neither leaves anything on disk.
    """
    run_folder.check_free(workdir)
    config = run_config(name)
    validate(config, num_devices=1)
    network, chosen = jit.load(checkpoint, name, weights)
    origin = {
        "dataset": config.data.name,
        "published": name,
        "weights": chosen,
        "file": Path(checkpoint).name,
        "sha256": weight_files.sha256(checkpoint),
    }
    data = {
        "shape": list(network.shape),
        "label_names": list(label_names(config.data.name)),
        "fingerprint": origin,
    }
    run_folder.write(workdir, network.params, config=to_json(config), meta={"data": data})
    return sum(math.prod(shape) for shape in jit.shapes(network).values())


def sampling(name: str, workdir: str) -> str:
    """Two lines on the samples of an imported run: its defaults, and the published command."""
    calls, w = 2 * SAMPLING_STEPS - 1, jit.PUBLISHED_W[name]
    return (
        f"samples with {SAMPLING_STEPS} Heun steps in time ({calls} calls), guided for t > 0.1, "
        "no clipping; --solver, --num_steps, --grid and --interval choose others\n"
        f"published with w={w}: cfg-jax sample --workdir={workdir} --w={w} --labels=0,207,979"
    )
