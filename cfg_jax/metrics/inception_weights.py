"""From which files do the weights of the FID Inception network come?

    pt_inception-2015-12-05-6726825d.pth   of the pytorch-fid project, or torch-fidelity's: PyTorch
    classify_image_graph_def.pb            of TensorFlow's inception-2015-12-05.tgz: no TensorFlow
    *.safetensors                          of `store`: only this needs nothing beyond the package

All three give the same state dict. TensorFlow's kernels [h, w, in, out] become [out, in, h, w].
Files that could run code when opened are refused, and nothing is ever downloaded.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from cfg_jax.io.files import whole_file
from cfg_jax.metrics.inception import EPSILON, check_state_dict
from cfg_jax.metrics.inception_layers import BLOCKS, STEM, Conv

ORIGIN = (
    "get pt_inception-2015-12-05-6726825d.pth, which the pytorch-fid project publishes, or "
    "classify_image_graph_def.pb of TensorFlow's inception-2015-12-05.tgz, and convert it: "
    "python -m launch.import_inception --weights=FILE --out=FILE.safetensors"
)
_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def load_weights(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict in a file, as `inception.from_state_dict` takes it.

    Raises:
      ValueError: no such file, a damaged one, one that would run code, or another network's;
        PyTorch (`.pth`) or TensorBoard (`.pb`) is needed and not installed.
    """
    path = Path(path).expanduser()
    readers = {
        ".safetensors": _from_safetensors,
        ".pth": _from_torch,
        ".pt": _from_torch,
        ".pb": _from_graph,
    }
    if path.suffix == ".pkl":
        raise ValueError(f"{path} is a pickle, which runs code when it is opened: {ORIGIN}")
    if path.suffix not in readers:
        raise ValueError(f"{path}: need one of {', '.join(readers)}; {ORIGIN}")
    if not path.is_file():
        raise ValueError(f"{path} is not there: {ORIGIN}")
    state_dict = readers[path.suffix](path)
    try:
        check_state_dict(state_dict)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return {
        name: array
        for name, array in state_dict.items()
        if not name.endswith(".num_batches_tracked")
    }


def store(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> str:
    """Writes a state dict as safetensors, whole or not at all, and returns the file's SHA-256.

    The same weights give the same bytes, whichever file they were read from.

    Raises:
      ValueError: `path` does not end in .safetensors, or another network's weights.
      OSError: a path that cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: the file to write must end in .safetensors")
    content = _serialised(state_dict)
    with whole_file(path) as file:
        file.write(content)
    return sha256(path)


def sha256_of_weights(state_dict: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 that a file of `store` has with these weights, in hexadecimal.

    Raises:
      ValueError: another network's weights.
    """
    return hashlib.sha256(_serialised(state_dict)).hexdigest()


def _serialised(state_dict: Mapping[str, np.ndarray]) -> bytes:
    check_state_dict(state_dict)
    arrays = {
        name: np.ascontiguousarray(array)
        for name, array in state_dict.items()
        if not name.endswith(".num_batches_tracked")
    }
    # One entry: safetensors writes several in an order that changes from run to run.
    metadata = {"manifest": json.dumps({"network": "inception-2015-12-05", "kernels": "oihw"})}
    return safetensors.numpy.save(arrays, metadata)


def sha256(path: str | Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def graph_scopes() -> dict[str, str]:
    """Each convolution of the state dict, with its scope in TensorFlow's graph.

    A branch of one convolution alone is `conv` in the block's scope; the others are `tower`,
    `tower_1`, ... and count their convolutions; two side by side are in a scope `mixed` of theirs.
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


def _from_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}): {ORIGIN}") from error


def _from_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path} is PyTorch's: pip install -e '.[torch]' to convert it once, or give "
            "the .safetensors of python -m launch.import_inception"
        ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.detach().numpy() for name, tensor in loaded.items()}
    except Exception as error:  # torch names no common class for what a foreign file can do
        what = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path} is damaged, or holds more than tensors and would run code when opened "
            f"({type(error).__name__}: {what}): {ORIGIN}"
        ) from error


def _from_graph(path: Path) -> dict[str, np.ndarray]:
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.graph_pb2 import GraphDef
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ValueError(
            f"{path} is a TensorFlow graph: pip install tensorboard to convert it once (TensorFlow "
            "is not needed), or give the .safetensors of python -m launch.import_inception"
        ) from error
    try:
        graph = GraphDef.FromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path} is damaged or no TensorFlow graph ({error}): {ORIGIN}") from error
    nodes = {node.name: node for node in graph.node}
    scopes = graph_scopes()
    _check_nodes(path, nodes, scopes)

    def value(name: str) -> np.ndarray:
        return make_ndarray(nodes[name].attr["value"].tensor)

    state_dict = {"fc.weight": value("softmax/weights").T, "fc.bias": value("softmax/biases")}
    for name, scope in scopes.items():
        kernel = value(f"{scope}/conv2d_params")
        state_dict[f"{name}.conv.weight"] = np.moveaxis(kernel, (-1, -2), (0, 1))
        for part, node in _BATCH_NORM.items():
            state_dict[f"{name}.bn.{part}"] = value(f"{scope}/batchnorm/{node}")
    unscaled = _gammas_without_effect(path, graph)
    for name, scope in scopes.items():
        if f"{scope}/batchnorm/gamma" in unscaled:
            gamma = state_dict[f"{name}.bn.weight"]
            state_dict[f"{name}.bn.weight"] = np.ones_like(gamma)
    return state_dict


def _check_nodes(path: Path, nodes: Iterable[str], scopes: Mapping[str, str]) -> None:
    """Refuses a graph that lacks a constant or has more convolutions."""
    parts = ["conv2d_params", *(f"batchnorm/{node}" for node in _BATCH_NORM.values())]
    needed = [f"{scope}/{part}" for scope in scopes.values() for part in parts]
    needed += ["softmax/weights", "softmax/biases"]
    faults = {
        "missing": [name for name in needed if name not in nodes],
        "unknown": [n for n in nodes if n.endswith("/conv2d_params") and n not in needed],
    }
    found = [f"{len(names)} {fault}: {names[0]}" for fault, names in faults.items() if names]
    if found:
        raise ValueError(
            f"{path} is not the graph of the FID Inception network ({'; '.join(found)}): {ORIGIN}"
        )


def _gammas_without_effect(path: Path, graph: Any) -> set[str]:
    """The constants that a batch norm with `scale_after_normalization` off does not look at."""
    unscaled = set()
    for node in graph.node:
        if node.op == "BatchNormWithGlobalNormalization":
            epsilon = node.attr["variance_epsilon"].f
            if epsilon != np.float32(EPSILON):
                raise ValueError(
                    f"{path} is not the graph of the FID Inception network ({node.name} has "
                    f"epsilon {epsilon:g}, not {EPSILON:g}): {ORIGIN}"
                )
            if not node.attr["scale_after_normalization"].b:
                unscaled.update(name.split(":")[0] for name in node.input)
    return unscaled
