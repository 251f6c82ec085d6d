"""Folders, their write permission, and atomic file writes.

A folder is a local path, with `~` expanded, or gs://bucket/folder, which etils opens. A file is
renamed into place once it is complete, so a reader never sees a partial file.
"""

import contextlib
import importlib.util
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import ArrayLike

BUCKETS = "gs://"

UNFINISHED = ".unfinished"


def folder(name: str | os.PathLike[str]) -> Path:
    """The path of a folder, existing or not; bucket paths have pathlib's methods but no append.

    Raises ValueError if the scheme is not gs://, if no library for buckets is installed, and as
    `check_name`.
    """
    text = check_name(name)
    if "://" not in text:
        try:
            return Path(text).expanduser()
        except RuntimeError:
            raise ValueError(f"{text}: there is no such user, give a path without ~") from None
    if not text.startswith(BUCKETS):
        raise ValueError(f"{text}: give a folder, or {BUCKETS}bucket/folder")
    if not any(importlib.util.find_spec(library) for library in ("gcsfs", "tensorflow")):
        raise ValueError(f"{text}: buckets need a library, run `pip install gcsfs`")
    from etils import epath

    return epath.Path(text)


def check_name(path: str | os.PathLike[str]) -> str:
    """The path as text; ValueError if this process cannot read its characters.

    With LANG=C and no UTF-8 mode, Python decodes the bytes of "ö" to lone surrogates, which C++ and
    Rust libraries refuse.
    """
    text = os.fspath(path)
    try:
        os.fsencode(text)
        text.encode()
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        raise ValueError(
            f"{ascii(text)} has characters that this process cannot read, its file names are "
            f"{encoding}: set LANG=C.UTF-8 or PYTHONUTF8=1, or use ASCII characters"
        ) from error
    return text


def check_writable(
    place: str | os.PathLike[str], name: str, remedy: str = "give another folder"
) -> None:
    """Raises ValueError if the path is empty or the folder not writable, and as `check_name`.

    Creates nothing. The nearest existing parent decides for a folder that does not exist; buckets
    are not checked.

    Args:
      place: path of the folder.
      name: flag or argument that holds it, such as "--workdir".
      remedy: end of the message.
    """
    if not check_name(place):
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
    """Opens a file that is renamed to `path` once it is complete; creates missing folders.

    Its name until then, ending in `UNFINISHED`, is this process's own. It is removed at an error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    unfinished = path.with_name(f"{path.name}.{writer}{UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def remove_unfinished(folder: Path) -> None:
    """Removes the files that killed writers left in a folder, which must have no other writer."""
    for path in folder.glob(f"*{UNFINISHED}"):
        if re.search(r"\.(npz|json)\.[^/]+-\d+-\d+\.unfinished$", path.name):
            path.unlink(missing_ok=True)


def save_text(path: Path, text: str) -> None:
    """Writes text in UTF-8, atomically."""
    with whole_file(path) as file:
        file.write(text.encode())


def save_npz(path: Path, **arrays: ArrayLike) -> None:
    """Writes named arrays, none pickled, compressed and atomically."""
    with whole_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
