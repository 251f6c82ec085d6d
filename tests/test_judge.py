import numpy as np
import pytest

import cfg_jax
from cfg_jax.sampling.strips import Strip
from cfg_jax.study import svm_judge
from cfg_jax.study.svm_judge import Verdict
from tests.tiny import pixel_model, tiny_classifier, tiny_config

REAL = Verdict(None, 0.95, 0.3)


def test_good_samples_fall_short_of_nothing():
    verdicts = [REAL, Verdict(0.0, 0.98, 0.28), Verdict(1.0, 1.0, 0.25)]
    assert svm_judge.failures(verdicts, [0.97, 0.99]) == []


def test_an_accuracy_below_its_limit_is_named():
    verdicts = [REAL, Verdict(0.0, 0.96, 0.28), Verdict(1.0, 1.0, 0.25)]
    (said,) = svm_judge.failures(verdicts, [0.97, 0.99])
    assert said == "accuracy 0.960 at w = 0, below 0.97"


def test_a_spread_that_does_not_fall_is_named():
    verdicts = [REAL, Verdict(0.0, 1.0, 0.25), Verdict(1.0, 1.0, 0.25)]
    (said,) = svm_judge.failures(verdicts, [0.97, 0.99])
    assert said.startswith("spread 0.2500 at w = 1 is not below 0.2500 at w = 0")


def test_the_table_has_a_row_for_the_real_images_and_one_for_each_weight():
    lines = svm_judge.table([REAL, Verdict(0.5, 0.98, 0.28)]).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["real", "w"]
    assert "0.980" in lines[2] and "0.2800" in lines[2]


def test_an_untrained_model_is_judged_to_guess_and_real_digits_are_known(tiny_run):
    options = {"samples_per_label": 3, "batch_size": 10}
    strip = Strip(cfg_jax.load(tiny_run), range(10), [0.0, 1.0], **options)
    verdicts = svm_judge.judge(strip)
    assert [verdict.w for verdict in verdicts] == [None, 0.0, 1.0]
    # 297 held-out digits by other writers.
    assert verdicts[0].accuracy > 0.9
    assert verdicts[1].accuracy < 0.5
    assert all(0 < verdict.spread < 1 for verdict in verdicts)


def test_a_classifiers_weights_have_rows_of_their_own():
    config = tiny_config(**{"sampling.num_steps": 2})
    model, classifier = pixel_model(config), pixel_model(tiny_classifier(), key=1)
    options = {"samples_per_label": 2, "classifier": classifier}
    verdicts = svm_judge.judge(Strip(model, range(10), [-1.0], [1.0, 4.0], **options))
    assert [(verdict.w, verdict.classifier_w) for verdict in verdicts[1:]] == [(-1, 1), (-1, 4)]
    assert verdicts[1].spread != verdicts[2].spread
    assert "w = -1, classifier 4" in svm_judge.table(verdicts)


def test_a_stronger_classifier_must_spread_less_and_has_its_own_limit():
    verdicts = [REAL, Verdict(-1.0, 0.8, 0.3, 1.0), Verdict(-1.0, 0.9, 0.31, 4.0)]
    few, wide = svm_judge.failures(verdicts, [0.85, 0.9])
    assert few == "accuracy 0.800 at w = -1, classifier 1, below 0.85"
    assert wide.startswith("spread 0.3100 at w = -1, classifier 4 is not below 0.3000")


def test_spread_is_the_pixel_deviation_within_a_class():
    x = np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [5.0, 9.0]])
    assert svm_judge._spread(x, np.array([0, 0, 1, 1])) == pytest.approx((0.5 + 1.0) / 2)


def test_a_data_set_too_large_for_the_judge_is_refused(tiny_run, monkeypatch):
    monkeypatch.setattr(svm_judge, "MOST_EXAMPLES", 100)
    with pytest.raises(ValueError, match="1500 examples.*100 at most"):
        svm_judge.judge(Strip(cfg_jax.load(tiny_run), range(10), [0.0], samples_per_label=2))
