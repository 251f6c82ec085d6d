"""Imports a checkpoint that OpenAI published with ADM as a run's folder.

    cfg-jax import_openai --checkpoint=64x64_diffusion.pt --name=64x64_diffusion \\
        --workdir=runs/adm64

`cfg-jax sample` and `cfg_jax.load` then take --workdir. Reading .pt needs
`pip install -e '.[torch]'`; .safetensors does not.
"""

from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from cfg_jax.config.validate import to_json
from cfg_jax.data import label_names
from cfg_jax.interop import openai, run_folder
from cfg_jax.io import weight_files
from configs import base

from .program import run

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "File to import: .pt, .pth or .safetensors.", required=True
)
_NAME = flags.DEFINE_string("name", None, "Published name, such as 64x64_diffusion.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "New folder of the run to write.", required=True)


def run_config(name: str) -> ConfigDict:
    """configs/base.py with the settings of a published checkpoint."""
    config, settings = base.get_config(), openai.settings(name)
    if settings["network"] == "classifier":
        del config.model.label_input
    config.update_from_flattened_dict(settings)
    return config


def import_checkpoint(checkpoint: str, name: str, workdir: str) -> int:
    """Writes the run's folder and returns its number of parameters.

    Raises ValueError if the name is unknown, the file holds a different checkpoint or the workdir
    is in use, and OSError if writing fails. Neither leaves anything on disk.
    """
    run_folder.check_free(workdir)
    network = openai.load(checkpoint, name)
    config = run_config(name)
    origin = {
        "dataset": config.data.name,
        "published": name,
        "file": Path(checkpoint).name,
        "sha256": weight_files.sha256(checkpoint),
    }
    data = {
        "shape": list(network.shape),
        "label_names": list(label_names(config.data.name)),
        "fingerprint": origin,
    }
    run_folder.write(workdir, network.params, config=to_json(config), meta={"data": data})
    return sum(leaf.size for leaf in jax.tree.leaves(network.params))


def main(argv: list[str]) -> None:
    del argv
    count = import_checkpoint(_CHECKPOINT.value, _NAME.value, _WORKDIR.value)
    print(f"{_WORKDIR.value}: {_NAME.value}, {count:,} parameters")


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    flags.FLAGS.set_default("compilation_cache", "off")
    run(main)
