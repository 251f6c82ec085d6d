"""Reading of files that somebody else may have made: JSON, and named arrays in .npz.

Sizes and shapes are checked from headers before anything is allocated, and nothing is unpickled.
Every failure is an OSError or a ValueError of one line.
"""

import ast
import contextlib
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from cfg_jax.io.files import in_bucket
from cfg_jax.io.text import one_line

UNREADABLE = (OSError, ValueError)
"""Errors of this module for a missing, damaged or foreign file."""

_MOST_AS_A_WHOLE = 2**28  # bytes
# An array may have this many times the bytes of its file, and at least _ALWAYS bytes: images of one
# colour are compressed a thousandfold, and so are files made to fill the memory.
_MOST_GROWTH = 100
_ALWAYS = 2**26
_MOST_HEADER = 10_000  # bytes
_AT_ONCE = 2**24  # bytes


def most_bytes(size: int) -> int:
    """The largest size of arrays that a file of this size may fill."""
    return max(_MOST_GROWTH * size, _ALWAYS)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Opens a plain file to read; raises UNREADABLE for a folder, a named pipe or a device."""
    if in_bucket(path):
        with path.open("rb") as file:
            yield file
        return
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe would block
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise ValueError("it is no plain file")
    with open(number, "rb") as file:
        yield file


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that is read as a whole; raises UNREADABLE."""
    with opened(path) as file:
        if (size := file.seek(0, io.SEEK_END)) > _MOST_AS_A_WHOLE:
            raise ValueError(f"it has {size} bytes, more than {_MOST_AS_A_WHOLE}")
        file.seek(0)
        return file.read()


def read_json(path: Path) -> Any:
    """The JSON value of a file in UTF-8; raises UNREADABLE."""
    return parse_json(read_bytes(path).decode("utf-8"))


def parse_json(text: str) -> Any:
    """The value of a JSON text; ValueError for another text, and for deep nesting."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator["Npz"]:
    """Opens named arrays, each read on access; raises UNREADABLE."""
    with opened(path) as file:
        yield Npz(file)


class Npz(Mapping[str, np.ndarray]):
    """Named arrays of an opened .npz; an access raises ValueError for an entry that is no array."""

    def __init__(self, file: IO[bytes]):
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)
        start = file.read(6)
        for kind, magic in (("a pickle", b"\x80"), ("a single array", b"\x93NUMPY")):
            if start.startswith(magic):
                raise ValueError(f"it is {kind}")
        with _as_value_errors():
            self._zip = zipfile.ZipFile(file)
        self._entries = {each.filename.removesuffix(".npy"): each for each in self._zip.infolist()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # without reading the array

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        if not entry.filename.endswith(".npy"):
            raise ValueError(f"entry {name} is not an array")
        most = most_bytes(self._size)
        if entry.file_size > most:
            raise ValueError(
                f"entry {name} has {entry.file_size} bytes, more than {most} in a file of "
                f"{self._size}"
            )
        with _as_value_errors(), self._zip.open(entry) as member:
            shape, fortran, dtype = _header(member, name)
            wanted = math.prod(shape) * dtype.itemsize
            if wanted > entry.file_size:
                raise ValueError(
                    f"entry {name} claims {dtype}{list(shape)}, and has {entry.file_size} bytes"
                )
            content, filled = bytearray(wanted), 0
            while part := member.read(min(_AT_ONCE, wanted - filled)):
                content[filled : filled + len(part)] = part
                filled += len(part)
            if filled != wanted or member.read(1):
                raise ValueError(f"entry {name} has not the {wanted} bytes of its array")
        array = np.frombuffer(content, dtype)
        return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype of a .npy; ValueError for another format, and for Python objects."""
    version = np.lib.format.read_magic(member)
    size = int.from_bytes(member.read(2 if version == (1, 0) else 4), "little")
    if size > _MOST_HEADER:
        raise ValueError(f"entry {name} has a header of {size} bytes")
    text = member.read(size).decode("latin1" if version < (3, 0) else "utf-8")
    if re.search(r"[\[({]{20}", text):  # ast's parser is recursive
        raise ValueError(f"entry {name} has a header that is nested too deeply")
    values = ast.literal_eval(text.strip())
    if not isinstance(values, dict) or set(values) != {"descr", "fortran_order", "shape"}:
        raise ValueError(f"entry {name} has no header of an array")
    shape, fortran = values["shape"], values["fortran_order"]
    integers = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not integers or len(shape) > 32 or type(fortran) is not bool:
        raise ValueError(f"entry {name} has shape {one_line(shape)} in its header")
    if not isinstance(values["descr"], str):
        raise ValueError(f"entry {name} has records")
    dtype = np.dtype(values["descr"])
    if dtype.hasobject:
        raise ValueError(f"entry {name} is a pickle of Python objects")
    return shape, fortran, dtype


@contextlib.contextmanager
def _as_value_errors() -> Iterator[None]:
    """Context in which whatever a damaged archive raises is a ValueError."""
    try:
        yield
    except UNREADABLE:
        raise
    except Exception as error:  # zlib, zipfile, ast and NumPy raise many types
        raise ValueError(f"{type(error).__name__}: {one_line(error)}") from error
