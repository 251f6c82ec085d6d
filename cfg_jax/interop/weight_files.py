"""Which arrays are in a file of weights?

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
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_TORCH = (".pt", ".pth")
_SUFFIXES = (*_TORCH, ".safetensors")


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """{name: array} of a file, in its order; float32, or the narrower type of the file.

    Raises:
      ValueError: no such file, another suffix, PyTorch wanted and not installed, a file that is
        truncated or no file of weights, one that would execute code, or has entries other than
        arrays.
    """
    path = Path(path).expanduser()
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path}: files of weights end in {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"{path} is not there, or no file: give one that has been downloaded")
    return _read_torch(path) if path.suffix in _TORCH else _read_safetensors(path)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, AttributeError, TypeError) as error:  # two: types of numbers
        raise _damaged(path, error) from error


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
