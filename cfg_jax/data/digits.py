"""scikit-learn's 1,797 handwritten digits as a TFDS data set.

Grey levels 0..16 are scaled to 0..255. Example i of "train" is row i of scikit-learn's array,
example i of "test" row 1500 + i. Both the array_record format and PIL images avoid TensorFlow.
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
    # None stops a search for download checksums, which needs the undeclared importlib_resources.
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
    """Writes the digits under `data_dir` if they are missing; returns their builder.

    TFDS renames a temporary directory at the end, so a killed process leaves no partial data set.
    If two processes write at once, the slower finds a complete data set and ignores its own error.
    Raises ValueError if `data_dir` is not writable or holds an incomplete data set of that name.
    """
    builder = Digits(data_dir=data_dir)
    if builder.is_prepared():
        return builder
    path = builder.data_path
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            # TFDS announces a download and draws progress bars.
            builder.download_and_prepare(file_format="array_record")
    except OSError as error:
        if not Digits(data_dir=data_dir).is_prepared():
            raise ValueError(
                f"digits cannot be written to {path} ({error}): give a writable data_dir"
            ) from error
    # The other process may have written it, and only a new builder reads the metadata.
    builder = Digits(data_dir=data_dir)
    if not builder.is_prepared():
        raise ValueError(f"{path} is not a complete data set: delete it to write it again")
    return builder
