"""Small data sets on disk for the tests of `cfg_jax.data`, and disks that fill."""

import contextlib
import importlib.resources
import io
import resource

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def replace_download(monkeypatch, name, data_dir, images, labels):
    """Patches TFDS's builder of `name` to write the given images as PNG without a download."""
    builder = tfds.builder(name, data_dir=data_dir)

    def examples():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "png")
            values = {"image": file.getvalue(), "label": label}
            yield i, {key: values.get(key, "") for key in builder.info.features}

    monkeypatch.setattr(type(builder), "_split_generators", lambda *_: {"train": examples()})
    # TFDS imports an undeclared backport that the core install lacks.
    monkeypatch.setattr(tfds.core.dataset_builder, "importlib_resources", importlib.resources)
    return builder


def write_dataset(monkeypatch, name, data_dir, images, labels):
    builder = replace_download(monkeypatch, name, data_dir, images, labels)
    builder.download_and_prepare(file_format="array_record")
    return builder


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def stack(source, key):
    return np.stack([source[i][key] for i in range(len(source))])


class EncodedPictures(tfds.core.GeneratorBasedBuilder):
    """Files that `write_encoded` is given, as records with the labels 0, 1, 0, 1, ..."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None
    files = ()

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, file in enumerate(self.files):
            yield i, {"image": io.BytesIO(file), "label": i % 2}


def write_encoded(folder, files):
    """Writes encoded pictures as the TFDS data set `encoded_pictures`, in order."""
    builder = EncodedPictures(data_dir=str(folder))
    builder.files = files
    builder.download_and_prepare(file_format="array_record")


@contextlib.contextmanager
def files_up_to(size):
    """Context in which a file of this process that grows beyond `size` bytes fails, as on a full
    disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
