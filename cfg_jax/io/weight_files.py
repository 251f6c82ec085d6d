"""Which arrays are in a file of weights, and are they those that a network needs?

`.safetensors` is read with the library of that name, `.pt` and `.pth` with PyTorch, which is an
extra. Neither executes what a file says: PyTorch is asked for tensors only (`weights_only=True`),
and a pickle that wants anything else called is refused.

Arrays are mapped from the file where its format allows it, so they take memory once they are read.
"""

import hashlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

SUFFIXES = (".pt", ".pth", ".safetensors")

_NAMED = 3  # of each fault


def existing(path: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES) -> Path:
    """The path with its ~ replaced; ValueError where no file is there or its suffix is another."""
    path = Path(path).expanduser()
    if path.suffix not in suffixes:
        raise ValueError(f"{path}: files of weights end in {', '.join(suffixes)}")
    if not path.is_file():
        raise ValueError(f"{path} is not there, or no file: give one that has been downloaded")
    return path


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """{name: array} of a file, in its order; float32, or the narrower type of the file.

    Raises:
      ValueError: no such file, another suffix, PyTorch wanted and not installed, a file that is
        truncated or no file of weights, one that would execute code, or has entries other than
        arrays.
    """
    path = existing(path)
    if path.suffix != ".safetensors":
        return _read_torch(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError, AttributeError, TypeError) as error:
        raise _damaged(path, error) from error  # the last two: an unknown type of numbers


def serialised(arrays: Mapping[str, np.ndarray], **metadata: str) -> bytes:
    """The bytes of a .safetensors file.

    They are the same every time where `metadata` has one entry: several are written in an order
    that changes from run to run.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, metadata)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: type,
    remedy: str,
) -> None:
    """Refuses arrays that are not those of a network.

    Args:
      shapes: of all of its arrays, by name.
      dtype: np.float32, or jnp.floating for any floating type.
      remedy: end of the message.

    Raises:
      ValueError: a name is missing or unknown, a shape or type is another; says how many and which.
    """
    faults = {
        "missing": [name for name in shapes if name not in arrays],
        "unknown": [name for name in arrays if name not in shapes],
        "of another shape or type": [
            f"{name} is {array.dtype}{list(array.shape)}, not {dtype.__name__}{list(shapes[name])}"
            for name, array in arrays.items()
            if name in shapes
            and not (array.shape == shapes[name] and jnp.issubdtype(array.dtype, dtype))
        ],
    }
    if found := summary(faults):
        raise ValueError(f"of {len(shapes)} arrays, {found}: {remedy}")


def summary(faults: Mapping[str, Sequence[str]]) -> str:
    """The number of names with each fault and the first of them: "4 missing (a, b, c, ...)"."""
    return "; ".join(
        f"{len(names)} {fault} ({', '.join(names[:_NAMED])}{', ...' * (len(names) > _NAMED)})"
        for fault, names in faults.items()
        if names
    )


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path} is a file of PyTorch, which is not installed: pip install -e '.[torch]', or "
            "convert the file to .safetensors where PyTorch is"
        ) from error
    # Files from before PyTorch 1.6 are no archives, and cannot be mapped.
    archive = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"reading it would execute {called[1]}" if called else "it is no plain state dict"
        raise ValueError(
            f"{path} is refused, {why}: only tensors are read, and no code that comes with them"
        ) from error
    except Exception as error:  # a damaged file raises many types
        raise _damaged(path, error) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}: expected a state dict")
    for name, value in loaded.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{path}: its entry {name!r} is a {type(value).__name__}, not a tensor; expected "
                "a plain state dict"
            )
    # NumPy has no bfloat16.
    wide = {torch.bfloat16: torch.float32}
    return {
        str(name): value.detach().to(wide.get(value.dtype, value.dtype)).numpy()
        for name, value in loaded.items()
    }


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()).split(". ")[0][:200]
    return ValueError(
        f"{path} cannot be read as {path.suffix} ({type(error).__name__}: {reason}): truncated, "
        "damaged or another format; download it again"
    )
