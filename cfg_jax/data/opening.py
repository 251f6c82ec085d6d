"""Opening of a data set by name, after checking that it is complete and labelled.

`open_source` raises a one-line error, before anything is compiled, if a data set is missing,
unlabelled, incomplete or in a different format. `describe` needs none of TFDS's files of examples.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds

from cfg_jax.data.arrays import open_arrays
from cfg_jax.data.decoding import Decoded, background_colour, decoder_name, is_plain
from cfg_jax.data.examining import Report, examine, readable
from cfg_jax.data.folders import open_folder
from cfg_jax.data.metadata import dataset_folder
from cfg_jax.data.mixture import open_mixture
from cfg_jax.data.packaged import prepare_packaged
from cfg_jax.data.preparation import (
    PACKAGED,
    WITHOUT_TFDS,
    check_format,
    expand_user,
    find_builder,
    prepare_command,
)
from cfg_jax.data.preprocessing import RESIZES
from cfg_jax.data.sources import Form, ImageSource, Source, new_memory, stored_labels
from cfg_jax.io.files import in_bucket
from cfg_jax.io.reading import UNREADABLE
from cfg_jax.io.text import one_line, shown

_NUM_PROBED = 16
_MOST_CLASSES = 2**20


def open_source(
    name: str,
    split: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    background: str = "white",
    on_error: str = "raise",
    resize: str = "area",
    **mixture: Any,
) -> Source:
    """Opens one split of a data set.

    Args:
      name: "folder" (pictures, see `layout`), "npz" (see `arrays`), "digits", "digits28" or "emoji"
        (written on first use), "mixture" (drawn), or a TFDS name prepared with `prepare`, such as
        "cifar10", "imagenet_resized/64x64" or "imagenet2012".
      split: TFDS split, such as "train", "train[:10%]", "train+test", "all"; of a folder or
        .npz "train", "test" or "all".
      data_dir: the folder of pictures, the .npz or its folder, or the folder of TFDS data sets;
        None is the TFDS default.
      image_size: side of the square that images are cropped and resized to; None keeps the images.
      channels: 1 for grey, 3 for colour; None has those of the data set, without transparency.
      background: colour behind transparent parts of an image, such as "white" or "#ff8000".
      on_error: "raise" for a ValueError that names the images that cannot be decoded, "skip" to
        leave them out with a warning. A TFDS data set too large for memory is decoded at opening
        for "skip" only; "raise" is then a RuntimeError when such an example comes up.
      resize: "area" averages the central square; "adm" resizes the shorter side as ADM and JiT do,
        with bicubic interpolation, then crops.
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
    form = Form(image_size, channels, background, resize)
    source, bad = open_unchecked(name, split, data_dir, form)
    # What fits in memory is decoded now instead of in the first epoch.
    if bad is None and (on_error == "skip" or (source.memory is not None and name not in PACKAGED)):
        bad = examine(source).bad
    source = readable(source, bad or {}, on_error)
    try:
        source.fingerprint()  # reads three: raises for labels that are all -1, and damage there
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return source


def open_unchecked(
    name: str, split: str, data_dir: str | None, form: Form
) -> tuple[ImageSource, dict[int, str] | None]:
    """An image data set as `open_source` opens it, with the examples that cannot be read.

    Returns the source and {index: reason} of these examples; None in place of the dict if nothing
    was decoded yet.
    """
    if form.image_size is not None and form.image_size < 1:
        raise ValueError(f"image_size is {form.image_size}: give a side of at least 1 pixel")
    if form.resize not in RESIZES:
        raise ValueError(f"resize is {form.resize!r}: give one of {', '.join(RESIZES)}")
    if name == "folder":
        return open_folder(split, data_dir, form)
    if name == "npz":
        return open_arrays(split, data_dir, form), {}
    data_dir = expand_user(data_dir)
    try:
        return _open_tfds(name, split, data_dir, form), None
    except Exception as error:  # TFDS and its readers raise many types for damaged files
        if isinstance(error, UNREADABLE) and "\n" not in str(error):
            raise
        where = dataset_folder(name, data_dir)
        raise ValueError(f"{where} cannot be opened: {one_line(error)}") from error


def _open_tfds(name: str, split: str, data_dir: str | None, form: Form) -> ImageSource:
    if dataset := PACKAGED.get(name):
        builder = prepare_packaged(dataset, data_dir)
    else:
        builder = find_builder(name, data_dir)
    if not builder.is_prepared():
        where = builder.data_path
        raise ValueError(f"{name} is not in {where}: {prepare_command(builder, data_dir)}")
    check_format(builder, data_dir)
    features = _features(builder)
    shape = _image_shape(features, name, form)
    stored = _open_records(builder, name, split)
    records = Decoded(stored, shape[2], background_colour(form.background))
    return ImageSource(
        name=name,
        version=str(builder.version),
        split=split,
        records=records,
        shape=shape,
        label_names=_label_names(features, name),
        image_size=None if shape[:2] == features["image"].shape[:2] else form.image_size,
        memory=new_memory(len(records), shape),
        identity=_decoder(stored, records.background),
        labels=stored_labels(stored),
        resize=form.resize,
    )


