"""Folders, their write permission, and atomic file writes.

A folder is a local path, with `~` expanded, or gs://bucket/folder, which etils opens. A file is
renamed into place once it is complete, so a reader never sees a partial file.
"""

import contextlib
import errno
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

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of the errors of a full disk, a quota, and a limit on the size of files."""


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in a bucket, which has no locks, no append and plain files only."""
    return "://" in os.fspath(path)


def folder(name: str | os.PathLike[str]) -> Path:
    """The path of a folder, existing or not; bucket paths have pathlib's methods but no append.

    Raises ValueError if the scheme is not gs://, if no library for buckets is installed, and as
    `check_name`.
    """
    text = check_name(name)
    if not in_bucket(text):
        return local(text)
    if not text.startswith(BUCKETS):
        raise ValueError(f"{text}: give a folder, or {BUCKETS}bucket/folder")
    if not any(importlib.util.find_spec(library) for library in ("gcsfs", "tensorflow")):
        raise ValueError(f"{text}: buckets need a library, run `pip install gcsfs`")
    from etils import epath

    return epath.Path(text)


def local(name: str | os.PathLike[str]) -> Path:
    """The path in the file system, with `~` expanded.

    Raises ValueError for the home of a user that does not exist, and as `check_name`.
    """
    text = check_name(name)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text}: there is no such user, give a path without ~") from None


def check_name(path: str | os.PathLike[str]) -> str:
    """The path as text; ValueError if it is no path, or this process cannot read its characters.

    With LANG=C and no UTF-8 mode, Python decodes the bytes of "ö" to lone surrogates, which C++ and
    Rust libraries refuse.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ValueError(f"{path!r} is no path: give the name of a folder or file")
    if "\0" in text:
        raise ValueError(f"{ascii(text)} has a NUL character: give a name without it")
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
    """Raises ValueError if a file cannot be made in the folder `place`, and as `check_name`.

    That is an empty path, a new folder with the name of a file, as a.png, a folder without
    permission and a disk without free space. Creates nothing. The nearest existing parent decides
    for a folder that does not exist; buckets are not checked.

    Args:
      place: path of the folder.
      name: flag or argument that holds it, such as "--workdir".
      remedy: end of the message.
    """
    if not check_name(place):
        raise ValueError(f"{name} is empty: {remedy}")
    if in_bucket(place):
        return
    path = folder(place).absolute()
    if path.suffix.lower() in _OF_FILES and not path.exists():
        raise ValueError(f"{name}={place} is the name of a file, and a folder is meant: {remedy}")
    _check_place(path, f"{name}={place}", remedy)


_OF_FILES = (".gif", ".html", ".jpeg", ".jpg", ".json", ".npz", ".png")


def check_suffix(path: str | os.PathLike[str], name: str, suffix: str) -> None:
    """Raises ValueError for the name of a file with another suffix, in lower or upper case."""
    if os.path.splitext(check_name(path))[1].lower() not in ("", suffix):
        raise ValueError(f"{name}={path}: need a name that ends in {suffix}")


def check_file_writable(
    path: str | os.PathLike[str], name: str, suffix: str = "", remedy: str = "give another file"
) -> None:
    """Raises ValueError if the path is empty, a folder, of another suffix, or not writable."""
    if not check_name(path):
        raise ValueError(f"{name} is empty: {remedy}")
    place = folder(path)
    if place.is_dir():
        raise ValueError(f"{name}={path} cannot be written (it is a folder): {remedy}")
    if suffix:
        check_suffix(path, name, suffix)
    if not in_bucket(path):
        _check_place(place.parent.absolute(), f"{name}={path}", remedy)


def _check_place(path: Path, given: str, remedy: str) -> None:
    """Raises ValueError if no file can be made in the local folder `path`."""
    nearest = next(p for p in (path, *path.parents) if os.path.exists(p))
    if not nearest.is_dir():
        reason = "is a file"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        reason = "is read-only"
    elif _is_full(nearest):
        reason, remedy = "is on a full disk", f"free some space or {remedy}"
    else:
        return
    raise ValueError(f"{given} cannot be written ({nearest} {reason}): {remedy}")


def _is_full(path: Path) -> bool:
    """Whether the disk of `path` has no free space; False if it does not know its own size."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(path)
        return disk.f_blocks > 0 and disk.f_bfree == 0
    return False


def write_error(path: str | os.PathLike[str], error: OSError) -> OSError:
    """`error`, raised while `path` was written, with the path, the reason and what to do.

    A disk that fills while an open file is written does not name the file.
    """
    space = "free some space or " if error.errno in FULL else ""
    reason = error.strerror or error
    named = OSError(f"{path} cannot be written ({reason}): {space}give another folder")
    named.errno = error.errno
    return named


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that is renamed to `path` once it is complete; creates missing folders.

    Its name until then, ending in `UNFINISHED`, is this process's own. It is removed at an error.
    An OSError is raised as `write_error`.
    """
    writer = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    unfinished = path.with_name(f"{path.name}.{writer}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        if isinstance(error, OSError):
            raise write_error(path, error) from error
        raise


def remove_unfinished(folder: Path) -> None:
    """Removes the files that killed writers left in a folder, which must have no other writer."""
    for path in folder.glob(f"*{UNFINISHED}"):
        if re.search(r"\.(npz|json)\.[^/]+-\d+-\d+\.unfinished$", path.name):
            path.unlink(missing_ok=True)


def save_text(path: Path, text: str) -> None:
    """Writes text in UTF-8, atomically; lone surrogates, which have none, as escapes."""
    with whole_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def save_npz(path: Path, **arrays: ArrayLike) -> None:
    """Writes named arrays, none pickled, compressed and atomically."""
    with whole_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
