"""Opening of a data set by name, after checking that it is complete and labelled.

`open_source` raises a one-line error, before anything is compiled, if a data set is missing,
unlabelled, incomplete or in a different format. `describe` needs only TFDS's metadata, no files.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds

from cfg_jax.data.digits import prepare_digits
from cfg_jax.data.mixture import open_mixture
from cfg_jax.data.preparation import check_format, expand_user, find_builder, prepare_command
from cfg_jax.data.sources import ImageSource, Source, one_line

# Largest data set to cache, more than CIFAR-10: decoding an example takes 0.25 ms, which slows a
# small network on a CPU.
_MEMORY_BYTES = 2**28


def open_source(
    name: str,
    split: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    **mixture: Any,
) -> Source:
    """Opens one split of a data set.

    Args:
      name: "digits" (written on first use), "mixture" (drawn), or a TFDS name prepared with
        `prepare`, such as "cifar10", "imagenet_resized/64x64" or "imagenet2012".
      split: TFDS split, such as "train", "train[:10%]", "train+test", "all".
      data_dir: folder of the data sets; None is the TFDS default.
      image_size: side of the square that images are cropped and averaged to; None keeps the images.
      **mixture: arguments of `mixture.open_mixture`, for "mixture" only.

    Raises ValueError if name or split is unknown, if the data set is not prepared, incomplete or
    without labels, or if images vary in shape and `image_size` is None.
    """
    if name == "mixture":
        if image_size is not None:
            raise ValueError(f"image_size is {image_size}, and mixture has no images: give None")
        return open_mixture(split, **mixture)
    if mixture:
        raise ValueError(f"{', '.join(mixture)} given with {name}: only mixture takes arguments")
    data_dir = expand_user(data_dir)
    builder = prepare_digits(data_dir) if name == "digits" else find_builder(name, data_dir)
    if not builder.is_prepared():
        where = builder.data_path
        raise ValueError(f"{name} is not in {where}: {prepare_command(builder, data_dir)}")
    check_format(builder, data_dir)
    features = _features(builder)
    records = _open_records(builder, name, split)
    shape = _image_shape(features, name, image_size)
    source = ImageSource(
        name=name,
        version=str(builder.version),
        split=split,
        records=records,
        shape=shape,
        label_names=_label_names(features, name),
        image_size=None if shape == features["image"].shape else image_size,
        memory={} if len(records) * math.prod(shape) <= _MEMORY_BYTES else None,
    )
    try:
        source[0]  # raises for labels that are all -1 and files that cannot be decoded
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return source


def describe(
    name: str, *, data_dir: str | None = None, image_size: int | None = None, **mixture: Any
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(shape of one example, class names) of a data set, prepared or not.

    Arguments as for `open_source`; `data_dir` is ignored. Raises ValueError if the name is unknown,
    if the data set has no 8-bit images or no labels, or if images vary in shape and `image_size` is
    None.
    """
    del data_dir
    if name == "mixture":
        source = open_mixture("train", **mixture)
        return source.shape, source.label_names
    features = _features(find_builder(name, None))
    return _image_shape(features, name, image_size), _label_names(features, name)


def label_names(name: str) -> tuple[str, ...]:
    """The class names of a TFDS data set in the order of its labels, prepared or not.

    "imagenet2012" has the 1,000 WordNet ids in ascending order, the order of ADM's labels;
    "imagenet_resized/64x64" has the same ids in another order. Names stored only with the data,
    such as CIFAR-10's, are numbers unless the data is in TFDS's default folder. Raises ValueError
    if the name is unknown or the data set has no labels.
    """
    if name == "mixture":
        raise ValueError("mixture has one class per mean: open it and read its label_names")
    return _label_names(_features(find_builder(name, None)), name)


def _features(builder) -> dict[str, Any]:
    return dict(builder.info.features.items())


def _open_records(builder, name: str, split: str) -> Sequence[Mapping[str, Any]]:
    """The stored examples of `split`, after checking that its files are complete."""
    splits = builder.info.splits
    try:
        files = splits[split].file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        raise ValueError(
            f"split is {split!r}: {name} has {', '.join(splits)}; give one, a slice such as"
            " train[:10%] or a sum such as a+b"
        ) from error
    if not files:
        raise ValueError(f"split {split!r} of {name} has no examples: give a longer slice")
    records = builder.as_data_source(split=split)
    expected = {file.filename: file.examples_in_shard for file in files}
    try:
        # Counts complete files, because a slice takes its length from the metadata.
        found = len(grain.sources.ArrayRecordDataSource(sorted(expected)))
    except Exception as error:
        reason = one_line(error)
        raise ValueError(
            f"{builder.data_path} cannot be read ({reason}): delete it and prepare {name} again"
        ) from error
    if found != sum(expected.values()):
        raise ValueError(
            f"{builder.data_path} holds {found} of the {sum(expected.values())} examples in split"
            f" {split!r}: delete it and prepare {name} again"
        )
    return records


def _image_shape(features: dict, name: str, image_size: int | None) -> tuple[int, int, int]:
    """(H, W, C) of every example; raises ValueError if not 8-bit images of one shape."""
    image = features.get("image")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
        raise ValueError(f"{name} has no 8-bit feature `image`: give an image data set")
    height, width, channels = image.shape
    if image_size is not None:
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}: give a side of at least 1 pixel")
        height = width = image_size
    if None in (height, width):
        raise ValueError(f"images of {name} vary in shape: give image_size, such as 64")
    return height, width, channels


def _label_names(features: dict, name: str) -> tuple[str, ...]:
    label = features.get("label")
    if not isinstance(label, tfds.features.ClassLabel):
        raise ValueError(f"{name} has no class feature `label`: give a data set with labels")
    return tuple(label.names)
