"""Files that hold the weights of the FID Inception network.

    pt_inception-2015-12-05-6726825d.pth   pytorch-fid or torch-fidelity
    classify_image_graph_def.pb            TensorFlow's inception-2015-12-05.tgz; needs TensorBoard
    *.safetensors                          written by `store`

All three give the same state dict. TensorFlow's kernels [h, w, in, out] become [out, in, h, w].
Files that could run code when opened are refused. Nothing is downloaded.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cfg_jax.io import weight_files
from cfg_jax.io.files import folder, whole_file
from cfg_jax.io.reading import UNREADABLE, most_bytes, read_bytes
from cfg_jax.io.text import one_line, shown
from cfg_jax.metrics.inception import EPSILON, checked
from cfg_jax.metrics.inception_layers import BLOCKS, STEM, Conv

ORIGIN = (
    "get pt_inception-2015-12-05-6726825d.pth, which the pytorch-fid project publishes, or "
    "classify_image_graph_def.pb of TensorFlow's inception-2015-12-05.tgz, and convert it: "
    "cfg-jax import_inception --weights=FILE --out=FILE.safetensors"
)
_DT_FLOAT = 1  # float32 among TensorFlow's types
_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def load_weights(path: str | Path) -> dict[str, np.ndarray]:
    """State dict of a file, for `inception.parameters`.

    Raises ValueError if the file is missing, damaged, would run code or holds a different network,
    or if TensorBoard (for `.pb`) is not installed.
    """
    try:
        path = weight_files.existing(path, (*weight_files.SUFFIXES, ".pb"))
        arrays = read_graph(path) if path.suffix == ".pb" else weight_files.read(path)
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


def read_graph(path: Path) -> dict[str, np.ndarray]:
    """State dict of a frozen TensorFlow graph, of any shapes; ValueError for another graph."""
    graph, size = _parsed(path)
    nodes, scopes = {node.name: node for node in graph.node}, graph_scopes()
    needed = _constants(scopes)
    faults = {
        "missing": [name for name in needed if name not in nodes],
        "unknown": [n for n in nodes if n.endswith("/conv2d_params") and n not in needed],
    }
    if found := weight_files.summary(faults):
        raise ValueError(f"{path} is not the graph of the FID Inception network: {found}")
    unscaled = _gammas_without_effect(path, graph)
    values, left = {}, most_bytes(size)
    for name, rank in needed.items():
        tensor = nodes[name].attr["value"].tensor
        shape = [dimension.size for dimension in tensor.tensor_shape.dim]
        # One value may stand for all of a tensor, so a small file can claim a large one.
        left -= 4 * math.prod(shape)
        try:
            if tensor.dtype != _DT_FLOAT:
                raise ValueError(f"has no values of float32, its type is {tensor.dtype}")
            if len(shape) != rank or min(shape) < 0 or left < 0:
                raise ValueError(f"claims the shape {shape[:5]}")
            values[name] = _float32(tensor, shape)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {name} {error}") from error
    state_dict = {"fc.weight": values["softmax/weights"].T, "fc.bias": values["softmax/biases"]}
    for name, scope in scopes.items():
        kernel = values[f"{scope}/conv2d_params"]
        state_dict[f"{name}.conv.weight"] = np.moveaxis(kernel, (-1, -2), (0, 1))
        for part, node in _BATCH_NORM.items():
            state_dict[f"{name}.bn.{part}"] = values[f"{scope}/batchnorm/{node}"]
        if f"{scope}/batchnorm/gamma" in unscaled:
            state_dict[f"{name}.bn.weight"] = np.ones_like(state_dict[f"{name}.bn.weight"])
    return state_dict


def _parsed(path: Path) -> tuple[Any, int]:
    """A GraphDef, and the size of its file."""
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.graph_pb2 import GraphDef
    except ImportError as error:
        raise ValueError(
            f"{path} is a TensorFlow graph: pip install tensorboard to convert it once (TensorFlow "
            "is not needed), or give a .safetensors from cfg-jax import_inception"
        ) from error
    try:
        content = read_bytes(path)
        return GraphDef.FromString(content), len(content)
    except (DecodeError, *UNREADABLE) as error:
        raise ValueError(
            f"{path} is damaged or not a TensorFlow graph ({one_line(error)})"
        ) from error


def _constants(scopes: Mapping[str, str]) -> dict[str, int]:
    """{name: rank} of the constants with weights."""
    ranks: dict[str, int] = {}
    for scope in scopes.values():
        ranks[f"{scope}/conv2d_params"] = 4
        ranks |= {f"{scope}/batchnorm/{node}": 1 for node in _BATCH_NORM.values()}
    return ranks | {"softmax/weights": 2, "softmax/biases": 1}


def _float32(tensor: Any, shape: Sequence[int]) -> np.ndarray:
    """The array of a TensorProto of float32; ValueError unless it has the numbers of its shape."""
    count, numbers = math.prod(shape), tensor.float_val
    if tensor.tensor_content and len(tensor.tensor_content) == 4 * count:
        return np.frombuffer(tensor.tensor_content, "<f4").copy().reshape(shape)
    if len(numbers) == 1:
        return np.full(shape, numbers[0], np.float32)
    if len(numbers) != count:
        raise ValueError(f"has not the {count} values of its shape")
    return np.fromiter(numbers, np.float32).reshape(shape)


def _gammas_without_effect(path: Path, graph: Any) -> set[str]:
    """Constants that batch norms ignore because `scale_after_normalization` is off."""
    unscaled: set[str] = set()
    for node in graph.node:
        if node.op == "BatchNormWithGlobalNormalization":
            epsilon = node.attr["variance_epsilon"].f
            if epsilon != np.float32(EPSILON):
                raise ValueError(
                    f"{path} is not the graph of the FID Inception network: {shown(node.name)} has "
                    f"epsilon {epsilon:g}, not {EPSILON:g}"
                )
            if not node.attr["scale_after_normalization"].b:
                unscaled.update(name.split(":")[0] for name in node.input)
    return unscaled
