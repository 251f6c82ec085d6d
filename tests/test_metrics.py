"""Metrics against closed forms and the reference programs' numbers."""

import functools
import json
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cfg_jax import metrics
from cfg_jax.metrics import FeatureStatistics, ScoreSums, neighbors

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "metrics.npz"))
GOLDEN_SCORE = tuple(float(GOLDEN[f"inception_score_4_splits_{name}"]) for name in ("mean", "std"))


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def orthogonal(seed, width):
    return np.linalg.qr(normal(seed, width, width))[0]


def one_hot(classes, num_classes):
    """Logits whose softmax is exactly one-hot in float64."""
    return 1e4 * np.eye(num_classes)[np.asarray(classes)]


def exact_moments(whole_numbers):
    """Mean and covariance of integer rows in integer arithmetic, rounded once at the end."""
    rows = whole_numbers.astype(object)
    n, total, products = len(rows), rows.sum(axis=0), rows.T @ rows
    scatter = n * products - np.outer(total, total)
    divide = np.vectorize(lambda top, bottom: float(Fraction(top, bottom)))
    return divide(total, n), divide(scatter, n * (n - 1))


def pieces(rows, size):
    return [rows[start : start + size] for start in range(0, len(rows), size)]


# The reference programs' numbers


def test_fid_is_that_of_the_reference_program():
    a, b = (FeatureStatistics.of(GOLDEN[name]) for name in ("generated", "reference"))
    fid = metrics.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert fid == pytest.approx(float(GOLDEN["fid"]), rel=1e-6)


def test_the_inception_score_is_that_of_the_reference_program():
    score = metrics.inception_score(GOLDEN["logits"], splits=4)
    assert score == pytest.approx(GOLDEN_SCORE, rel=1e-6)


def test_precision_and_recall_are_those_of_the_reference_program():
    precision, recall = metrics.precision_recall(GOLDEN["generated"], GOLDEN["reference"])
    # The golden file stores fractions of 400 and 500 rows in float32.
    assert round(float(GOLDEN["precision"]) * 400) / 400 == precision
    assert round(float(GOLDEN["recall"]) * 500) / 500 == recall


# Frechet distance


@pytest.mark.parametrize("basis", [np.eye(6), orthogonal(0, 6)], ids=["diagonal", "rotated"])
def test_the_distance_of_gaussians_that_share_axes_adds_up_over_the_axes(basis):
    mu1, mu2 = normal(1, 6), normal(2, 6)
    std1, std2 = np.array([0, 0.1, 1, 2, 3, 0]), np.array([1, 0.2, 1, 0, 5, 0])
    cov1, cov2 = (basis * std**2 @ basis.T for std in (std1, std2))
    expected = ((mu1 - mu2) ** 2).sum() + ((std1 - std2) ** 2).sum()
    for pair in ((mu1, cov1, mu2, cov2), (mu2, cov2, mu1, cov1)):
        assert metrics.frechet_distance(*pair) == pytest.approx(expected, rel=1e-12)


def test_the_distance_of_gaussians_without_common_axes_is_that_of_the_matrix_root():
    linalg = pytest.importorskip("scipy.linalg")
    root1, root2 = normal(3, 8, 8), normal(4, 8, 8)
    cov1, cov2, mean = root1 @ root1.T, root2 @ root2.T, np.zeros(8)
    expected = np.trace(cov1 + cov2 - 2 * linalg.sqrtm(cov1 @ cov2).real)
    assert metrics.frechet_distance(mean, cov1, mean, cov2) == pytest.approx(expected, rel=1e-9)


