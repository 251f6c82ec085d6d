"""Sums over many images are independent of batches and of interruptions."""

import contextlib
import shutil
import threading

import numpy as np
import pytest

from cfg_jax.evaluation import Sums, accumulate
from cfg_jax.evaluation.networks import FeatureNetwork, Outputs
from cfg_jax.metrics import inception_score
from tests.plain_network import TOTAL, accumulated, images_at, seen


@pytest.fixture(autouse=True)
def saved_after_every_batch(monkeypatch):
    monkeypatch.setattr(accumulate, "SAVE_SECONDS", 0.0)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_moments_and_scores_are_those_of_all_images_at_once(tmp_path, batch_size):
    found = accumulated(tmp_path, batch_size, keep_rows=True)
    everything = seen(images_at(range(TOTAL)), spatial=True)
    for moments, rows in (
        (found.sums.pool, everything.features),
        (found.sums.spatial, everything.spatial),
    ):
        rows = rows.astype(np.float64)
        assert moments.count == TOTAL
        np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance, np.cov(rows.T), rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(found.rows, everything.features)
    # 45 images lie in one split of 5,000.
    expected = inception_score(everything.logits, splits=1)
    assert found.sums.score.score().mean == pytest.approx(expected.mean, rel=1e-12)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", range(0, 18, 2))
def test_a_run_killed_at_any_write_ends_with_the_same_bytes(tmp_path, monkeypatch, nth, after):
    # 6 batches; each writes rows, images and the state.
    accumulated(tmp_path / "undisturbed", keep_rows=True, keep_images=True)
    writes = []
    write = accumulate._write

    def dying(path, arrays):
        writes.append(path)
        if len(writes) == nth + 1:
            if after:
                write(path, arrays)
            raise SystemExit
        write(path, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(accumulate, "_write", dying)
        with contextlib.suppress(SystemExit):
            accumulated(tmp_path / "killed", keep_rows=True, keep_images=True)
    assert len(writes) == nth + 1
    accumulated(tmp_path / "killed", keep_rows=True, keep_images=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def test_what_is_done_is_not_done_again(tmp_path):
    asked = []

    def dying(index):
        asked.extend(index)
        if 30 in index:
            raise SystemExit
        return images_at(index)

    with pytest.raises(SystemExit):
        accumulated(tmp_path, images_at=dying)
    asked.clear()
    accumulated(tmp_path, images_at=lambda index: asked.extend(index) or images_at(index))
    # Batches of 8 are complete up to 24; the last batch is padded with image 44.
    assert asked == [*range(24, 45), 44, 44, 44]
    asked.clear()
    done = accumulated(tmp_path, images_at=dying)
    assert done.sums.pool.count == TOTAL and not asked


def test_the_batch_after_the_next_is_drawn_while_the_outputs_of_a_batch_are_computed(tmp_path):
    drawn = threading.Event()

    def noticed(index):
        if 16 in index:  # of the third batch
            drawn.set()
        return images_at(index)

    def function(images):
        assert drawn.wait(60)
        return seen(images)

    network = FeatureNetwork("patient", "", "none", function)
    assert accumulated(tmp_path, images_at=noticed, network=network).sums.pool.count == TOTAL


def test_a_run_may_go_on_with_another_batch_size(tmp_path):
    with pytest.raises(IndexError):
        accumulated(
            tmp_path, images_at=lambda index: images_at(index) if 20 not in index else [][0]
        )
    mixed, whole = accumulated(tmp_path, 11).sums, accumulated(tmp_path / "whole").sums
    assert mixed.pool.count == TOTAL
    np.testing.assert_allclose(mixed.pool.scatter, whole.pool.scatter, rtol=1e-11)


def damage(folder):
    (folder / "state.npz").write_bytes((folder / "state.npz").read_bytes()[:1000])


def lose_a_part(folder):
    sorted(folder.glob("rows_*.npz"))[1].unlink()


def gain_a_part(folder):
    part = sorted(folder.glob("rows_*.npz"))[0]
    shutil.copy(part, folder / "rows_00000003_00000011.npz")  # of a second writer


@pytest.mark.parametrize("accident", [damage, lose_a_part, gain_a_part])
def test_what_was_damaged_is_done_anew_with_a_warning(tmp_path, accident, caplog):
    before = accumulated(tmp_path, keep_rows=True)
    kept = contents(tmp_path)
    accident(tmp_path)
    again = accumulated(tmp_path, keep_rows=True)
    assert "starting again" in caplog.text
    np.testing.assert_array_equal(again.rows, before.rows)
    assert contents(tmp_path) == kept


def test_a_state_of_other_images_is_not_continued(tmp_path):
    accumulated(tmp_path)
    shifted = accumulated(tmp_path, identity="b", images_at=lambda index: images_at(index + 1))
    expected = seen(images_at(range(1, TOTAL + 1))).features.mean(axis=0)
    np.testing.assert_allclose(shifted.sums.pool.mean, expected, rtol=1e-5)


def test_rows_asked_for_later_are_those_of_all_images(tmp_path):
    accumulated(tmp_path)
    rows = accumulated(tmp_path, keep_rows=True).rows
    np.testing.assert_array_equal(rows, seen(images_at(range(TOTAL))).features)


def test_features_that_are_no_numbers_are_refused_in_one_line(tmp_path):
    def broken(images):
        features = seen(images).features
        features[2, 1] = np.nan
        return Outputs(features, features, None)

    network = FeatureNetwork("broken", "", "none", broken)
    with pytest.raises(ValueError, match="features have nan or inf in 1 of 8 rows") as error:
        accumulated(tmp_path, network=network)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "state.npz").exists()


def test_two_processes_merge_to_the_sums_of_one():
    index = np.arange(TOTAL)
    whole = Sums.of(seen(images_at(index), spatial=True), index)
    parts = [
        Sums.of(seen(images_at(part), spatial=True), part) for part in (index[1::2], index[::2])
    ]
    # Processes send each other the named arrays.
    sent = Sums.from_arrays(parts[1].arrays())
    merged = parts[0].merge(sent).arrays()
    for name, expected in whole.arrays().items():
        np.testing.assert_allclose(merged[name], expected, rtol=1e-11, atol=1e-12)
    with pytest.raises(ValueError, match="4 .*6|6 .*4"):
        whole.merge(Sums(whole.spatial, whole.spatial, whole.score))
