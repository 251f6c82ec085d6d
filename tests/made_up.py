"""Weights derived from their names, as in the golden files of networks."""

import json
import math
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"


def weights(shapes):
    """{name: float32 array} of {name: shape}: unit gain for kernels, norms near the identity."""
    return {name: _weight(name, tuple(shape)) for name, shape in shapes.items()}


def _weight(name, shape):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    normal = rng.standard_normal(shape).astype(np.float32)
    if len(shape) >= 2:
        return normal / np.float32(math.sqrt(math.prod(shape[1:])))
    return np.float32(name.endswith("weight")) + np.float32(0.1) * normal


def golden_network(name):
    """(kind, config, {name: shape}, arrays) of a golden file, with NHWC images."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    kind = {"sr": "superres"}.get(str(arrays.pop("kind")), name.split("_")[0])
    config, shapes = (json.loads(str(arrays.pop(key))) for key in ("config", "keys"))
    for key in [key for key in arrays if key.endswith("_nchw")]:
        images = arrays.pop(key)
        arrays[key[:-5]] = images.transpose(0, 2, 3, 1) if images.ndim == 4 else images
    return kind, config, {key: tuple(shape) for key, shape in shapes.items()}, arrays
