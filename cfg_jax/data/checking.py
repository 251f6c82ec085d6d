"""Does a source of one's own give what a denoiser can be trained on?

The label K of a source with K classes would train "no label", a negative one NaN, and images of
0..255 a network for other data. None of these fails by itself.
"""

from typing import Any

import numpy as np

from cfg_jax.data.sources import ImageSource, Source

MOST_READ = 1000
"""Number of examples read before the first step, evenly spaced over the source."""


def check_source(source: Source) -> None:
    """Raises ValueError for a source whose examples are not what it says.

    Checks all of `source.labels` if it has that array [N], otherwise the labels of MOST_READ
    examples, and the shape, type and range of their x. An `ImageSource` checks itself.
    """
    if isinstance(source, ImageSource):
        return
    count = len(source.label_names)
    if source.num_classes != count:
        raise ValueError(
            f"{source.name} has num_classes={source.num_classes} and {count} label_names: give one "
            "name per class"
        )
    if not len(source):
        raise ValueError(f"{source.name} has no examples: give one or more")
    labels = getattr(source, "labels", None)
    if labels is not None:
        check_labels(source, np.asarray(labels))
    for index in np.unique(np.linspace(0, len(source) - 1, MOST_READ).astype(int)).tolist():
        try:
            _check_example(source, source[index])
        except ValueError as error:
            raise ValueError(f"{source.name}, example {index}: {error}") from error


def check_labels(source: Source, labels: np.ndarray) -> None:
    """Raises ValueError unless `labels` has an integer in 0..K - 1 for every example."""
    if labels.shape != (len(source),):
        raise ValueError(
            f"{source.name} has labels of shape {labels.shape}: give one for each of its "
            f"{len(source)} examples"
        )
    kinds = labels.dtype.kind in "iu"
    wrong = (labels < 0) | (labels >= source.num_classes) if kinds else np.ones(len(labels), bool)
    if wrong.any():
        index = int(np.argmax(wrong))
        try:
            checked_label(labels[index], source.num_classes)
        except ValueError as error:
            raise ValueError(f"{source.name}, example {index}: {error}") from error


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


def _check_example(source: Source, example: dict[str, np.ndarray]) -> None:
    checked_label(example["label"], source.num_classes)
    x, shape = np.asarray(example["x"]), tuple(source.shape)
    if x.shape != shape or x.dtype.kind != "f":
        raise ValueError(f"x is {x.dtype}{list(x.shape)}: give float32{list(shape)}")
    if not np.isfinite(x).all():
        raise ValueError("x has nan or inf: give finite numbers")
    if len(shape) == 3 and np.abs(x).max() > 1 + 1e-4:
        raise ValueError(f"x is in [{x.min():g}, {x.max():g}]: give images in [-1, 1]")
