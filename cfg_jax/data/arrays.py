"""Images in .npz files as a data set.

    images        uint8 [N, H, W, C], C = 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha
    labels        integers [N] from 0 to K - 1; without them all images are of one class
    label_names   K strings, optional

in one file, of which a tenth of the rows is the test split, or in DIR/train.npz and DIR/test.npz.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cfg_jax.data.decoding import as_shown, background_colour, decoder_name
from cfg_jax.data.layout import UNLABELLED, is_held_out
from cfg_jax.data.sources import Form, ImageSource, new_memory
from cfg_jax.io.files import local
from cfg_jax.io.reading import UNREADABLE, open_npz

_CONTENT = "images uint8 [N, H, W, C], labels [N] and label_names [K]"


class Arrays(NamedTuple):
    """Images uint8 [N, H, W, C], labels int32 [N] in [0, K), and K names."""

    images: np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Rows(Sequence[Mapping[str, Any]]):
    """Records {"image": uint8 [H, W, channels], "label": int} of some rows."""

    images: np.ndarray
    labels: np.ndarray
    channels: int
    background: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index]
        if image.shape[-1] != self.channels:
            picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            image = as_shown(picture, self.channels, self.background)
        return {"image": image, "label": int(self.labels[index])}


def open_arrays(split: str, data_dir: str | None, form: Form) -> ImageSource:
    """Opens the split "train", "test" or "all" of the file, or folder of files, `data_dir`.

    Raises ValueError for a file that is missing or
    damaged, arrays of another type or shape, labels out of range, and a class without an image.
    """
    colour = background_colour(form.background)
    images, labels, label_names = _of_split(local(data_dir or ""), split)
    stored = images.shape[1:]
    sides = stored[:2] if form.image_size is None else (form.image_size,) * 2
    shape = (*sides, form.channels or (1, 3)[stored[2] > 2])
    converted = stored != shape
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels).data)
    return ImageSource(
        name="npz",
        version="1",
        split=split,
        records=Rows(images, labels, shape[2], colour),
        labels=labels.tolist(),
        shape=shape,
        label_names=label_names,
        image_size=form.image_size if stored[:2] != sides else None,
        memory=new_memory(len(images), shape) if converted else None,
        identity={"decoder": decoder_name(colour), "sha256": digest.hexdigest()},
        resize=form.resize,
    )


def load_arrays(path: Path, known: tuple[str, ...] | None = None) -> Arrays:
    """The arrays of one file; ValueError for a missing one, and as `open_arrays`.

    `known` are the classes where the file has no names of them; None takes them from the labels.
    """
    try:
        with open_npz(path) as file:
            found = dict(file)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read ({error}): give a .npz of {_CONTENT}") from error
    images = found.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        what = f"the arrays {', '.join(found)}" if images is None else f"images {_form(images)}"
        raise ValueError(f"{path} has {what}: need {_CONTENT}")
    if images.shape[-1] > 4:
        raise ValueError(f"{path} has images {_form(images)}: need 1 to 4 channels, the last axis")
    labels = found.get("labels", np.zeros(len(images), np.int32))
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"{path} has labels {_form(labels)}: need {len(images)} integers from 0")
    if known is None:
        # Not more classes than images, as each needs one.
        numbers = map(str, range(min(int(labels.max()) + 1, len(images))))
        known = tuple(numbers) if "labels" in found else (UNLABELLED,)
    names = found.get("label_names", np.array(known))
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) != len(names):
        raise ValueError(f"{path} has label_names {_form(names)}: need K different strings")
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(
            f"{path} has labels from {labels.min()} to {labels.max()}: need 0 to {len(names) - 1} "
            f"for {len(names)} classes"
        )
    return Arrays(images, labels.astype(np.int32), tuple(names.tolist()))


def _of_split(place: Path, split: str) -> Arrays:
    """The rows of one split; a class must have one to train on."""
    if split not in ("train", "test", "all"):
        raise ValueError(f"split is {split!r}: {place} has train, test, all")
    train = load_arrays(place / "train.npz" if place.is_dir() else place)
    if (other := place / "test.npz").exists():
        chosen = _joined(train, load_arrays(other, train.label_names), other, split)
    else:
        held_out = np.array([is_held_out(str(row)) for row in range(len(train.labels))])
        rows = {"train": ~held_out, "test": held_out, "all": np.full_like(held_out, True)}[split]
        chosen = train._replace(images=train.images[rows], labels=train.labels[rows])
    counts = np.bincount(chosen.labels, minlength=len(chosen.label_names))
    if not counts.sum() or (split != "test" and not counts.all()):
        missing = [
            name for name, count in zip(chosen.label_names, counts, strict=True) if not count
        ]
        raise ValueError(
            f"{place} has no image of class {missing[0]!r} in split {split!r}: add some, or give "
            "split 'all', from which none are held out"
        )
    return chosen


def _joined(train: Arrays, test: Arrays, path: Path, split: str) -> Arrays:
    """Train, test or, for "all", both; ValueError if they are not of the same kind."""
    if (theirs := _kind(test)) != (ours := _kind(train)):
        raise ValueError(f"{path} has {theirs}, but train.npz {ours}: need the same")
    parts = {"train": [train], "test": [test], "all": [train, test]}[split]
    images, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return Arrays(images, labels, train.label_names)


def _kind(arrays: Arrays) -> str:
    size = " x ".join(map(str, arrays.images.shape[1:]))
    return f"images of {size} in the classes {', '.join(arrays.label_names)}"


def _form(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
