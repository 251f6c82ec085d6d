"""Weight files: reading `.safetensors`, `.pt` and `.pth`, and checking arrays against a network.

PyTorch, an extra, reads `.pt` and `.pth`. It loads only tensors (`weights_only=True`), so no code
in a file is executed. Arrays are memory-mapped if the format allows it, and take memory once read.
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

_NAMED = 3  # names per fault


def existing(path: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES) -> Path:
    """The path with ~ expanded; raises ValueError if the file is missing or its suffix wrong."""
    path = Path(path).expanduser()
    if path.suffix not in suffixes:
        raise ValueError(f"{path}: weight files end in {', '.join(suffixes)}")
    if not path.is_file():
        raise ValueError(f"{path} is not there or not a file: give a downloaded file")
    return path


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads {name: array} in the order of the file, in float32 or a narrower type of the file.

    Raises ValueError if the file is missing, has a different suffix or format, is truncated, or
    holds code or entries other than arrays, or if PyTorch is needed and not installed.
    """
    path = existing(path)
    if path.suffix != ".safetensors":
        return _read_torch(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError, AttributeError, TypeError) as error:
        raise _damaged(path, error) from error  # the last two mean an unknown dtype


def serialised(arrays: Mapping[str, np.ndarray], **metadata: str) -> bytes:
    """The bytes of a .safetensors file, reproducible for at most one `metadata` entry."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, metadata)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the bytes of a file, in hexadecimal."""
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: type,
    remedy: str,
) -> None:
    """Raises ValueError unless the arrays have the names, shapes and dtype of a network.

    Args:
      shapes: shapes of all arrays of the network, by name.
      dtype: np.float32, or jnp.floating for any floating type.
      remedy: end of the message, after the number and names of the faults.
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
    """Counts and first names for each fault: "4 missing (a, b, c, ...)"."""
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
            f"{path} needs PyTorch: pip install -e '.[torch]', or convert it to .safetensors"
        ) from error
    # Files from before PyTorch 1.6 are not archives and cannot be mapped.
    archive = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"reading it would execute {called[1]}" if called else "it is not a plain state dict"
        raise ValueError(
            f"{path} is rejected, {why}: give a file of tensors with no code"
        ) from error
    except Exception as error:  # a damaged file raises many types
        raise _damaged(path, error) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}: expected a state dict")
    for name, value in loaded.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor; expected "
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
