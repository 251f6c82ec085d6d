"""Files that hold the weights of the FID Inception network.

    pt_inception-2015-12-05-6726825d.pth   pytorch-fid or torch-fidelity; needs PyTorch
    classify_image_graph_def.pb            TensorFlow's inception-2015-12-05.tgz; needs TensorBoard
    *.safetensors                          written by `store`; needs no other package

All three give the same state dict. TensorFlow's kernels [h, w, in, out] become [out, in, h, w].
Files that could run code when opened are refused. Nothing is downloaded.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cfg_jax.io import weight_files
from cfg_jax.io.files import folder, whole_file
from cfg_jax.metrics.inception import EPSILON, checked
from cfg_jax.metrics.inception_layers import BLOCKS, STEM, Conv

ORIGIN = (
    "get pt_inception-2015-12-05-6726825d.pth, which the pytorch-fid project publishes, or "
    "classify_image_graph_def.pb of TensorFlow's inception-2015-12-05.tgz, and convert it: "
    "cfg-jax import_inception --weights=FILE --out=FILE.safetensors"
)
_LARGEST = 2**23  # more numbers than any array of the network has
_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def load_weights(path: str | Path) -> dict[str, np.ndarray]:
    """State dict of a file, for `inception.parameters`.

    Raises ValueError if the file is missing, damaged, would run code or holds a different network,
    or if PyTorch (for `.pth`) or TensorBoard (for `.pb`) is not installed.
    """
    try:
        path = weight_files.existing(path, (*weight_files.SUFFIXES, ".pb"))
        arrays = _read_graph(path) if path.suffix == ".pb" else weight_files.read(path)
    except ValueError as error:
        raise ValueError(f"{error}; {ORIGIN}") from error
    try:
        return checked(arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def store(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> str:
    """Writes a state dict as safetensors, atomically; returns the SHA-256 of the file.

    The same weights give the same bytes, independent of the file they were read from. Raises
    ValueError if the suffix or the network is wrong, and OSError if `path` is not writable.
    """
    path = check_suffix(path)
    content = _serialised(state_dict)
    with whole_file(path) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def check_suffix(path: str | Path) -> Path:
    """The path, with ~ expanded; ValueError unless it ends in .safetensors."""
    path = folder(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: the file to write must end in .safetensors")
    return path


def sha256_of_weights(state_dict: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the file that `store` writes; raises ValueError as `inception.checked`."""
    return hashlib.sha256(_serialised(state_dict)).hexdigest()


def _serialised(state_dict: Mapping[str, np.ndarray]) -> bytes:
    manifest = json.dumps({"network": "inception-2015-12-05", "kernels": "oihw"})
    return weight_files.serialised(checked(state_dict), manifest=manifest)


def graph_scopes() -> dict[str, str]:
    """Scope in TensorFlow's graph of each convolution of the state dict.

    A branch of a single convolution is `conv` in the block's scope. Longer branches are `tower`,
    `tower_1`, ... with numbered convolutions; parallel convolutions share a scope `mixed`.
    """
    scopes = _scopes_of_branch("", "", STEM)
    for number, (block, branches) in enumerate(BLOCKS.items()):
        towers = 0
        for branch in branches:
            prefix = f"{_numbered('mixed', number)}/"
            if len(branch) > 1:
                prefix += f"{_numbered('tower', towers)}/"
                towers += 1
            scopes |= _scopes_of_branch(f"{block}.", prefix, branch)
    return scopes


def _scopes_of_branch(block: str, prefix: str, steps: tuple) -> dict[str, str]:
    scopes, count = {}, 0
    for step in steps:
        if isinstance(step, Conv):
            scopes[block + step.name] = prefix + _numbered("conv", count)
            count += 1
        elif isinstance(step, tuple):
            for i, conv in enumerate(step):
                scopes[block + conv.name] = f"{prefix}mixed/{_numbered('conv', i)}"
    return scopes


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def _read_graph(path: Path) -> dict[str, np.ndarray]:
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.graph_pb2 import GraphDef
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ValueError(
            f"{path} is a TensorFlow graph: pip install tensorboard to convert it once (TensorFlow "
            "is not needed), or give a .safetensors from cfg-jax import_inception"
        ) from error
    try:
        graph = GraphDef.FromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path} is damaged or not a TensorFlow graph ({error})") from error
    nodes = {node.name: node for node in graph.node}
    scopes = graph_scopes()
    _check_nodes(path, nodes, scopes)

    def value(name: str) -> np.ndarray:
        tensor = nodes[name].attr["value"].tensor
        shape = [dimension.size for dimension in tensor.tensor_shape.dim]
        # One value may stand for all of a tensor, so a small file can claim a large one.
        if math.prod(shape) > _LARGEST or min(shape, default=0) < 0:
            raise ValueError(f"{path} is damaged: {name} claims the shape {shape}")
        try:
            return make_ndarray(tensor)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {name} has no values ({error})") from error

    unscaled = _gammas_without_effect(path, graph)
    state_dict = {"fc.weight": value("softmax/weights").T, "fc.bias": value("softmax/biases")}
    for name, scope in scopes.items():
        kernel = value(f"{scope}/conv2d_params")
        state_dict[f"{name}.conv.weight"] = np.moveaxis(kernel, (-1, -2), (0, 1))
        for part, node in _BATCH_NORM.items():
            state_dict[f"{name}.bn.{part}"] = value(f"{scope}/batchnorm/{node}")
        if f"{scope}/batchnorm/gamma" in unscaled:
            state_dict[f"{name}.bn.weight"] = np.ones_like(state_dict[f"{name}.bn.weight"])
    return state_dict


def _check_nodes(path: Path, nodes: Iterable[str], scopes: Mapping[str, str]) -> None:
    """Refuses a graph with missing constants or additional convolutions."""
    parts = ["conv2d_params", *(f"batchnorm/{node}" for node in _BATCH_NORM.values())]
    needed = [f"{scope}/{part}" for scope in scopes.values() for part in parts]
    needed += ["softmax/weights", "softmax/biases"]
    faults = {
        "missing": [name for name in needed if name not in nodes],
        "unknown": [n for n in nodes if n.endswith("/conv2d_params") and n not in needed],
    }
    if found := weight_files.summary(faults):
        raise ValueError(f"{path} is not the graph of the FID Inception network: {found}")


def _gammas_without_effect(path: Path, graph: Any) -> set[str]:
    """Constants that batch norms ignore because `scale_after_normalization` is off."""
    unscaled: set[str] = set()
    for node in graph.node:
        if node.op == "BatchNormWithGlobalNormalization":
            epsilon = node.attr["variance_epsilon"].f
            if epsilon != np.float32(EPSILON):
                raise ValueError(
                    f"{path} is not the graph of the FID Inception network: {node.name} has "
                    f"epsilon {epsilon:g}, not {EPSILON:g}"
                )
            if not node.attr["scale_after_normalization"].b:
                unscaled.update(name.split(":")[0] for name in node.input)
    return unscaled
