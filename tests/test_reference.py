"""Reference moments: computed once, read from files, and refused if mismatched."""

import numpy as np
import pytest

from cfg_jax import data, evaluation
from cfg_jax.evaluation import data_reference, file_reference, networks, reference
from cfg_jax.metrics import FeatureStatistics, save_statistics
from tests.plain_network import plain_network, seen


@pytest.fixture(scope="module")
def source(data_dir):
    return data.open_source("digits", "test", data_dir=data_dir)


@pytest.fixture(scope="module")
def stored(source):
    return np.stack([source.records[i]["image"] for i in range(len(source))])


def test_the_reference_of_a_split_is_that_of_its_stored_images(source, stored, tmp_path):
    network = plain_network(spatial=True)
    found = data_reference(network, source, tmp_path, with_rows=True, batch_size=100)
    outputs = seen(stored, spatial=True)
    for moments, rows in ((found.pool, outputs.features), (found.spatial, outputs.spatial)):
        rows = rows.astype(np.float64)
        np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance, np.cov(rows.T), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(found.rows, outputs.features)
    assert (found.name, found.count, found.shape) == ("digits test", 297, (8, 8, 1))
    assert found.network_sha256 == network.sha256


def test_a_reference_is_computed_once(source, tmp_path):
    network = plain_network()
    first = data_reference(network, source, tmp_path)
    blind = network._replace(function=None)
    again = data_reference(blind, source, tmp_path)
    np.testing.assert_array_equal(again.pool.covariance, first.pool.covariance)
    assert again.sha256 == first.sha256
    with pytest.raises(TypeError):
        data_reference(blind._replace(sha256="another"), source, tmp_path)


def test_rows_of_a_large_split_are_drawn_from_all_of_it(source, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "MOST_ROWS", 50)
    rows = data_reference(plain_network(), source, tmp_path, with_rows=True).rows
    every = seen(stored).features
    places = [np.flatnonzero((every == row).all(axis=1))[0] for row in rows]
    assert len(set(places)) == 50 and places == sorted(places)
    assert min(places) < 60 and max(places) > 240


def statistics(tmp_path, source, network):
    data_reference(network, source, tmp_path)
    (path,) = tmp_path.glob("reference_*/statistics.npz")
    return path


def test_a_file_of_ours_is_the_reference_it_was_written_for(source, tmp_path):
    network = plain_network(spatial=True)
    path = statistics(tmp_path, source, network)
    from_file, from_data = file_reference(network, path), data_reference(network, source, tmp_path)
    assert from_file[:5] == from_data[:5]
    np.testing.assert_array_equal(from_file.spatial.mean, from_data.spatial.mean)


@pytest.mark.parametrize(
    "field, value", [("name", "another"), ("sha256", "0123"), ("resize", "TF1 bilinear to 299")]
)
def test_a_file_of_another_network_is_refused_with_what_differs(source, tmp_path, field, value):
    path = statistics(tmp_path, source, plain_network())
    said = {"name": "network", "sha256": "network_sha256", "resize": "resize"}[field]
    with pytest.raises(ValueError, match=rf"computed with {said} .*embedded with {value}"):
        file_reference(plain_network()._replace(**{field: value}), path)


def test_a_file_of_a_known_network_needs_no_name_and_no_image_shape(source, tmp_path):
    network = plain_network()
    rows = FeatureStatistics.of(np.random.default_rng(0).standard_normal((9, 6)))
    save_statistics(tmp_path / "own.npz", rows, **network.identity)
    found = file_reference(network, tmp_path / "own.npz")
    assert (found.name, found.shape, found.count) == ("own.npz", None, 9)


@pytest.fixture
def inception(monkeypatch):
    """A network named Inception with the plain network's width."""
    monkeypatch.setattr(reference, "INCEPTION_WIDTHS", {"pool": 6, "spatial": 4})
    return plain_network(networks.INCEPTION, spatial=True)


def foreign(path, stored, **more):
    """A file with the arrays of ADM's reference batches, made with plain NumPy."""
    outputs = seen(stored, spatial=True)
    arrays = {"mu": outputs.features, "mu_s": outputs.spatial}
    arrays = {name: rows.astype(np.float64) for name, rows in arrays.items()}
    covariances = {name.replace("mu", "sigma"): np.cov(rows.T) for name, rows in arrays.items()}
    means = {name: rows.mean(axis=0) for name, rows in arrays.items()}
    np.savez(path, **{**means, **covariances, **more})
    return path


def test_a_file_of_adms_gives_moments_and_the_rows_of_its_images(inception, stored, tmp_path):
    path = foreign(tmp_path / "adm.npz", stored, arr_0=stored)
    found = file_reference(inception, path, with_rows=True, batch_size=64)
    np.testing.assert_array_equal(found.rows, seen(stored).features)
    rows = seen(stored, spatial=True).spatial.astype(np.float64)
    np.testing.assert_allclose(found.spatial.covariance, np.cov(rows.T))
    assert (found.name, found.count, found.shape) == ("adm.npz", None, None)
    # The numbers identify it, not the file name.
    renamed = foreign(tmp_path / "renamed.npz", stored)
    assert file_reference(inception, renamed).sha256 == found.sha256
    other = foreign(tmp_path / "other.npz", stored[:-1])
    assert file_reference(inception, other).sha256 != found.sha256


def test_a_file_of_mu_and_sigma_alone_as_jits_is_enough_for_fid_and_is(inception, stored, tmp_path):
    rows = seen(stored, spatial=True).features.astype(np.float64)
    away = np.linspace(-1, 2, 6)
    mu, sigma = rows.mean(axis=0) + away, np.cov(rows.T)
    np.savez(tmp_path / "jit_in256_stats.npz", mu=mu, sigma=sigma)
    np.savez(tmp_path / "samples.npz", images=stored)
    found = file_reference(inception, tmp_path / "jit_in256_stats.npz")
    assert found.spatial is None and found.rows is None
    given = evaluation.open_images(tmp_path / "samples.npz")
    result = evaluation.evaluate(given, inception, found, folder=tmp_path, metrics=("fid", "is"))
    # Equal covariances leave the distance of the means.
    assert result.metrics["fid"] == pytest.approx(away @ away, rel=1e-6)
    assert result.protocol["reference"] == "jit_in256_stats.npz"
    with pytest.raises(ValueError, match="sfid needs spatial features, and jit_in256_stats.npz"):
        evaluation.evaluate(given, inception, found, folder=tmp_path, metrics=("sfid",))


def test_a_foreign_file_that_does_not_fit_is_refused(inception, stored, tmp_path):
    path = foreign(tmp_path / "adm.npz", stored)
    with pytest.raises(ValueError, match="names no feature network, .*digits_features"):
        file_reference(plain_network("digits_features"), path)
    with pytest.raises(ValueError, match=r"need real images.*has none under arr_0"):
        file_reference(inception, path, with_rows=True)
    objects = foreign(tmp_path / "objects.npz", stored, arr_0=np.array([{}, {}], object))
    with pytest.raises(ValueError, match="arr_0 of .*objects.npz cannot be read"):
        file_reference(inception, objects, with_rows=True)
    narrow = FeatureStatistics.of(np.random.default_rng(0).standard_normal((9, 3)))
    save_statistics(tmp_path / "narrow.npz", narrow)
    with pytest.raises(ValueError, match="pool features of width 3, Inception's have 6"):
        file_reference(inception, tmp_path / "narrow.npz")
