"""Nearest training images against all pairs, one by one."""

import sys

import numpy as np
import pytest

from cfg_jax.evaluation import GivenImages
from cfg_jax.evaluation.neighbours import check_splits, neighbours, read_distances, strip
from cfg_jax.io.images import to_x
from cfg_jax.metrics.neighbors import nearest


def images(count, seed, shape=(4, 6, 3)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


TRAINING, HELD_OUT = images(70, 0), images(40, 1)


class ArraySource:
    """Images of an array as a data set of one class."""

    name, num_classes, label_names = "array", 1, ("image",)

    def __init__(self, pictures, split):
        self.pictures, self.split, self.shape = pictures, split, pictures.shape[1:]

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return {"x": to_x(self.pictures[index]), "label": np.int32(0)}

    def fingerprint(self):
        return {"split": self.split}


def given(pictures):
    shape = pictures.shape[1:]
    return GivenImages("made up", "0" * 64, len(pictures), shape, lambda index: pictures[index])


def look(pictures, **options):
    sources = (ArraySource(TRAINING, "train"), ArraySource(HELD_OUT, "test"))
    return neighbours(given(pictures), *sources, **options)


def difference(a, b):
    """Root mean square difference of two images, in grey levels."""
    return np.sqrt(np.mean((a.astype(float) - b.astype(float)) ** 2))


def test_rows_are_sorted_by_their_distance_whatever_the_parts():
    rng = np.random.default_rng(2)
    rows, reference = rng.standard_normal((9, 5)), rng.standard_normal((31, 5))
    far = np.linalg.norm(rows[:, None] - reference, axis=-1)
    order = np.argsort(far, axis=1)[:, :4]
    for cuts in ([], [10, 11], [3, 20]):
        found = nearest(rows, np.split(reference, cuts), 4)
        np.testing.assert_array_equal(found.rows, order)
        np.testing.assert_allclose(found.distance, np.take_along_axis(far, order, 1), rtol=1e-6)


def test_more_neighbours_than_rows_are_refused():
    with pytest.raises(ValueError, match="k=5 with 4 reference rows: need 1 <= k <= 4"):
        nearest(np.zeros((2, 3)), [np.ones((4, 3))], 5)


def test_distances_are_root_mean_squares_in_grey_levels():
    pictures = images(5, 3)
    found = look(pictures, batch_size=2)
    for i, picture in enumerate(pictures):
        far = [difference(picture, other) for other in TRAINING]
        best = np.argsort(far)[:3]
        assert found.nearest.rows[i].tolist() == best.tolist()
        np.testing.assert_allclose(found.nearest.distance[i], np.array(far)[best], rtol=1e-6)
        np.testing.assert_array_equal(found.pictures[i], TRAINING[best])
    own = [min(difference(picture, other) for other in TRAINING) for picture in HELD_OUT]
    np.testing.assert_allclose(found.held_out, own, rtol=1e-6)


def test_a_mirrored_copy_is_found_where_training_mirrored():
    pictures = np.stack([TRAINING[7][:, ::-1], TRAINING[8]])
    assert look(pictures).nearest.distance[0, 0] > 10
    found = look(pictures, mirrored=True)
    assert found.nearest.rows[:, 0].tolist() == [7, 8]
    np.testing.assert_allclose(found.nearest.distance[:, 0], 0, atol=1e-6)
    np.testing.assert_array_equal(found.pictures[:, 0], pictures)
    assert all(len(set(row)) == 3 for row in found.nearest.rows.tolist())


def test_copies_are_closer_than_held_out_images_and_new_images_are_not():
    copies = np.clip(TRAINING[:50] + 2.0, 0, 255).astype(np.uint8)
    assert look(copies).closer(0.1) == 1.0
    new = look(images(400, 4))
    for quantile in (0.1, 0.5):  # of 40 held-out images, three standard errors
        assert abs(new.closer(quantile) - quantile) < 3 * np.sqrt(quantile * (1 - quantile) / 40)


def test_a_verdict_says_in_words_what_the_fractions_say():
    copies = np.clip(TRAINING[:50] + 2.0, 0, 255).astype(np.uint8)
    assert look(copies).verdict().startswith("closer than held-out images")
    assert look(images(400, 4)).verdict().startswith("about as close as held-out images")
    black_and_white = np.where(images(50, 7) > 127, 255, 0).astype(np.uint8)
    assert look(black_and_white).verdict().startswith("farther than held-out images")


def test_copies_are_found_where_held_out_images_are_copies_too(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "HELD_OUT", TRAINING[:40])
    assert look(TRAINING[40:]).closer(0.1) == 0.5  # all distances are zero
    assert look(images(30, 6)).closer(0.1) == 0.0


def test_too_few_training_images_are_refused(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "TRAINING", TRAINING[:2])
    with pytest.raises(ValueError, match="array train has 2 images: need 3 or more"):
        look(images(3, 0))


def test_the_picture_has_samples_from_the_closest_to_the_farthest():
    pictures = np.concatenate([images(30, 5), TRAINING[3:4]])
    found = look(pictures)
    picture = strip(found, rows=4)
    assert picture.height > picture.width / 2
    enlarged = np.asarray(picture)
    colours = {tuple(colour) for colour in enlarged.reshape(-1, 3).tolist()}
    assert tuple(TRAINING[3][0, 0].tolist()) in colours  # the copy comes first


def test_data_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"train has images of \(4, 6, 3\), the samples are"):
        look(images(3, 0, (8, 8, 3)))


@pytest.mark.parametrize(
    "training, held_out, apart",
    [
        ("train", "test", True),
        ("train[:50%]", "train[50%:]", True),
        ("train[:50%]", "test", True),
        ("train", "train", False),
        ("all", "test", False),
        ("train", "all", False),
        ("train+test", "test", False),
        ("train[:50%]", "train", False),
    ],
)
def test_splits_that_share_images_are_refused(training, held_out, apart):
    if apart:
        check_splits(training, held_out)
    else:
        with pytest.raises(ValueError, match="has images of the training split"):
            check_splits(training, held_out)


def test_distances_of_earlier_commands_are_kept_and_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "distances.json"
    assert read_distances(path) == {}
    path.write_text('{"w = 0": {"closer": {"0.10": 0.5}}}')
    assert list(read_distances(path)) == ["w = 0"]
    for foreign in ("[1]", '{"w = 0"', ""):
        path.write_text(foreign)
        with pytest.raises(ValueError, match="distances.json has no distances of neighbours: rem"):
            read_distances(path)
