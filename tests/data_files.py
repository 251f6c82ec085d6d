"""Small data sets on disk for the tests of `cfg_jax.data`."""

import importlib.resources
import io

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
