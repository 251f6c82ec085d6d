"""Imports a checkpoint of OpenAI's ADM, or one trained with its program, as a run's folder.

    cfg-jax import_openai --checkpoint=64x64_diffusion.pt --name=64x64_diffusion \\
        --workdir=runs/adm64
    cfg-jax import_openai --checkpoint=ema_0.9999_100000.pt --config=flags.json --workdir=runs/own

--config has the flags that guided-diffusion's training program was given, as JSON, with
num_classes and label_names of the data; docs/adm.md has an example.
`cfg-jax sample` and `cfg_jax.load` then take --workdir. PyTorch is not needed.
"""

from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from cfg_jax.config.validate import to_json, validate
from cfg_jax.data import label_names
from cfg_jax.interop import openai, openai_flags
from cfg_jax.interop.openai_flags import OwnNetwork
from cfg_jax.io import weight_files
from cfg_jax.sampling import run_folder
from configs import base

from .program import run

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "File to import, .pt, .pth or .safetensors; required.", required=True
)
_NAME = flags.DEFINE_string(
    "name", None, "Published name, such as 64x64_diffusion; one of --name and --config is required."
)
_CONFIG = flags.DEFINE_string(
    "config", None, "JSON file of a network trained on other data, in place of --name."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "New folder of the run to write; required.", required=True
)


def run_config(network: str | OwnNetwork) -> ConfigDict:
    """configs/base.py with the settings of a published name, or of a network of one's own."""
    if isinstance(network, str):
        settings = openai.settings(network)
    else:
        settings = openai.settings(network.preset)
        settings |= {"data.name": network.dataset, "data.data_dir": network.data_dir}
    config = base.get_config()
    if settings["network"] == "classifier":
        del config.model.label_input
    config.update_from_flattened_dict(settings)
    return config


def import_checkpoint(checkpoint: str, of: str | OwnNetwork, workdir: str) -> int:
    """Writes the run's folder and returns its number of parameters.

    `of` is a published name, or a network of one's own from `openai_flags`. Raises ValueError if
    the name is unknown, the file holds a different checkpoint or the workdir is in use, and OSError
    if writing fails. Neither leaves anything on disk.
    """
    run_folder.check_free(workdir)
    published = isinstance(of, str)
    config = run_config(of)
    validate(config, num_devices=1)
    network = openai.load(checkpoint, of if published else of.preset)
    origin = {
        "dataset": config.data.name,
        **({"published": of} if published else {"network": list(of.preset)}),
        "file": Path(checkpoint).name,
        "sha256": weight_files.sha256(checkpoint),
    }
    data = {
        "shape": list(network.shape),
        "label_names": list(label_names(config.data.name) if published else of.label_names),
        "fingerprint": origin,
    }
    run_folder.write(workdir, network.params, config=to_json(config), meta={"data": data})
    return sum(leaf.size for leaf in jax.tree.leaves(network.params))


def check() -> None:
    """Raises ValueError unless one of --name and --config is given."""
    if bool(_NAME.value) == bool(_CONFIG.value):
        raise ValueError(
            f"--name={_NAME.value or ''} --config={_CONFIG.value or ''}: give one of them"
        )


def main(argv: list[str]) -> None:
    del argv
    of = _NAME.value or openai_flags.read(_CONFIG.value)
    print(f"reading {_CHECKPOINT.value}", flush=True)
    count = import_checkpoint(_CHECKPOINT.value, of, _WORKDIR.value)
    print(f"{_WORKDIR.value}: {_NAME.value or _CONFIG.value}, {count:,} parameters")


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    flags.FLAGS.set_default("compilation_cache", "off")
    run(main, check=check)
