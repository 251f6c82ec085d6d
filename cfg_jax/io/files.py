"""Where is a folder, can it be written to, and how are files written in it?

A folder is one of a file system, `~` and all, or of a bucket, gs://bucket/folder, which etils opens
as if it were one. A file takes its place once it is complete, so that a reader never sees a part.
"""

import contextlib
import importlib.util
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

BUCKETS = "gs://"

UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""The errors of `open_npz`, and of reading an array, for a file that is missing or damaged."""


def folder(name: str | os.PathLike[str]) -> Path:
    """The folder of that name, there or not; a bucket's has pathlib's methods, without appending.

    Raises:
      ValueError: another scheme than gs://, or no library to open a bucket with.
    """
    text = os.fspath(name)
    if "://" not in text:
        return Path(text).expanduser()
    if not text.startswith(BUCKETS):
        raise ValueError(f"{text}: give a folder, or {BUCKETS}bucket/folder")
    if not any(importlib.util.find_spec(library) for library in ("gcsfs", "tensorflow")):
        raise ValueError(f"{text}: buckets need a library, run `pip install gcsfs`")
    from etils import epath

    return epath.Path(text)


def check_writable(
    place: str | os.PathLike[str], name: str, remedy: str = "give another folder"
) -> None:
    """Refuses a folder that no file can be put in. Makes nothing; buckets pass.

    Args:
      place: the folder, there or not.
      name: flag or argument that it is given as, "--workdir".
      remedy: end of the message.

    Raises:
      ValueError: no name, or the folder or the nearest one above it cannot be written to.
    """
    if not os.fspath(place):
        raise ValueError(f"{name} is empty: {remedy}")
    if "://" in os.fspath(place):
        return
    path = Path(place).expanduser().absolute()
    nearest = next(p for p in (path, *path.parents) if os.path.exists(p))
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return
    reason = "is read-only" if nearest.is_dir() else "is a file"
    raise ValueError(f"{name}={place} cannot be written ({nearest} {reason}): {remedy}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes its place at `path`, its folders made, once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        yield file
    unfinished.replace(path)


def save_text(path: Path, text: str) -> None:
    """Writes a `whole_file` of text in UTF-8."""
    with whole_file(path) as file:
        file.write(text.encode())


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    """Writes a `whole_file` of named arrays, compressed."""
    with whole_file(path) as file:
        np.savez_compressed(file, **arrays)


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The named arrays of a file, each read where it is used, none unpickled; raises UNREADABLE."""
    with path.open("rb") as opened:  # NumPy would leave a damaged one open
        file = np.load(opened, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it is a single array")
        yield file
