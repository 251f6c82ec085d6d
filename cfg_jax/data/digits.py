"""How do scikit-learn's 1,797 handwritten digits become a TFDS data set?

The builder turns grey levels 0..16 into 0..255 and keeps scikit-learn's order: example i of
"train" is row i, example i of "test" row 1500 + i. It writes array_record and passes PIL images,
which are what TFDS can write without TensorFlow.
"""

import contextlib
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

NUM_TRAIN = 1500
_WHITE = 16  # load_digits counts the inked pixels of 4x4 blocks: 0..16


class Digits(tfds.core.GeneratorBasedBuilder):
    """UCI optical digits, uint8 images [8, 8, 1] in 10 classes: 1,500 to train, 297 to test."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS looks beside the code for checksums of downloads, which needs importlib_resources, a
    # package it does not declare; there are no downloads here.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="scikit-learn's load_digits, the UCI optical digits at 8x8.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            "train": self._generate_examples(slice(NUM_TRAIN)),
            "test": self._generate_examples(slice(NUM_TRAIN, None)),
        }

    def _generate_examples(self, rows: slice):
        digits = load_digits()
        images = np.rint(digits.images[rows] * (255 / _WHITE)).astype(np.uint8)
        for i, (image, label) in enumerate(zip(images, digits.target[rows], strict=True)):
            yield i, {"image": Image.fromarray(image), "label": int(label)}


def prepare_digits(data_dir: str | None = None) -> Digits:
    """Writes the digits under `data_dir` unless they are there; returns their builder.

    TFDS writes into a directory of its own and renames it when all is written, so a process that
    is killed leaves nothing that looks prepared, and of two that start at once the slower one
    finds the name taken: its error is ignored when the data set is there. ValueError where
    `data_dir` cannot be written, or holds a directory of that name that is no data set.
    """
    builder = Digits(data_dir=data_dir)
    if builder.is_prepared():
        return builder
    path = builder.data_path
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            # TFDS speaks of a download, and draws bars for what takes a second.
            builder.download_and_prepare(file_format="array_record")
    except OSError as error:
        if not Digits(data_dir=data_dir).is_prepared():
            raise ValueError(
                f"digits cannot be written to {path} ({error}): give a data_dir that can be written"
            ) from error
    # The other process may have written it, and a builder reads the metadata when it is made.
    builder = Digits(data_dir=data_dir)
    if not builder.is_prepared():
        raise ValueError(f"{path} is not a complete data set: delete it, digits are written anew")
    return builder
