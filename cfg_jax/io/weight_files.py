"""Weight files: reading `.safetensors`, `.pt` and `.pth`, and checking arrays against a network.

`.pt` and `.pth` need no PyTorch, and no code in a file is executed. Their arrays are memory-mapped
if the format allows it, and take memory once read.

Training programs wrap a state dict: {"ema": ..., "model": ..., "step": ...}, {"state_dict": ...},
names that all start with "module.". `read` unwraps it, averaged weights first, and prints a line.
`read_set` reads one of several sets of weights that a program writes side by side.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from cfg_jax.io import torch_files
from cfg_jax.io.files import local
from cfg_jax.io.reading import opened, parse_json
from cfg_jax.io.text import one_line, shown
from cfg_jax.io.torch_tensors import Tensor
from cfg_jax.io.unpickle import Rejected

SUFFIXES = (".pt", ".pth", ".safetensors")

_NAMED = 3  # names per fault
_MOST_SHOWN = 200  # characters of a name

_FLOAT8 = {
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E4M3FNUZ": jnp.float8_e4m3fnuz,
    "F8_E5M2": jnp.float8_e5m2,
    "F8_E5M2FNUZ": jnp.float8_e5m2fnuz,
    "F8_E8M0": jnp.float8_e8m0fnu,
}
_NOT_IN_NUMPY = ("F4", "F6_E2M3", "F6_E3M2")

# Names of a state dict inside a checkpoint; the first that is there is taken.
_WRAPPERS = (
    *("ema", "ema_state_dict", "model_ema", "ema_model"),
    *("state_dict", "model_state_dict", "model", "module", "net"),
)
_MOST_WRAPPERS = 10
_PREFIXES = ("module.", "_orig_mod.", "model.")


def existing(path: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES) -> Path:
    """The path with ~ expanded; ValueError for a wrong suffix, and for no file that is readable."""
    path = local(path)
    if path.suffix not in suffixes:
        raise ValueError(f"{path}: weight files end in {', '.join(suffixes)}")
    if not path.is_file():
        raise ValueError(f"{path} is not there or not a file: give a downloaded file")
    if not os.access(path, os.R_OK):  # safetensors calls that a missing file
        raise ValueError(f"{path} cannot be read (no permission): change that, or give another")
    return path


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads {name: array} in the order of the file, in float32 or a narrower type of the file.

    Prints a line if the names had a common prefix or the state dict lay in another dict.

    Raises ValueError if the file is missing, has a different suffix or format, is truncated, or
    holds code or entries other than arrays.
    """
    return read_set(path, {}, "")[0]


def read_set(
    path: str | os.PathLike[str], sets: Mapping[str, str], which: str
) -> tuple[dict[str, np.ndarray], bool]:
    """(arrays, whether they are the set `which`), of a file with several sets of weights.

    A file with none of the sets is read as by `read`.

    Args:
      sets: {name: name in a file}: of a state dict in .pt and .pth, and of what precedes a dot in
        all names of the set in .safetensors. Only the arrays of `which` are read.
      which: a key of `sets`.

    Raises ValueError if the file has others of the sets only, and as `read`.
    """
    path = existing(path)
    if path.suffix == ".safetensors":
        arrays, place = _read_safe(path, sets, which)
    else:
        arrays, place = _read_torch(path, sets, which)
    arrays, prefix = without_prefix(arrays)
    if place.text or prefix:
        parts = [f"the state dict in {place.text}"] * bool(place.text)
        parts += [f"names without {shown(prefix)}"] * bool(prefix)
        print(f"{path}: {', '.join(parts)}", flush=True)
    return arrays, place.chosen


