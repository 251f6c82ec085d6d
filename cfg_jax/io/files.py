"""Which folder does a person mean?

One of a file system, `~` and all, or of a bucket, gs://bucket/folder, which etils opens as if it
were one.
"""

import importlib.util
import os
from pathlib import Path

BUCKETS = "gs://"


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
