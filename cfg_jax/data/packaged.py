"""TFDS data sets made of what Python packages ship: no download, no TensorFlow."""

import abc
import contextlib
import importlib.util
import io
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cfg_jax.data.metadata import checked_metadata
from cfg_jax.io.text import extra, one_line


class Pictures(NamedTuple):
    """Images uint8 [N, H, W] or [N, H, W, 3], integer labels [N], bool [N], True if held out."""

    images: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray


class Packaged(tfds.core.GeneratorBasedBuilder):
    """Base of data sets with a training and a test split, stored as array_record in order.

    Attributes of a data set:
      SHAPE: (H, W, C) of its images.
      CLASSES: class names, or their number.
      MODULES: modules that `pictures` imports; the extra of the data set's name installs them.
      ABOUT: (description, address).
    """

    VERSION = tfds.core.Version("1.0.0")
    # None stops a search for download checksums, which needs the undeclared importlib_resources.
    code_path = None
    SHAPE: ClassVar[tuple[int, int, int]]
    CLASSES: ClassVar[int | tuple[str, ...]]
    MODULES: ClassVar[tuple[str, ...]] = ()
    ABOUT: ClassVar[tuple[str, str]]

    @staticmethod
    @abc.abstractmethod
    def pictures() -> Pictures:
        """All examples."""

    def _info(self) -> tfds.core.DatasetInfo:
        named = "num_classes" if isinstance(self.CLASSES, int) else "names"
        features = {
            "image": tfds.features.Image(shape=self.SHAPE, encoding_format="png"),
            "label": tfds.features.ClassLabel(**{named: self.CLASSES}),
        }
        description, homepage = self.ABOUT
        return tfds.core.DatasetInfo(
            builder=self,
            description=description,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage=homepage,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        images, labels, held_out = self.pictures()
        return {
            "train": self._generate_examples(images[~held_out], labels[~held_out]),
            "test": self._generate_examples(images[held_out], labels[held_out]),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": Image.fromarray(image), "label": int(label)}


def prepare_packaged(dataset: Callable[..., Packaged], data_dir: str | None = None) -> Packaged:
    """Writes a data set under `data_dir` if it is missing; returns its builder.

    TFDS renames a temporary directory at the end, so a killed process leaves no partial data set.
    If two processes write at once, the slower finds a complete data set and ignores its own error.
    Raises ValueError if its package is not installed, or if `data_dir` is not writable or holds an
    incomplete data set of that name.
    """
    builder = _built(dataset, data_dir)
    if builder.is_prepared():
        return builder
    path = builder.data_path
    if absent := [module for module in builder.MODULES if not importlib.util.find_spec(module)]:
        raise ValueError(
            f"data set {builder.name!r} needs {' and '.join(absent)}, not installed: run"
            f" {extra(builder.name)}"
        )
    print(f"writing the data set {builder.name} to {path}, once", flush=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            # TFDS announces a download and draws progress bars.
            builder.download_and_prepare(file_format="array_record")
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError of array_record
        if not _built(dataset, data_dir).is_prepared():
            raise ValueError(
                f"{builder.name} cannot be written to {path} ({one_line(error)}): give a writable "
                "data_dir with free space"
            ) from error
    # The other process may have written it, and only a new builder reads the metadata.
    builder = _built(dataset, data_dir)
    if not builder.is_prepared():
        raise ValueError(f"{path} is not a complete data set: delete it to write it again")
    return builder


def _built(dataset: Callable[..., Packaged], data_dir: str | None) -> Packaged:
    with checked_metadata(getattr(dataset, "name", ""), data_dir):
        return dataset(data_dir=data_dir)
