"""Statistics files, ours and other programs'."""

import pickle
import zipfile

import numpy as np
import pytest

from cfg_jax import metrics
from cfg_jax.metrics import FeatureStatistics


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def test_saved_statistics_come_back_with_what_they_were_computed_from(tmp_path):
    pool, spatial = FeatureStatistics.of(normal(25, 50, 4)), FeatureStatistics.of(normal(26, 50, 3))
    path = tmp_path / "new" / "reference.npz"
    metrics.save_statistics(path, pool, spatial=spatial, data="digits/train", resize=[8, 8])
    loaded = metrics.load_statistics(path)
    assert loaded.manifest == {"data": "digits/train", "resize": [8, 8]}
    for found, stats in ((loaded.pool, pool), (loaded.spatial, spatial)):
        assert found.count == 50
        np.testing.assert_array_equal(found.mean, stats.mean)
        np.testing.assert_array_equal(found.covariance, stats.covariance)
    metrics.save_statistics(path, pool)
    assert metrics.load_statistics(path).spatial is None
    assert [entry.name for entry in path.parent.iterdir()] == ["reference.npz"]


def test_files_of_other_programs_are_read_and_theirs_read_ours(tmp_path):
    mu, sigma = normal(27, 3).astype(np.float32), np.eye(3)
    np.savez(tmp_path / "pytorch_fid.npz", mu=mu, sigma=sigma)
    found = metrics.load_statistics(tmp_path / "pytorch_fid.npz")
    assert found.spatial is None and found.manifest == {} and found.pool.count is None
    np.testing.assert_array_equal(found.pool.mean, mu)
    assert found.pool.mean.dtype == found.pool.covariance.dtype == np.float64
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(
        tmp_path / "adm.npz", arr_0=images, mu=mu, sigma=sigma, mu_s=mu[:2], sigma_s=sigma[:2, :2]
    )
    np.testing.assert_array_equal(
        metrics.load_statistics(tmp_path / "adm.npz").spatial.mean, mu[:2]
    )
    metrics.save_statistics(tmp_path / "ours.npz", FeatureStatistics.of(normal(28, 9, 3)))
    with np.load(tmp_path / "ours.npz") as file:
        assert file["mu"].shape == (3,) and file["sigma"].shape == (3, 3)


def write_damaged(path):
    np.savez(path, mu=normal(29, 500), sigma=np.eye(500))
    path.write_bytes(path.read_bytes()[:-700])


def write_one_array(path):
    with path.open("wb") as file:
        np.save(file, np.eye(3))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a file ran code",))


def write_text_entry(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mu", "0, 0")
        archive.writestr("sigma", "1")


def stored(**arrays):
    return lambda path: np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (write_damaged, "cannot be read"),
        (write_one_array, "a single array"),
        (lambda path: path.write_bytes(pickle.dumps({"mu": Trap()})), "is not an .npz of plain"),
        (stored(mu=np.array([Trap()], object), sigma=np.eye(1)), "is not an .npz of plain"),
        (stored(arr_0=np.zeros((2, 4, 4, 3))), "holds arr_0, no mu and sigma"),
        (stored(mu=np.zeros(3), sigma=np.eye(2)), r"mu float64\[3\] and sigma float64\[2, 2\]"),
        (stored(mu=np.array(["a"]), sigma=np.eye(1)), "give numbers"),
        (stored(mu=np.zeros(2), sigma=np.diag([1, np.nan])), "nan or inf in mu or sigma"),
        (stored(mu=np.zeros(2), sigma=np.eye(2), manifest="{"), "cannot be read"),
        (stored(mu=np.zeros(2), sigma=np.eye(2), manifest="[1]"), "not the text of a JSON object"),
        (stored(mu=np.zeros(2), sigma=np.eye(2), manifest=3), "not the text of a JSON object"),
        (stored(mu=np.zeros(2), sigma=np.eye(2), manifest="[" * 10**5), "nested too deeply"),
        (stored(mu=np.zeros(2), sigma=np.eye(2), manifest='{"image_shape": 8}'), "image_shape in"),
        (stored(mu=np.zeros(2), sigma=np.eye(2), manifest='{"name": 8}'), "name in its manifest"),
        (stored(mu=np.zeros(2), sigma=np.eye(2), count=np.arange(2)), r"count \[0 1\]: give one"),
        (stored(mu=np.zeros(2), sigma=np.eye(2), count=9.5), "count 9.5: give one integer"),
        (stored(mu=np.zeros(2), sigma=np.eye(2), count="9"), "count 9: give one integer"),
        (stored(mu=np.zeros(2), sigma=np.eye(2), count=1), "count 1: give one integer"),
        (stored(mu=np.zeros(0), sigma=np.zeros((0, 0))), r"mu float64\[0\]"),
        (write_text_entry, "entry mu is not an array"),
    ],
)
def test_a_file_that_holds_no_statistics_is_refused_by_name_on_one_line(tmp_path, write, message):
    path = tmp_path / "reference.npz"
    write(path)
    with pytest.raises(ValueError, match=message) as caught:
        metrics.load_statistics(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_manifest_that_cannot_be_kept_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="what JSON can hold"):
        metrics.save_statistics(tmp_path / "a.npz", FeatureStatistics.of(normal(30, 9, 3)), key={1})
    assert not list(tmp_path.iterdir())
