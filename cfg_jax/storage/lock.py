"""Locks that give a folder one writer.

A lock file names its holder. The operating system releases the lock when the holder ends, even if
it is killed, so the lock file of a killed run does not block the next run.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

from absl import logging
from filelock import FileLock, Timeout

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def hold(path: str | os.PathLike[str]) -> Callable[[], None]:
    """Acquires the lock `path` and returns its release function.

    Keep the returned function: the lock is released when it is garbage-collected. The lock file and
    missing parent folders are created; the file is deleted at release. On a file system without
    locks, a warning is logged and no lock is held.

    Raises ValueError if another process holds the lock, or if the lock file cannot be written,
    for example because the disk is full.
    """
    path = Path(path)
    lock = FileLock(path, timeout=0.5, thread_local=False, fallback_to_soft=False)

    def release() -> None:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held: a process that opened it meanwhile opens it again
        lock.release()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    except Timeout:
        raise ValueError(
            f"{path} is locked: {_holder(path)} is writing to this folder: wait for it to end, "
            "stop it, or give another folder"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            if lock.is_locked:
                release()
            raise ValueError(
                f"{path} cannot be written ({error.strerror}): free some space or give another "
                "folder"
            ) from error
        logging.warning("%s: this file system has no locks: start one writer only", path)
    return release


def hold_beside(folder: str | os.PathLike[str]) -> Callable[[], None]:
    """`hold` of `<folder>.lock`. A bucket has no locks, so the result does nothing for a bucket."""
    return (lambda: None) if "://" in str(folder) else hold(f"{folder}.lock")


def _holder(path: Path) -> str:
    try:
        return path.read_text() or "another process"
    except OSError:
        return "another process"
