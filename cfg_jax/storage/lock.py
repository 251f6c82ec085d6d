"""Locks that give a folder one writer.

A lock file names its holder. The operating system releases the lock when the holder ends, even if
it is killed, so the lock file of a killed run does not block the next run. Any other file of that
name that is not empty is left alone.
"""

import contextlib
import errno
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import logging
from filelock import FileLock, Timeout

from cfg_jax.io.files import in_bucket
from cfg_jax.runtime import processes

INSIDE = "cfg_jax.lock"

LATE_SECONDS = 10.0
"""How late a shared disk may show a new file to another host."""

_CONTENT = rb"process \d+ on [^\n]*"
_MOST_BYTES = 1000  # longer than any host name
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def hold(path: str | os.PathLike[str]) -> Callable[[], None]:
    """Acquires the lock `path` and returns its release function.

    Keep the returned function: the lock is released when it is garbage-collected. The lock file and
    missing parent folders are created; the file is deleted at release. On a file system without
    locks, a warning is logged and no lock is held.

    Raises ValueError if another process holds the lock, if the lock file cannot be written, for
    example because the disk is full, and if there is something else of that name, such as a file of
    the user's, a link or a named pipe.
    """
    path = Path(path)
    lock = FileLock(path, timeout=0.5, thread_local=False, fallback_to_soft=False)

    def release() -> None:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held: a process that opened it meanwhile opens it again
        lock.release()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_ours(path)
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
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            raise ValueError(
                f"{path} cannot be written ({error.strerror}): "
                f"{'free some space or ' if full else ''}give another folder"
            ) from error
        logging.warning("%s: this file system has no locks: start one writer only", path)
    return release


def hold_beside(folder: str | os.PathLike[str]) -> Callable[[], None]:
    """`hold` of `<folder>.lock`. A bucket has no locks, so the result does nothing for a bucket."""
    return (lambda: None) if in_bucket(folder) else hold(f"{folder}.lock")


def hold_inside(folder: str | os.PathLike[str]) -> Callable[[], None]:
    """`hold` of `<folder>/cfg_jax.lock`, for a folder whose neighbours may be the user's."""
    return (lambda: None) if in_bucket(folder) else hold(Path(folder) / INSIDE)


@contextlib.contextmanager
def one_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Context in which process 0 holds the lock inside `folder`; every process must enter it."""
    with contextlib.ExitStack() as held:
        processes.by_first(lambda: held.callback(hold_inside(folder)))
        check_shared(Path(folder) / INSIDE)
        yield


def check_shared(path: Path) -> None:
    """Raises ValueError in every process if process 0 has the file `path` and another has not.

    Every process must call it, after process 0 has written the file.
    """
    seen = processes.of_each(_appears(path))
    if seen[0] and not all(seen):
        raise ValueError(
            f"process {seen.index(0)} cannot see {path.parent}, but process 0 can: give a folder "
            "that all processes share, or gs://BUCKET/FOLDER"
        )


def _appears(path: Path) -> bool:
    """Whether the file is there, to a process other than the first at the latest after a while."""
    until = time.monotonic() + (0 if processes.is_first() else LATE_SECONDS)
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def _check_ours(path: Path) -> None:
    """Raises ValueError unless the path is free, or a file with the content of a lock."""
    try:
        # Without these flags, a link is followed and a named pipe blocks until somebody writes.
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(_foreign(path, "a link")) from None
        raise
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise ValueError(_foreign(path, "no plain file"))
    with open(opened, "rb") as file:
        content = file.read(_MOST_BYTES)
    if content and not re.fullmatch(_CONTENT, content):
        raise ValueError(_foreign(path, "not a lock of cfg_jax"))


def _foreign(path: Path, what: str) -> str:
    return f"{path} is {what}, and the lock needs that name: rename it or give another folder"


def _holder(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[:_MOST_BYTES] or "another process"
    except OSError:
        return "another process"