def check(name: str, *, data_dir: str | None = None) -> Report:
    """Reads every example of all splits of a data set once, of any size.

    Raises ValueError as `open_source`, except for examples that cannot be read, which are listed.
    """
    if name == "mixture":
        return examine(open_mixture("train"))
    varies = name == "folder"
    if name not in WITHOUT_TFDS:
        image = _features(find_builder(name, expand_user(data_dir))).get("image")
        varies = None in getattr(image, "shape", ())
    form = Form(image_size=1 if varies else None)
    return examine(open_unchecked(name, "all", data_dir, form)[0])


def describe(name: str, **arguments: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(shape of one example, class names) of a data set, prepared or not.

    Arguments as for `open_source`; TFDS's metadata needs no `data_dir`. Raises ValueError if the
    name is unknown, if the data set has no images or no labels, or if images vary in shape and
    `image_size` is None.
    """
    if name in WITHOUT_TFDS:
        source = open_source(name, "train", **arguments)
        return source.shape, source.label_names
    features = _features(find_builder(name, None))
    form = Form(**{field: arguments[field] for field in Form._fields if field in arguments})
    return _image_shape(features, name, form), _label_names(features, name)


def label_names(name: str) -> tuple[str, ...]:
    """The class names of a TFDS data set in the order of its labels, prepared or not.

    "imagenet2012" has the 1,000 WordNet ids in ascending order, the order of ADM's labels;
    "imagenet_resized/64x64" has the same ids in another order. Names stored only with the data,
    such as CIFAR-10's, are numbers unless the data is in TFDS's default folder. Raises ValueError
    if the name is unknown or the data set has no labels.
    """
    if name in WITHOUT_TFDS:
        raise ValueError(f"{name} has classes of its own: open it and read its label_names")
    return _label_names(_features(find_builder(name, None)), name)


def _features(builder) -> dict[str, Any]:
    if not isinstance(builder.info.features, tfds.features.FeaturesDict):
        raise ValueError(f"{builder.name} has no named features: give a data set of images")
    return dict(builder.info.features.items())


def _open_records(builder, name: str, split: str) -> Sequence[Mapping[str, Any]]:
    """The stored examples of `split`, after checking that its files are complete."""
    splits = builder.info.splits
    try:
        files = splits[split].file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        if split in splits:
            raise ValueError(
                f"split {split!r} in {builder.data_path} is damaged ({one_line(error)}): delete it "
                f"and prepare {name} again"
            ) from error
        raise ValueError(
            f"split is {split!r}: {name} has {', '.join(splits)}; give one, a slice such as"
            " train[:10%] or a sum such as a+b"
        ) from error
    if not files:
        raise ValueError(f"split {split!r} of {name} has no examples: give a longer slice")
    expected = {file.filename: file.examples_in_shard for file in files}
    absent = (file for file in expected if not in_bucket(file) and not os.path.isfile(file))
    if (file := next(absent, None)) is not None:
        raise ValueError(
            f"{builder.data_path} cannot be read (it has no file {shown(os.path.basename(file))}): "
            f"delete it and prepare {name} again"
        )
    encoded = {"image": tfds.decode.SkipDecoding()}
    records = builder.as_data_source(split=split, decoders=encoded)
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


def _decoder(records: Sequence[Mapping[str, Any]], background: tuple[int, int, int]) -> dict:
    """The decoder as a part of the fingerprint; {} for plain images over white.

    Data sets of plain images, judged by _NUM_PROBED examples, keep the fingerprint that they had
    when TFDS decoded them, so that old runs resume.
    """
    probed = np.linspace(0, len(records) - 1, _NUM_PROBED).round().astype(int)
    plain = (is_plain(records[index]["image"]) for index in np.unique(probed).tolist())
    if background == background_colour("white") and all(plain):
        return {}
    return {"decoder": decoder_name(background)}


def _image_shape(features: dict, name: str, form: Form) -> tuple[int, int, int]:
    """(H, W, C) of every example; raises ValueError if not images of one shape."""
    image = features.get("image")
    known = isinstance(image, tfds.features.Image) and len(image.shape) == 3
    if image is None or not known or image.np_dtype == np.float32:
        raise ValueError(f"{name} has no feature `image` of 8 or 16 bits: give an image data set")
    height, width, stored = image.shape
    # The second of two channels and the fourth of four are transparency.
    channels = form.channels or (1 if stored in (1, 2) else 3)
    if form.image_size is not None:
        height = width = form.image_size
    if None in (height, width):
        raise ValueError(f"images of {name} vary in shape: give image_size, such as 64")
    return height, width, channels


def _label_names(features: dict, name: str) -> tuple[str, ...]:
    label = features.get("label")
    if not isinstance(label, tfds.features.ClassLabel):
        raise ValueError(f"{name} has no class feature `label`: give a data set with labels")
    if not 0 < label.num_classes <= _MOST_CLASSES:
        raise ValueError(f"{name} has {label.num_classes} classes: need 1 to {_MOST_CLASSES}")
    return tuple(label.names)