def test_a_set_has_no_distance_from_itself_even_where_its_covariance_is_singular():
    for rows in (normal(5, 300, 24), normal(6, 10, 24) * 1e3, np.ones((5, 24))):
        stats = FeatureStatistics.of(rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cov = stats.covariance
        distance = metrics.frechet_distance(stats.mean, cov, stats.mean, cov)
        assert 0 <= distance <= 1e-12 * np.trace(cov)


def test_sets_on_crossing_planes_are_as_far_apart_as_their_spreads():
    # No common axis: the root vanishes, and each rank is half the width.
    rows = np.concatenate([normal(7, 9, 20), np.zeros((9, 20))], axis=1)
    cov1, cov2 = np.cov(rows.T), np.cov(rows[:, ::-1].T)
    distance = metrics.frechet_distance(np.zeros(40), cov1, np.zeros(40), cov2)
    assert distance == pytest.approx(np.trace(cov1) + np.trace(cov2), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu1": np.zeros(2)}, r"shapes \(2,\) and \(3,\)"),
        ({"cov2": np.eye(4)}, r"shape \(4, 4\) for means of 3"),
        ({"cov1": np.ones((3, 2))}, r"shape \(3, 2\)"),
        ({"mu2": np.array([0, np.nan, 0])}, "mean has nan"),
        ({"cov1": np.diag([1, np.inf, 1])}, "covariance has nan or inf"),
        ({"cov1": np.triu(np.ones((3, 3)))}, "transpose by 1"),
        ({"cov2": np.diag([1.0, -0.5, 1])}, "eigenvalue of -0.5"),
    ],
)
def test_what_is_no_pair_of_gaussians_is_refused(change, message):
    moments = {"mu1": np.zeros(3), "cov1": np.eye(3), "mu2": np.zeros(3), "cov2": np.eye(3)}
    with pytest.raises(ValueError, match=message):
        metrics.frechet_distance(**moments | change)


# Inception score


def test_the_score_of_confident_rows_is_the_number_of_classes_they_name():
    logits = one_hot(np.arange(70) % 7, 9)
    assert metrics.inception_score(logits, splits=5) == pytest.approx((7, 0), abs=1e-12)


def test_the_score_of_rows_that_are_all_alike_is_one():
    logits = np.tile(normal(8, 1, 10) + 300, (40, 1))
    assert metrics.inception_score(logits, splits=3) == pytest.approx((1, 0), abs=1e-12)


def test_splits_are_consecutive_and_of_nearly_equal_size():
    # Splits are rows 0-2, 3-5 and 6-9, with three, one and four classes.
    logits = one_hot([0, 1, 2, 5, 5, 5, 0, 1, 2, 3], 6)
    score = metrics.inception_score(logits, splits=3)
    assert score == pytest.approx((8 / 3, np.std([3, 1, 4])), rel=1e-12)


def test_any_division_of_the_rows_gives_the_score_of_one_pass():
    # ADM's rule: splits of four rows, the last one short; four, two and one classes.
    logits = one_hot([0, 1, 2, 3, 4, 4, 5, 5, 1, 1], 6)
    order = np.random.default_rng(9).permutation(10)
    empty = ScoreSums.empty(6, split_size=4)
    for size in (1, 3, 10):
        sums = [empty.update(logits[part], part) for part in pieces(order, size)]
        total = empty
        for part in sums[::-1]:
            total = part.merge(total)
        assert total.score() == pytest.approx((7 / 3, np.std([4, 2, 1])), rel=1e-12)


def test_split_sums_of_the_golden_logits_do_not_depend_on_their_order():
    sums = ScoreSums.empty(10, split_size=100)
    for part in pieces(np.random.default_rng(10).permutation(400), 7):
        sums = sums.update(GOLDEN["logits"][part], part)
    assert sums.score() == pytest.approx(GOLDEN_SCORE, rel=1e-6)


