"""PyTorch's `.pt` and `.pth`, read without PyTorch: archives, and the form from before PyTorch 1.6.

Both are a pickle of dicts whose tensors name storages, which are ranges of bytes in the file. They
are memory-mapped, and take memory once they are read. Sizes that a file claims are compared with
the bytes that it has.
"""

import math
import mmap
import re
import struct
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from cfg_jax.io.reading import most_bytes
from cfg_jax.io.text import shown
from cfg_jax.io.torch_tensors import Name, Tensor, TorchNames
from cfg_jax.io.unpickle import Rejected, Stream, load

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the form without archive
_ARCHIVE = b"PK\x03\x04"


class Unfit(ValueError):
    """Error for an undamaged file with an entry that is not an array."""


class TorchFile:
    """A file opened for reading; `content` is its dicts, lists, numbers and `Tensor`s.

    Raises Rejected for code and for pickles of other programs, and other errors for a damaged file.
    """

    def __init__(self, file: IO[bytes]):
        self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._places: dict[str, int] = {}  # first byte of each storage
        names = TorchNames()
        if self._mapped[:4] == _ARCHIVE:
            self.content = self._archive(zipfile.ZipFile(file), names)
        else:
            self.content = self._without_archive(names)

    def _archive(self, archive: zipfile.ZipFile, names: TorchNames) -> Any:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} entries data.pkl, not one")
        folder = pickles[0].removesuffix("data.pkl")
        if order := entries.get(f"{folder}byteorder"):
            start, size = self._place(order)
            if size != 6 or self._mapped[start : start + size] != b"little":
                raise ValueError("its numbers are not little-endian")
        start, size = self._place(entries[pickles[0]])
        content = load(Stream(self._mapped, start, start + size), names)
        for key, storage in names.storages.items():
            if (entry := entries.get(f"{folder}data/{key}")) is None:
                raise ValueError(f"its storage {shown(key)} is missing")
            self._places[key], size = self._place(entry)
            if storage.size > size:
                raise ValueError(
                    f"its storage {shown(key)} claims {storage.size} bytes and has {size}"
                )
        return content

    def _place(self, entry: zipfile.ZipInfo) -> tuple[int, int]:
        """(start, size) of an entry's bytes in the file; ValueError unless they are as stored."""
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise Unfit(f"entry {shown(entry.filename)} is compressed: save it with torch.save")
        header = self._mapped[entry.header_offset : entry.header_offset + 30]
        start = entry.header_offset + len(header) + sum(struct.unpack("<26x2H", header))
        size = entry.file_size
        known = header.startswith(_ARCHIVE) and size == entry.compress_size
        if not known or start + size > len(self._mapped):
            raise ValueError(f"its entry {shown(entry.filename)} is not complete")
        return start, size

    def _without_archive(self, names: TorchNames) -> Any:
        stream = Stream(self._mapped, 0, len(self._mapped))
        if load(stream, names) != _MAGIC:
            raise Rejected("it is not a plain state dict")
        if load(stream, names) != _PROTOCOL:
            raise ValueError(f"its protocol is not {_PROTOCOL}")
        load(stream, names)  # sizes of C's types
        content, keys = load(stream, names), load(stream, names)
        start = stream.position
        for key in keys:
            storage = names.storages[key]
            if struct.unpack("<q", self._mapped[start : start + 8])[0] != storage.count:
                raise ValueError(f"its storage {shown(key)} has another size than its tensors")
            self._places[key] = start + 8
            start += 8 + storage.size
        if start > len(self._mapped):
            raise ValueError(f"it has {len(self._mapped)} of {start} bytes")
        return content

    def arrays(self, tensors: Mapping[Any, Any]) -> dict[str, np.ndarray]:
        """{name: array} of a dict of tensors; bfloat16 and float8 become float32.

        Raises Unfit for a value that is not a tensor, and for one that NumPy cannot hold.
        """
        arrays: dict[str, np.ndarray] = {}
        left = most = most_bytes(len(self._mapped))
        for key, tensor in tensors.items():
            entry = f"entry {shown(key)}"
            if not isinstance(tensor, Tensor):
                raise Unfit(
                    f"{entry} is a {kind(tensor)}, not a tensor; expected a plain state dict"
                )
            if tensor.fault:
                raise Unfit(
                    f"{entry} is a {tensor.fault} tensor, which NumPy cannot hold: save dense "
                    "floating-point tensors"
                )
            if str(key) in arrays:
                raise Unfit(f"{entry} has the name of another one: give each its own")
            wide = tensor.dtype.name.startswith(("bfloat16", "float8"))
            left -= math.prod(tensor.shape) * (4 if wide else tensor.dtype.itemsize)
            if left < 0:
                raise Unfit(
                    f"{entry} is {tensor.dtype}{list(tensor.shape)}, more than {most} bytes of "
                    f"arrays in a file of {len(self._mapped)}: save contiguous tensors"
                )
            array = self._array(tensor, entry)
            arrays[str(key)] = array.astype(np.float32) if wide else array
        return arrays

    def _array(self, tensor: Tensor, entry: str) -> np.ndarray:
        """The array of a tensor, mapped if its bytes are aligned in the file."""
        storage, item = tensor.storage, tensor.dtype.itemsize
        steps = zip(tensor.shape, tensor.strides, strict=True)
        stop = (tensor.offset + 1 + sum((n - 1) * stride for n, stride in steps)) * item
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, tensor.dtype)
        if stop > storage.size:
            raise ValueError(
                f"{entry} claims {stop} bytes of storage {shown(storage.key)}, which has "
                f"{storage.size}"
            )
        start = self._places[storage.key] + storage.start + tensor.offset * item
        strides = [stride * item for stride in tensor.strides]
        # The bytes of bool arrays must be 0 or 1 in NumPy.
        raw = np.dtype("uint8") if tensor.dtype == bool else tensor.dtype
        array = np.ndarray(tensor.shape, raw, self._mapped, start, strides)
        if tensor.dtype == bool:
            return np.asarray(array != 0)
        return np.require(array, requirements="A")


def kind(value: Any) -> str:
    """Name of the type that a value of a file would have in PyTorch."""
    return value.name.rpartition(".")[2] if isinstance(value, Name) else type(value).__name__
