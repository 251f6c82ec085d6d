"""Small trained models that are part of the package.

    model = cfg_jax.pretrained("digits")

A file holds float16 parameters, config, and description of the data; `pack` writes it.
"""

import json
import os
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cfg_jax.config.validate import from_json, to_json
from cfg_jax.core.arguments import text_of
from cfg_jax.io.files import save_npz
from cfg_jax.sampling.model import Model

NAMES = ("digits",)
"""Names of `pretrained`."""


def pretrained(name: str = "digits") -> Model:
    """A small trained model that needs no download and no training.

    "digits" draws handwritten digits, 8 x 8 pixels, in ten classes: configs/digits.py, trained on
    the UCI digits of scikit-learn (E. Alpaydin and C. Kaynak, CC BY 4.0).

    Raises ValueError for an unknown name.

    Examples:
      >>> cfg_jax.pretrained("digits")
      Model('digits', step=900, network=UNet, params=354209, shape=(8, 8, 1), num_classes=10)
    """
    if name not in NAMES:
        raise ValueError(
            f"name={text_of(name)}: choose one of {', '.join(NAMES)}; cfg_jax.load reads the "
            "folder of a run"
        )
    return unpack(Path(__file__).with_name(f"{name}.npz"), name)


def pack(path: str | os.PathLike[str], model: Model) -> None:
    """Writes a model as one file of float16 parameters, atomically."""
    described = {
        "config": to_json(model.config),
        "step": model.step,
        "shape": model.shape,
        "label_names": model.label_names,
        "class_counts": model.class_counts,
    }
    params = flatten_dict(model.params, sep="/")
    arrays = {name: np.asarray(array, np.float16) for name, array in params.items()}
    save_npz(Path(path), described=np.array(json.dumps(described)), **arrays)


def unpack(path: Path, run: str = "") -> Model:
    """The model of a file of `pack`, with float32 parameters."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    described = json.loads(str(arrays.pop("described")))
    config = from_json(described.pop("config"))
    params = {name: array.astype(np.float32) for name, array in arrays.items()}
    return Model(config, unflatten_dict(params, sep="/"), run=run, **described)
