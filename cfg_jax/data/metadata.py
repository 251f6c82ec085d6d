"""Files that TFDS keeps beside the examples of a data set, checked before TFDS reads them.

TFDS waits for a named pipe, imports any module that features.json names, and raises errors of many
types for damage.
"""

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from cfg_jax.io.files import in_bucket
from cfg_jax.io.reading import UNREADABLE, read_json
from cfg_jax.io.text import one_line, shown

_SUFFIXES = (".json", ".txt")
_UNFINISHED = "incomplete."  # start of a folder that TFDS is writing
_MOST_BYTES = 2**26
_MOST_SHOWN = 500  # characters
_PREFIX = r"Failed to construct dataset .*?, builder_kwargs .*?}\": "  # in TFDS's messages
_DEPTH = 3  # folders of a configuration and of a version, and their files


def dataset_folder(name: str, data_dir: str | None) -> str:
    """Folder of all versions of a data set, as TFDS names it."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", re.split(r"[/:]", name)[0])
    return os.path.join(data_dir or tfds.core.constants.DATA_DIR, words.lower())


@contextlib.contextmanager
def checked_metadata(name: str, data_dir: str | None) -> Iterator[None]:
    """Context in which TFDS reads a data set's metadata; its errors are ValueErrors of one line."""
    place = dataset_folder(name, data_dir)
    try:
        if not in_bucket(place):
            _check_files(Path(place))
        yield
    except Exception as error:  # TFDS raises many types
        reason = re.sub(_PREFIX, "", one_line(error))[:_MOST_SHOWN] or type(error).__name__
        remedy = "; if it is damaged, delete it and prepare it again" * os.path.isdir(place)
        raise ValueError(
            f"data set {name!r} cannot be opened in {place}: {reason}{remedy}"
        ) from error


def _check_files(folder: Path) -> None:
    """Raises ValueError for metadata that is not a plain file, and for classes of other code."""
    for place, folders, files in os.walk(folder, followlinks=True):
        names = [name for name in folders + files if name.endswith(_SUFFIXES)]
        depth = len(Path(place).relative_to(folder).parts) + 1
        folders[:] = [n for n in folders if depth < _DEPTH and not n.startswith(_UNFINISHED)]
        for path in (Path(place, name) for name in names):
            found = path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
                raise ValueError(f"{path} is not a plain file of at most {_MOST_BYTES} bytes")
            if path.name == "features.json":
                _check_classes(path)


def _check_classes(path: Path) -> None:
    """Raises ValueError if TFDS would import a module of a class that features.json names."""
    try:
        waiting: list[Any] = [read_json(path)]
    except UNREADABLE as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            for name in (value.get("pythonClassName"), value.get("type")):
                if isinstance(name, str) and not _is_imported(name.rpartition(".")[0]):
                    raise ValueError(
                        f"{path} names the class {shown(name)}, whose module is not imported: "
                        "import it first"
                    )


def _is_imported(module: str) -> bool:
    return not module or module in sys.modules or module.startswith("tensorflow_datasets.")