def without_prefix(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """(arrays, prefix): the prefix that training programs gave to all names, taken off them."""
    arrays, prefix = dict(arrays), ""
    while found := [p for p in _PREFIXES if arrays and all(name.startswith(p) for name in arrays)]:
        arrays = {name.removeprefix(found[0]): array for name, array in arrays.items()}
        prefix += found[0]
    return arrays, prefix


class _Place(NamedTuple):
    """Where a state dict lies in its file: as text, "" for the top; whether as a chosen set."""

    text: str = ""
    chosen: bool = False


def _chosen(sets: Mapping[str, str], which: str, has: Callable[[str], bool]) -> str:
    """The name in the file of the set `which`; "" if the file has none of the sets."""
    found = [name for name in sets if has(sets[name])]
    if found and which not in found:
        raise torch_files.Unfit(
            f"weights {which} ({sets[which]}) are not in it: choose {' or '.join(found)}"
        )
    return sets[which] if found else ""


def _read_safe(
    path: Path, sets: Mapping[str, str], which: str
) -> tuple[dict[str, np.ndarray], _Place]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            wanted = _chosen(
                sets, which, lambda inner: any(name.startswith(f"{inner}.") for name in names)
            )
            prefix = wanted and f"{wanted}."
            names = [name for name in names if name.startswith(prefix)]
            kinds = {name: file.get_slice(name).get_dtype() for name in names}
            if odd := [name for name in kinds if kinds[name] in _NOT_IN_NUMPY]:
                raise torch_files.Unfit(
                    f"entry {shown(odd[0])} is {kinds[odd[0]]}, which NumPy cannot hold: save "
                    "arrays of 8 bits or more"
                )
            arrays = {
                name.removeprefix(prefix): _float8(path, name, kind)
                if kind in _FLOAT8
                else file.get_tensor(name)
                for name, kind in kinds.items()
            }
            return arrays, _Place(shown(prefix) if prefix else "", bool(prefix))
    except torch_files.Unfit as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file raises many types
        raise _damaged(path, error) from error


def _float8(path: Path, name: str, kind: str) -> np.ndarray:
    """An array of a file that `safe_open` accepts, in float32; it reads no float8 itself."""
    with opened(path) as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        described = parse_json(file.read(start - 8).decode())[name]
        first, last = described["data_offsets"]
        file.seek(start + first)
        array = np.frombuffer(file.read(last - first), _FLOAT8[kind])
    return array.reshape(described["shape"]).astype(np.float32)


def serialised(arrays: Mapping[str, np.ndarray], **metadata: str) -> bytes:
    """The bytes of a .safetensors file, reproducible for at most one `metadata` entry."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, metadata)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the bytes of a file, in hexadecimal."""
    with local(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: type,
    remedy: str,
) -> None:
    """Raises ValueError unless the arrays have the names, shapes and dtype of a network.

    NaN and infinite numbers are refused too: weights of a diverged run, or too large for float16.

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
    faults = {"with nan or inf": [n for n, a in arrays.items() if not np.isfinite(a).all()]}
    if found := summary(faults):
        raise ValueError(f"of {len(shapes)} arrays, {found}: give another checkpoint of the run")


def summary(faults: Mapping[str, Sequence[str]]) -> str:
    """Counts and first names for each fault: "4 missing (a, b, c, ...)"."""
    return "; ".join(
        f"{len(names)} {fault} ({_some(names)})" for fault, names in faults.items() if names
    )


def _some(names: Sequence[str]) -> str:
    """The first names, of which a file may have any."""
    parts = [one_line(name)[:_MOST_SHOWN] for name in names[:_NAMED]]
    return ", ".join(parts + ["..."] * (len(names) > _NAMED))


def _read_torch(
    path: Path, sets: Mapping[str, str], which: str
) -> tuple[dict[str, np.ndarray], _Place]:
    place = _Place()
    try:
        with opened(path) as file:
            loaded = torch_files.TorchFile(file)
        state_dict, place = _unwrapped(loaded.content, sets, which)
        if isinstance(state_dict, dict):
            return loaded.arrays(state_dict), place
    except Rejected as error:
        raise ValueError(
            f"{path} is rejected, {error}: give a file of tensors with no code"
        ) from error
    except torch_files.Unfit as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file raises many types
        raise _damaged(path, error) from error
    kind = torch_files.kind(state_dict)
    text = place.text and f" in {place.text}"
    raise ValueError(f"{path} holds a {kind}{text}: expected a state dict")


def _unwrapped(loaded: object, sets: Mapping[str, str], which: str) -> tuple[object, _Place]:
    """(state dict, its place): the set `which`, if there are sets.

    Otherwise follows _WRAPPERS through dicts that are not state dicts themselves.
    """
    if name := _chosen(sets, which, lambda name: name in _inner(loaded)):
        return _inner(loaded)[name], _Place(_beside(loaded, name), chosen=True)
    text = ""
    for _ in range(_MOST_WRAPPERS):
        inner = _inner(loaded)
        found = [name for name in _WRAPPERS if name in inner]
        if not found:
            break
        text += _beside(loaded, found[0])
        loaded = inner[found[0]]
    return loaded, _Place(text)


def _inner(loaded: object) -> dict[Any, Any]:
    """The dicts in a dict that is not a state dict."""
    if not isinstance(loaded, dict) or any(isinstance(v, Tensor) for v in loaded.values()):
        return {}
    return {name: value for name, value in loaded.items() if isinstance(value, dict)}


def _beside(loaded: Any, name: str) -> str:
    others = _some([shown(other) for other in loaded if other != name])
    return f"[{name!r}]" + (f" (beside {others})" if others else "")


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = one_line(error).split(". ")[0][:200]
    return ValueError(
        f"{path} cannot be read as {path.suffix} ({type(error).__name__}: {reason}): truncated, "
        "damaged or another format; download it again"
    )
