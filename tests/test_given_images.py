"""Images of other programs: every form of the same images has the same metrics."""

import numpy as np
import pytest
from PIL import Image

from cfg_jax import evaluation
from cfg_jax.evaluation import open_images
from cfg_jax.metrics import Moments, frechet_distance
from tests.plain_network import ALL_METRICS, noise_reference, plain_network, seen

N = 23
NETWORK = plain_network(spatial=True)
REFERENCE = noise_reference(NETWORK)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(1).integers(0, 256, (N, 8, 8, 1), np.uint8)


def as_array(folder, pictures):
    np.savez(folder / "others.npz", images=pictures)
    return folder / "others.npz"


def as_adm(folder, pictures):
    np.savez(folder / "adm.npz", pictures, np.zeros(N, int))
    return folder / "adm.npz"


def as_folder(folder, pictures):
    for i, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0]).save(folder / f"{i:03}.png")
    return folder


def as_shards(folder, pictures):
    for start, stop in ((0, 10), (10, 20), (20, N)):
        path = folder / f"samples_{start:08}_{stop:08}.npz"
        np.savez(path, images=pictures[start:stop], labels=np.zeros(stop - start, np.int32))
    return folder


@pytest.mark.parametrize("written", [as_array, as_adm, as_folder, as_shards])
def test_every_form_of_the_same_images_has_the_metrics_of_these(tmp_path, pictures, written):
    (tmp_path / "given").mkdir()
    given = open_images(written(tmp_path / "given", pictures), channels=1)
    assert given.shape == (8, 8, 1) and given.num_samples == N
    np.testing.assert_array_equal(given.draw(np.array([22, 0, 11]))[0], pictures[[22, 0, 11]])
    options = {"metrics": ALL_METRICS, "batch_size": 7}
    found = evaluation.evaluate(given, NETWORK, REFERENCE, folder=tmp_path / "out", **options)
    rows = seen(pictures, spatial=True).features.astype(np.float64)
    real: Moments = REFERENCE.pool
    expected = frechet_distance(rows.mean(axis=0), np.cov(rows.T), *real[:2])
    assert found.metrics["fid"] == pytest.approx(expected, rel=1e-9)
    assert found.protocol["label_plan"] == "given" and found.record["seed"] is None
    assert f"{N} of {given.name}" in evaluation.report(found)
    assert evaluation.evaluate(given, NETWORK, REFERENCE, folder=tmp_path / "out") == found


def test_images_are_known_by_their_pixels(tmp_path, pictures):
    first = open_images(as_array(tmp_path, pictures))
    changed = pictures.copy()
    changed[-1, -1, -1] ^= 1
    assert open_images(as_array(tmp_path, changed)).sha256 != first.sha256
    (tmp_path / "png").mkdir()
    assert open_images(as_folder(tmp_path / "png", pictures), channels=1).sha256 == first.sha256


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda place: place / "none.npz", "none.npz cannot be read: .*No such file"),
        (lambda place: write(place / "a.npz", x=np.zeros(3)), "a.npz has neither: need images"),
        (
            lambda place: write(place / "a.npz", images=np.zeros((3, 8, 8, 1))),
            r"a.npz has images float64\[3, 8, 8, 1\]: need images or arr_0, uint8 \[N, H, W, C\]",
        ),
        (
            lambda place: write(place / "a.npz", images=np.zeros((0, 8, 8, 1), np.uint8)),
            r"has images uint8\[0, 8, 8, 1\]",
        ),
        (lambda place: place, "has no pictures"),
    ],
)
def test_what_holds_no_images_is_refused_in_one_line(tmp_path, make, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_images(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(tmp_path, pictures):
    as_shards(tmp_path, pictures)
    (tmp_path / "samples_00000010_00000020.npz").unlink()
    with pytest.raises(ValueError, match="has not the samples 0 to 22, each once: draw"):
        open_images(tmp_path)


def overlap(folder, pictures):
    np.savez(folder / "samples_00000005_00000015.npz", images=pictures[5:15])


def long(folder, pictures):
    np.savez(folder / "samples_00000010_00000020.npz", images=pictures[5:20])


def short(folder, pictures):
    np.savez(folder / "samples_00000010_00000020.npz", images=pictures[10:15])


def small(folder, pictures):
    np.savez(folder / "samples_00000010_00000020.npz", images=pictures[10:20, :4])


def misnamed(folder, pictures):
    np.savez(folder / "samples_10.npz", images=pictures[10:20])


def wanting(folder, pictures):
    (folder / "manifest.json").write_text('{"settings": {"num_samples": 50}}')


@pytest.mark.parametrize("change", [overlap, long, short, small, misnamed, wanting])
def test_shards_that_are_not_those_of_one_request_are_refused_in_one_line(
    tmp_path, pictures, change
):
    as_shards(tmp_path, pictures)
    change(tmp_path, pictures)
    with pytest.raises(ValueError, match="samples") as caught:
        open_images(tmp_path)
    assert "\n" not in str(caught.value)


def test_one_image_is_no_distribution(tmp_path, pictures):
    given = open_images(as_array(tmp_path, pictures[:1]))
    with pytest.raises(ValueError, match="has 1 image: need 2 or more"):
        evaluation.check_request(given, ["fid"])


def test_images_of_another_size_than_the_reference_are_refused(tmp_path, pictures):
    given = open_images(as_array(tmp_path, pictures[:, :4]))
    with pytest.raises(ValueError, match=r"the samples are \(4, 8, 1\): give a reference"):
        evaluation.evaluate(given, NETWORK, REFERENCE, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()
