"""Is another process writing here?

The lock is the operating system's, flock on a file that says who holds it. It ends with the process
that holds it, however that one ends, so a run that was killed never stands in its own way; the file
it leaves is taken over. What the lock protects is `checkpoint`'s.
"""

import contextlib
import errno
import fcntl
import functools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import IO

from absl import logging

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def hold(path: str | os.PathLike[str]) -> Callable[[], None]:
    """Acquires the lock `path` and returns its release function.

    Keep a reference: garbage collection releases the lock. The file is made with the folders above
    it, and removed at release. A file system without locks costs one warning.

    Raises:
      ValueError: another process holds it, or it cannot be written: a full disk shows here.
    """
    path = Path(path)
    try:
        file = _locked(path)
        release = functools.partial(_release, path, file)
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            os.fsync(file.fileno())
        except OSError:
            release()
            raise
    except BlockingIOError:
        raise ValueError(
            f"{path}: {_holder(path)} is writing to this workdir: wait for it to end, stop it, or "
            "give another folder"
        ) from None
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}): free some space or give another folder"
        ) from error
    return release


def hold_beside(folder: str | os.PathLike[str]) -> Callable[[], None]:
    """`hold` of `<folder>.lock`; nothing for a bucket, which has no locks."""
    return (lambda: None) if "://" in str(folder) else hold(f"{folder}.lock")


def _locked(path: Path) -> IO[bytes]:
    """The file at `path`, open and locked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("ab", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file):
                return file
        except BlockingIOError:
            file.close()
            raise
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                file.close()
                raise
            logging.warning("%s: this file system has no locks, start one trainer only", path)
            return file
        file.close()  # its holder removed it between our opening and our locking


def _release(path: Path, file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        path.unlink()  # while it is held: whoever opened it meanwhile sees that it is gone
    file.close()


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        return path.read_text() or "another process"
    except OSError:
        return "another process"
