"""Checks of a caller's own source, before the first training step.

With K classes, label K would silently train the null label, and a negative label gives NaN. Images
in 0..255 would train a network for the wrong range.
"""

import numpy as np

from cfg_jax.data.sources import ImageSource, Source, checked_label

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


def _check_example(source: Source, example: dict[str, np.ndarray]) -> None:
    checked_label(example["label"], source.num_classes)
    x, shape = np.asarray(example["x"]), tuple(source.shape)
    if x.shape != shape or x.dtype.kind != "f":
        raise ValueError(f"x is {x.dtype}{list(x.shape)}: give float32{list(shape)}")
    if not np.isfinite(x).all():
        raise ValueError("x has nan or inf: give finite numbers")
    if len(shape) == 3 and np.abs(x).max() > 1 + 1e-4:
        raise ValueError(f"x is in [{x.min():g}, {x.max():g}]: give images in [-1, 1]")