def test_rows_counted_twice_or_missing_do_not_make_a_score():
    sums = ScoreSums.empty(3, split_size=4).update(np.zeros((6, 3)), np.arange(6))
    with pytest.raises(ValueError, match="split 0 has 5 rows of 4"):
        sums.update(np.zeros((1, 3)), [0])
    with pytest.raises(ValueError, match="split 0 has 1 of 4 rows"):
        ScoreSums.empty(3, split_size=4).update(np.zeros((2, 3)), [3, 4]).score()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.inception_score(np.zeros((9, 4))), "splits=10 of 9 rows"),
        (lambda: metrics.inception_score(np.zeros((9, 4)), 0), "splits=0"),
        (lambda: metrics.inception_score(np.full((9, 4), np.nan), 1), "in 9 of 9 rows"),
        (lambda: metrics.inception_score(np.zeros(9), 1), r"shape \(9,\)"),
        (lambda: ScoreSums.empty(4, 0), "split_size=0"),
        (lambda: ScoreSums.empty(4).score(), "no rows"),
        (lambda: ScoreSums.empty(4).update(np.zeros((2, 4)), [0]), "index of shape"),
        (lambda: ScoreSums.empty(4).update(np.zeros((2, 4)), [0, -1]), "from 0"),
        (lambda: ScoreSums.empty(4).update(np.zeros((2, 4)), [0.0, 1.0]), "float64"),
        (lambda: ScoreSums.empty(4).update(np.zeros((2, 5)), [0, 1]), "5 classes"),
        (lambda: ScoreSums.empty(4).merge(ScoreSums.empty(4, 10)), "splits of 10 rows"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Precision and recall


def test_points_on_a_line_are_counted_by_hand():
    reference, generated = np.array([[0.0], [1], [3]]), np.array([[5.0], [9]])
    # Radii at k=1: 1, 1, 2 and 4, 4. 5 touches the ball of 3; 1 and 3 are within 4 of 5, 0 is not.
    assert metrics.precision_recall(generated, reference, k=1) == (1 / 2, 2 / 3)
    assert metrics.precision_recall(reference, generated, k=1) == (2 / 3, 1 / 2)


def test_a_set_covers_itself_and_so_do_copies():
    rows = normal(11, 60, 5)
    shuffled = rows[np.random.default_rng(12).permutation(60)]
    assert metrics.precision_recall(shuffled, rows) == (1, 1)


@pytest.mark.parametrize("block", [100, 100_000])
def test_copies_are_at_no_distance_however_their_products_are_rounded(monkeypatch, block):
    # 100 distances at a time give products of one row and of two rows.
    monkeypatch.setattr(neighbors, "_BLOCK", block)
    originals = normal(13, 50, 300)
    copies = np.repeat(originals, 4, axis=0)  # every radius is 0 at k=3
    assert metrics.precision_recall(originals, copies).precision == 1
    assert metrics.precision_recall(copies, originals).recall == 1
    assert metrics.precision_recall(copies, copies[::-1]) == (1, 1)
    assert metrics.precision_recall(originals + 1e-5, copies).precision == 0


def test_a_collapsed_set_is_precise_and_recalls_little():
    modes = np.repeat(20 * np.eye(10), 30, axis=0)
    reference = modes + normal(14, 300, 10)
    collapsed = modes[:30].repeat(10, axis=0) + 0.1 * normal(15, 300, 10)
    precision, recall = metrics.precision_recall(collapsed, reference)
    assert precision > 0.95 and recall < 0.05
    assert metrics.precision_recall(reference, collapsed) == (recall, precision)


def test_a_set_with_strays_is_imprecise_and_recalls_all():
    reference = normal(16, 200, 3)
    strays = np.concatenate([reference, 50 + normal(17, 300, 3)])
    precision, recall = metrics.precision_recall(strays, reference)
    assert precision == 200 / 500 and recall == 1


@pytest.mark.parametrize("block", [1, 2_500])
def test_the_shares_do_not_depend_on_how_many_distances_fit_in_memory(monkeypatch, block):
    expected = metrics.precision_recall(GOLDEN["generated"], GOLDEN["reference"])
    monkeypatch.setattr(neighbors, "_BLOCK", block)
    assert metrics.precision_recall(GOLDEN["generated"], GOLDEN["reference"]) == expected


@pytest.mark.parametrize(
    ("generated", "reference", "k", "message"),
    [
        (np.zeros((3, 2)), np.zeros((9, 2)), 3, "k=3 with 3 generated and 9 reference"),
        (np.zeros((9, 2)), np.zeros((2, 2)), 3, "2 reference"),
        (np.zeros((9, 2)), np.zeros((9, 2)), 0, "k=0"),
        (np.zeros((9, 2)), np.zeros((9, 3)), 3, "of width 2, reference of width 3"),
        (np.zeros((9, 2)), np.full((9, 2), np.inf), 3, "reference features have nan or inf"),
        (np.zeros((9, 2, 2)), np.zeros((9, 4)), 3, "flatten"),
    ],
)
def test_sets_that_have_no_neighbors_to_compare_are_refused(generated, reference, k, message):
    with pytest.raises(ValueError, match=message):
        metrics.precision_recall(generated, reference, k=k)


# Accumulated moments


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("offset", [0, 10_000_000])
def test_moments_in_pieces_are_those_of_exact_arithmetic(size, offset):
    rows = np.random.default_rng(18).integers(-9, 10, (201, 6)) + offset
    stats = functools.reduce(FeatureStatistics.merge, map(FeatureStatistics.of, pieces(rows, size)))
    mean, covariance = exact_moments(rows)
    assert stats.count == 201
    np.testing.assert_allclose(stats.mean, mean, rtol=1e-14, atol=1e-14)
    # Centered sums lose only the mean's own rounding, 2e-9 of the spread at 1e7.
    np.testing.assert_allclose(
        stats.covariance, covariance, rtol=0, atol=1e-12 if not offset else 1e-7
    )


def test_merging_processes_of_unlike_shares_is_one_pass():
    rows = normal(19, 200, 12).astype(np.float32) + 3
    whole = FeatureStatistics.of(rows)
    order = np.random.default_rng(20).permutation(200)
    a, b, c, none = (
        FeatureStatistics.of(rows[order[start:stop]])
        for start, stop in ((0, 3), (3, 160), (160, 200), (0, 0))
    )
    for merged in (
        a.merge(b).merge(c),
        c.merge(none).merge(b.merge(a)),
        none.merge(c.merge(b)).merge(a),
    ):
        assert merged.count == 200
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
        np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=0, atol=1e-13)


