"""Points of the embedded Gaussian mixture."""

import numpy as np

from cfg_jax.data import open_source
from tests.data_files import stack


def test_mixture_points_have_the_frequencies_means_and_deviations_asked_for():
    means, std, weights = np.array([[0.0, 2.0], [3.0, -1.0]]), np.array([0.5, 0.1]), [3.0, 1.0]
    size = 40_000
    source = open_source("mixture", "train", means=means, std=std, weights=weights, size=size)
    x, labels = stack(source, "x"), stack(source, "label")
    assert x.shape == (size, 2) and x.dtype == np.float32 and labels.dtype == np.int32
    assert abs(labels.mean() - 1 / 4) < 5 * np.sqrt(3 / 16 / size)
    for k in range(2):
        points = x[labels == k].astype(np.float64)
        error = std[k] / np.sqrt(len(points))
        np.testing.assert_allclose(points.mean(0), means[k], atol=5 * error)
        np.testing.assert_allclose(points.std(0), std[k], atol=5 * error / np.sqrt(2))
        correlation = np.corrcoef(points.T)[0, 1]
        assert abs(correlation) < 5 / np.sqrt(len(points))


def test_mixture_points_depend_on_seed_and_split_alone():
    def points(split, seed):
        return stack(open_source("mixture", split, size=50, seed=seed), "x")

    np.testing.assert_array_equal(points("train", 3), points("train", 3))
    assert not np.isin(points("train", 3), points("test", 3)).any()
    assert not np.isin(points("train", 3), points("train", 4)).any()
