"""Descriptions of the tensors in a pickle of `torch.save`; nothing that the pickle names is called.

A tensor is a view of a storage, which the pickle names by a key; `torch_files` finds its bytes.
"""

import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from cfg_jax.io.unpickle import Rejected, put

_DTYPES = {
    name: np.dtype(getattr(jnp, name, name))
    for name in (
        *("float16", "float32", "float64", "bfloat16", "complex64", "complex128", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
}
# Types of numbers in a storage. NumPy has none for the quantized ones, only their size counts.
_STORAGES = {
    **{"Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16"},
    **{"Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64"},
    **{"Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128"},
    **{"QInt8": "int8", "QUInt8": "uint8", "QInt32": "int32", "QUInt4x2": "uint8"},
    **{"QUInt2x4": "uint8", "Untyped": "uint8", "_Untyped": "uint8"},
}
_STORAGE_NAME = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
_DTYPE_NAME = re.compile(r"torch\.((?:q?u?int|b?float|complex|bool|bits|per_)\w*)")

# Fields of a function's arguments: each makes a tensor of a storage.
_VIEWS = {
    "torch._utils._rebuild_tensor": "storage offset shape strides",
    "torch._utils._rebuild_tensor_v2": "storage offset shape strides grad hooks metadata",
    "torch._utils._rebuild_tensor_v3": "storage offset shape strides grad hooks dtype metadata",
}
_UNCHANGED = {  # each makes a tensor of a tensor, the first argument
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
}
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"
_NOT_ARRAYS = {
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta",
    "torch._utils._rebuild_wrapper_subclass": "wrapped",
    "torch._utils._rebuild_device_tensor_from_numpy": "device",
}
_DICTS = {"collections.OrderedDict", "collections.Counter"}
_OTHERS = {
    *("builtins.set", "builtins.bytearray", "builtins.complex"),
    *("__builtin__.set", "__builtin__.bytearray", "__builtin__.complex", "_codecs.encode"),
    *("torch.Size", "torch.device", "torch.Tensor", "torch.serialization._get_layout"),
    *("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "argparse.Namespace"),
}
_KNOWN = {*_VIEWS, *_UNCHANGED, _WITH_ATTRIBUTES, *_NOT_ARRAYS, *_DICTS, *_OTHERS}


@dataclasses.dataclass(frozen=True)
class Name:
    """A known function or class, or a value of one, which is not made.

    `dtype` is the NumPy dtype of a type of numbers; None for what NumPy lacks.
    """

    name: str
    dtype: np.dtype | None = None


@dataclasses.dataclass(frozen=True)
class Storage:
    """Numbers of one dtype: `count` of those with this key, from `offset` on."""

    key: str
    dtype: np.dtype
    count: int
    offset: int = 0

    @property
    def start(self) -> int:
        """First byte."""
        return self.offset * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.count * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage in numbers of `dtype`; `fault` is a kind that NumPy cannot hold."""

    fault: str = ""
    storage: Storage = Storage("", np.dtype("uint8"), 0)
    offset: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dtype: np.dtype = np.dtype("uint8")


class TorchNames:
    """`unpickle.Names` of PyTorch. `storages` has those of all pickles read, by key."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}

    def find(self, name: str) -> Name:
        storage, dtype = _STORAGE_NAME.fullmatch(name), _DTYPE_NAME.fullmatch(name)
        if storage and storage[1] in _STORAGES:
            return Name(name, _DTYPES[_STORAGES[storage[1]]])
        if dtype or name in _KNOWN:
            return Name(name, _DTYPES.get(dtype[1]) if dtype else None)
        raise Rejected(f"reading it would execute {name}")

    def call(self, function: Any, arguments: tuple) -> Any:
        name = function.name
        if fields := _VIEWS.get(name):
            return _view(**dict(zip(fields.split(), arguments, strict=False)))
        if name in _UNCHANGED and isinstance(arguments[0], Tensor):
            return arguments[0]
        if name == _WITH_ATTRIBUTES:
            inner, _, inner_arguments, *_ = arguments
            return self.call(inner, inner_arguments)
        if name in _NOT_ARRAYS:
            return Tensor(_NOT_ARRAYS[name])
        if name in _DICTS:
            return _dict(*arguments)
        if name == "_codecs.encode":  # bytes, as characters of the same numbers
            return arguments[0].encode("latin1")
        return Name(name)

    def persistent(self, identity: Any) -> Storage:
        """The storage that a tuple describes; Python 2 wrote views of storages, too."""
        kind, name, key, _, count, *view = identity
        if kind != "storage" or not isinstance(key, str) or not _are_counts(count):
            raise ValueError("its pickle has no storage where one is needed")
        whole = Storage(key, name.dtype, count)
        if self.storages.setdefault(key, whole) != whole:
            raise ValueError(f"its storage {key!r} has two types or sizes")
        if not view or view[0] is None:
            return whole
        _, offset, part = view[0]
        if not _are_counts(offset, part) or offset + part > count:
            raise ValueError(f"its view of storage {key!r} is outside")
        return Storage(key, name.dtype, part, offset)


def _view(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any = None,
    hooks: Any = None,
    dtype: Any = None,
    metadata: Any = None,
) -> Tensor:
    """The tensor of the arguments of a function in _VIEWS, in any order of the last."""
    del grad, hooks
    dtype = Name("", storage.dtype) if dtype is None else dtype
    if not (isinstance(storage, Storage) and len(shape) == len(strides)) or not _are_counts(
        offset, *shape, *strides
    ):
        raise ValueError("its pickle has no view of a storage where one is needed")
    if dtype.dtype is None:
        return Tensor(dtype.name)
    if metadata and any(metadata.values()):
        return Tensor("lazily conjugated or negated")
    return Tensor("", storage, offset, tuple(shape), tuple(strides), dtype.dtype)


def _dict(pairs: Any = ()) -> dict:
    """A dict of another one, or of a list of pairs, which Python 2 wrote."""
    result: dict = {}
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        put(result, key, value)
    return result


def _are_counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 2**63 for value in values)