def test_merging_leaves_the_value_it_came_from_alone():
    before = FeatureStatistics.of(normal(21, 5, 2))
    mean, scatter = before.mean.copy(), before.scatter.copy()
    before.merge(FeatureStatistics.of(normal(22, 5, 2)))
    assert before.count == 5
    np.testing.assert_array_equal(before.mean, mean)
    np.testing.assert_array_equal(before.scatter, scatter)


def test_too_few_rows_are_said_with_their_number():
    with pytest.warns(UserWarning, match="8 rows of 8 features: the covariance has rank at most 7"):
        _ = FeatureStatistics.of(normal(23, 8, 8)).covariance
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = FeatureStatistics.of(normal(24, 9, 8)).covariance


def test_rows_that_cannot_be_counted_are_refused():
    stats = FeatureStatistics.of(np.zeros((4, 3)))
    holed = np.zeros((4, 3))
    holed[2, 1] = np.nan
    with pytest.raises(ValueError, match="in 1 of 4 rows, the first is row 2"):
        stats.merge(FeatureStatistics.of(holed))
    with pytest.raises(ValueError, match="features of widths 3 and 2 cannot be merged"):
        stats.merge(FeatureStatistics.of(np.zeros((4, 2))))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        stats.merge(FeatureStatistics.of(np.zeros(3)))
    with pytest.raises(ValueError, match="covariance of 1 rows"):
        _ = FeatureStatistics.of(np.zeros((1, 3))).covariance


def test_the_package_loads_the_metrics_only_when_asked():
    code = (
        "import sys, cfg_jax, json; before = 'cfg_jax.metrics' in sys.modules;"
        "loaded = set(sys.modules); import cfg_jax.metrics;"
        "print(json.dumps([before, sorted(m for m in set(sys.modules) - loaded if '.' not in m)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert json.loads(done.stdout) == [False, []], done.stderr
