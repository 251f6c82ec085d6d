"""Is another process writing here?

A lock file that names its holder answers it. The operating system releases the lock when its holder
ends, however that happens, so a killed run never blocks itself: the file that it leaves is locked
again. What the lock protects is `checkpoint`'s.
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

    Keep a reference: garbage collection releases the lock. The file is made with the folders above
    it, and removed at release. A file system without locks costs one warning.

    Raises:
      ValueError: another process holds it, or it cannot be written: a full disk shows here.
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
            f"{path}: {_holder(path)} is writing to this workdir: wait for it to end, stop it, or "
            "give another folder"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            if lock.is_locked:
                release()
            raise ValueError(
                f"{path} cannot be written ({error.strerror}): free some space or give another "
                "folder"
            ) from error
        logging.warning("%s: this file system has no locks, start one trainer only", path)
    return release


def hold_beside(folder: str | os.PathLike[str]) -> Callable[[], None]:
    """`hold` of `<folder>.lock`; nothing for a bucket, which has no locks."""
    return (lambda: None) if "://" in str(folder) else hold(f"{folder}.lock")


def _holder(path: Path) -> str:
    try:
        return path.read_text() or "another process"
    except OSError:
        return "another process"
