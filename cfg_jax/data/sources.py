"""Random access to the examples of a data set: the interface, and stored 8-bit images."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from cfg_jax.data.preprocessing import RESIZES
from cfg_jax.io.images import to_x
from cfg_jax.io.text import one_line

# Largest data set to cache, more than CIFAR-10: decoding an example takes 0.25 ms, which slows a
# small network on a CPU.
_MEMORY_BYTES = 2**28

# Largest size of records whose labels alone are read, 0.5 GB: half of CIFAR-10's take a second.
_MOST_LABELLED = 2**29

_T = TypeVar("_T")

OWN = "source:"
"""Start of the data set's name in the config of a run that was given a source."""


class Form(NamedTuple):
    """Form of the examples made of stored images; arguments of `opening.open_source`.

    image_size: side in pixels, or None to keep the images.
    channels: 1 or 3, or None for those of the data set.
    background: colour behind transparent parts.
    resize: how images are cropped and resized, a key of RESIZES.
    """

    image_size: int | None = None
    channels: int | None = None
    background: str = "white"
    resize: str = "area"


class Source(Protocol):
    """Random access to one split: `source[i]` is {"x": float32 `shape`, "label": int32 []}.

    `shape` is (H, W, C) for images and (D,) for points; labels are in [0, num_classes). A source of
    square images may also have `ImageSource.random_crop`, and any source `labels`, the integers [N]
    of all examples.
    """

    @property
    def name(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def label_names(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...
    def fingerprint(self) -> dict: ...


@dataclasses.dataclass(frozen=True)
class Chosen(Sequence[Any]):
    """Records, or labels, at some indices of others."""

    records: Sequence[Any]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index):
        return self.records[self.indices[index]]


@dataclasses.dataclass(frozen=True)
class StoredLabels(Sequence[int]):
    """The labels of stored records; an access decodes no image."""

    records: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index):
        return retried(lambda: self.records[index])["label"]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSource:
    """A labelled image data set; images keep their channels, 1 for grey and 3 for colour.

    Attributes:
      records: `records[i]` is {"image": uint8 [h, w, C], "label": int} as stored.
      image_size: side in pixels to crop and resize to, or None to keep images as stored.
      memory: cache of images and labels by index and image_size, or None to read every time. Images
        larger than examples are not cached, because all of them may not fit in memory.
      identity: further JSON values that the examples depend on, such as the decoder.
      labels: the label of every record, or None if reading them takes long.
      resize: how images are cropped and resized, a key of `preprocessing.RESIZES`.
    """

    name: str
    version: str
    split: str
    records: Sequence[Mapping[str, Any]]
    shape: tuple[int, int, int]
    label_names: tuple[str, ...]
    image_size: int | None = None
    memory: dict[tuple[int, int | None], tuple[np.ndarray, np.int32]] | None = None
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: Sequence[int] | None = None
    resize: str = "area"

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"x": float32 [H, W, C] in [-1, 1], "label": int32 [] in [0, num_classes)}.

        Raises IndexError if index is outside the source. Raises RuntimeError if the example cannot
        be read, after one retry on OSError, or if its shape or label does not match the data set.
        """
        image, label = self._read(index, self.image_size)
        return {"x": to_x(image), "label": label}

    def random_crop(
        self, index: int, rng: np.random.Generator, *, min_crop: float
    ) -> dict[str, np.ndarray]:
        """Example `index` from a random square of its image (`preprocessing.random_square`).

        Resizes a square of the stored image to H = W pixels a side; `self[index]` is the central
        square. Consumes `rng`; raises as `self[index]`.
        """
        image, label = self._read(index, None)
        square = RESIZES[self.resize].random(rng, image, self.shape[0], min_crop)
        return {"x": to_x(square), "label": label}

    def _read(self, index: int, size: int | None) -> tuple[np.ndarray, np.int32]:
        """The image, uint8, `size` pixels a side or, for None, as stored; and its label."""
        index = range(len(self))[index]
        known = None if self.memory is None else self.memory.get((index, size))
        if known is not None:
            return known
        try:
            image, label = self._checked(self._record(index))
            image = image if size is None else RESIZES[self.resize].central(image, size)
        except Exception as error:
            where = f"{self.name}, split {self.split}: example {index}"
            raise RuntimeError(
                f"{where} cannot be used: {one_line(error)}; "
                "config.data.on_error=skip leaves it out"
            ) from error
        if self.memory is not None and image.size <= math.prod(self.shape):
            self.memory[index, size] = image, label
        return image, label

    def _record(self, index: int) -> Mapping[str, Any]:
        return retried(lambda: self.records[index])

    def _checked(self, record: Mapping[str, Any]) -> tuple[np.ndarray, np.int32]:
        """The record's image and label; raises ValueError if they do not match the data set."""
        image, label = record["image"], checked_label(record["label"], self.num_classes)
        sides = self.shape[:2] if self.image_size is None else image.shape[:2]
        if image.shape != (*sides, self.shape[2]):
            raise ValueError(f"image is {image.shape}, must be {(*sides, self.shape[2])}")
        return image, np.int32(label)

    def without(self, left_out: Iterable[int]) -> "ImageSource":
        """The source without some examples, which its fingerprint lists."""
        left_out = sorted(left_out)
        indices = sorted(set(range(len(self))) - set(left_out))
        return dataclasses.replace(
            self,
            records=Chosen(self.records, indices),
            identity={**self.identity, "left_out": left_out},
            memory=new_memory(len(indices), self.shape),
            labels=None if self.labels is None else Chosen(self.labels, indices),
        )

    def fingerprint(self) -> dict:
        """Everything the examples depend on, as JSON values; compared when a run is resumed."""
        method = {"area": "center crop, area mean", "adm": "ADM's center crop"}[self.resize]
        return {
            "dataset": self.name,
            "version": self.version,
            "split": self.split,
            "num_examples": len(self),
            "shape": list(self.shape),
            "preprocessing": "none"
            if self.image_size is None
            else f"{method} to {self.image_size}",
            "content": self._content,
            **self.identity,
        }

    @functools.cached_property
    def _content(self) -> int:
        """crc32 of the first, the middle and the last example as stored."""
        crc, last = 0, len(self) - 1
        for index in sorted({0, last // 2, last}):
            for part in self._read(index, None):
                crc = zlib.crc32(np.ascontiguousarray(part).data, crc)
        return crc


def stored_labels(records: Sequence[Mapping[str, Any]]) -> StoredLabels | None:
    """The labels of records on disk; None if there are too many to read in seconds.

    The size of the first record stands for all.
    """
    size = len(records) * len(records[0]["image"])
    return StoredLabels(records) if size <= _MOST_LABELLED else None


def class_counts(source: Source) -> tuple[int, ...] | None:
    """Number of examples of each of the K classes; None for a source without `labels`.

    Raises ValueError for a label that cannot be read, or is not an integer in 0..K - 1.
    """
    labels, found = getattr(source, "labels", None), []
    if labels is None:
        return None
    for i in range(len(source)):
        try:
            found.append(checked_label(labels[i], source.num_classes))
        except Exception as error:  # the readers of records raise many types
            where = f"{source.name}, split {source.split}: example {i}"
            raise ValueError(f"{where} cannot be used: {one_line(error)}") from error
    return tuple(np.bincount(found, minlength=source.num_classes).tolist())


def retried(read: Callable[[], _T]) -> _T:
    """The result of `read`, called again after an OSError: a network disk may fail once."""
    try:
        return read()
    except OSError:
        return read()


def new_memory(count: int, shape: tuple[int, ...]) -> dict | None:
    """An empty cache for `ImageSource`, or None if the examples may not fit in memory."""
    return {} if count * math.prod(shape) <= _MEMORY_BYTES else None


def checked_label(label: Any, num_classes: int | None = None) -> int:
    """`label` as an int; ValueError unless it is an integer in 0..num_classes - 1."""
    array = np.asarray(label)
    if array.shape != () or array.dtype.kind not in "iu":
        raise ValueError(f"label is {label!r}: give one integer")
    if array < 0 or (num_classes is not None and array >= num_classes):
        raise ValueError(
            f"label is {array}: {num_classes} classes have the labels 0..{(num_classes or 0) - 1}"
        )
    return int(array)
