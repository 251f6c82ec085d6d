"""Layout of a folder of pictures: names of folders are splits and classes.

    DIR/cat/1.png, DIR/dog/2.jpg, ...            classes
    DIR/train/cat/1.png, DIR/test/dog/2.jpg      classes in folders of splits
    DIR/1.png, DIR/2.jpg, ...                    one class, "image"

Without a folder for tests, a tenth of the examples is held out, chosen by a hash of the name, so
adding a file moves no other one.
"""

import collections
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SPLITS = ("train", "test", "val", "valid", "validation")
UNLABELLED = "image"
"""Name of the only class of pictures without labels."""

ONE_HELD_OUT_OF = 10


class Picture(NamedTuple):
    """A file of a data folder.

    file: path below the data folder, with forward slashes.
    split: folder of a split, or "" without one.
    class_name: folder of the class, or UNLABELLED.
    size, time: bytes, and nanoseconds of the last change; 0 for a link that leads nowhere.
    """

    file: str
    split: str
    class_name: str
    size: int
    time: int

    @property
    def held_out(self) -> bool:
        """Whether it is a test picture if there is no folder for tests."""
        return self.split in ("", "train") and is_held_out(self.file.removeprefix("train/"))


def is_held_out(name: str) -> bool:
    """Whether the example of this name is one of the tenth that is held out."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % ONE_HELD_OUT_OF == 0


def find(root: Path) -> list[Picture]:
    """All pictures below a data folder, ordered by path.

    Hidden files and folders, and files of other kinds, are skipped. Links are followed, but no
    folder is entered twice. Raises ValueError for a folder without pictures, a class without one,
    pictures beside folders of classes, and other folders beside train and test.
    """
    names = {path.name for path in _folders(root)}
    others = names - set(SPLITS)
    if {"train", "test"} <= names and others:
        raise ValueError(
            f"{root} has train and test beside {', '.join(sorted(others))}: keep only folders of "
            "splits there, or only folders of classes"
        )
    parted = "train" in names and not others
    found = [
        picture
        for split in (sorted(names) if parted else [""])
        for picture in _in_classes(root, split)
    ]
    if not found:
        raise ValueError(
            f"{root} has no pictures: give a folder of classes with files {' '.join(EXTENSIONS)}"
        )
    return found


def class_names(pictures: Sequence[Picture], root: Path) -> tuple[str, ...]:
    """Alphabetical names of the classes; ValueError for one that the training split lacks."""
    trained = {picture.class_name for picture in pictures if picture.split in ("", "train")}
    unknown = {picture.class_name for picture in pictures} - trained
    if unknown:
        raise ValueError(
            f"class {min(unknown)!r} of {root} has no picture to train on: add some, or delete its "
            "folder"
        )
    return tuple(sorted(trained))


def in_split(pictures: Sequence[Picture], split: str, root: Path) -> list[Picture]:
    """The pictures of a split, or of "all".

    Raises ValueError for an unknown split, one without pictures, and a class that the training
    split would lack because all of its pictures are held out.
    """
    folders = {picture.split for picture in pictures} - {""}
    known = sorted(folders | {"train", "test", "all"})
    if split not in known:
        raise ValueError(f"split is {split!r}: {root} has {', '.join(known)}")
    hold_out = "test" not in folders

    def own(picture: Picture) -> str:
        return "test" if hold_out and picture.held_out else picture.split or "train"

    chosen = [picture for picture in pictures if split in ("all", own(picture))]
    counts = collections.Counter(picture.class_name for picture in chosen)
    missing = [name for name in class_names(pictures, root) if not counts[name]]
    if not chosen or (split == "train" and missing):
        what = f"no picture of class {missing[0]!r}" if chosen else "no pictures"
        raise ValueError(
            f"split {split!r} of {root} has {what}: add some, or give split 'all', from which none "
            "are held out"
        )
    return chosen


def _in_classes(root: Path, split: str) -> list[Picture]:
    """The pictures of root/split, a folder of classes or, without labels, of pictures."""
    place = root / split
    files = _below(place)
    top = [file for file in files if "/" not in file]
    if top and len(top) < len(files):
        raise ValueError(
            f"{place} has pictures such as {top[0]} beside folders of classes: move them into one"
        )
    filled = {file.partition("/")[0] for file in files}
    empty = [path.name for path in _folders(place) if path.name not in filled]
    if empty and files and not top and split in ("", "train"):
        raise ValueError(
            f"class {empty[0]!r} of {place} has no picture: add some, or delete its folder"
        )
    prefix = f"{split}/" if split else ""
    named = [(file, UNLABELLED if top else file.partition("/")[0]) for file in files]
    return [Picture(prefix + file, split, name, *_stamp(place / file)) for file, name in named]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # a link that leads nowhere, named when it is decoded
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _folders(place: Path) -> list[Path]:
    """The visible folders in a folder, by name."""
    paths = (path for path in place.iterdir() if not path.name.startswith("."))
    return sorted(path for path in paths if path.is_dir())


def _below(folder: Path) -> list[str]:
    """Paths of the visible pictures below a folder, sorted."""
    entered, found = set(), []
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if real in entered:  # a link to a folder above, or a second one to the same
            folders.clear()
            continue
        entered.add(real)
        names = (name for name in files if not name.startswith("."))
        found += [Path(place, name) for name in names if name.lower().endswith(EXTENSIONS)]
    return sorted(path.relative_to(folder).as_posix() for path in found)
