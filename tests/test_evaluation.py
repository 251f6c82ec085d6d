"""Cells of a sweep against metrics of the same samples, computed step by step."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import cfg_jax
from cfg_jax import evaluation
from cfg_jax.core import keys as keys_lib
from cfg_jax.evaluation import SamplingSettings, accumulate, networks
from cfg_jax.metrics import Moments, frechet_distance, inception_score, precision_recall
from cfg_jax.runtime import devices
from cfg_jax.sampling.samples import Samples
from tests.plain_network import (
    ALL_METRICS,
    clean_classifier,
    noise_reference,
    plain_network,
    seen,
)
from tests.tiny import shaken_model

N = 20


@pytest.fixture(scope="module")
def model(tiny_run):
    return shaken_model(tiny_run)


NETWORK = plain_network(spatial=True)
REFERENCE = noise_reference(NETWORK)
ALL = ALL_METRICS


def evaluate(model, folder, network=NETWORK, reference=REFERENCE, **options):
    options = {"metrics": ALL, "num_samples": N, "sampling": SamplingSettings(w=1.5)} | options
    names = {field.name for field in dataclasses.fields(Samples)} & options.keys()
    samples = Samples(model, **{name: options.pop(name) for name in names})
    return evaluation.evaluate(samples, network, reference, folder=folder, **options)


@pytest.fixture(scope="module")
def result(model, tmp_path_factory):
    return evaluate(model, tmp_path_factory.mktemp("evaluations"), save_images=True)


@pytest.fixture(scope="module")
def drawn(model):
    """The same samples from one call of the model."""
    keys = keys_lib.indexed(jax.random.key(0), np.arange(N))
    return model.sample(keys, labels=np.tile(np.arange(10), 2), w=1.5)


@pytest.mark.compat
def test_the_numbers_are_those_of_the_samples_that_the_protocol_names(result, drawn):
    outputs = seen(drawn, spatial=True)
    for name, rows, real in (
        ("fid", outputs.features, REFERENCE.pool),
        ("sfid", outputs.spatial, REFERENCE.spatial),
    ):
        rows = rows.astype(np.float64)
        expected = frechet_distance(rows.mean(axis=0), np.cov(rows.T), *real[:2])
        assert result.metrics[name] == pytest.approx(expected, rel=1e-9)
    assert result.metrics["is"] == pytest.approx(inception_score(outputs.logits, 1).mean)
    shares = precision_recall(outputs.features, REFERENCE.rows)
    assert (result.metrics["precision"], result.metrics["recall"]) == shares


def test_images_are_written_where_asked_for_only(result, drawn, model, tmp_path):
    (path,) = result.path.parent.glob("images_*.npz")
    with np.load(path) as file:
        np.testing.assert_array_equal(file["images"], drawn)
    without = evaluate(model, tmp_path)
    assert not list(tmp_path.rglob("images_*"))
    assert without.metrics == result.metrics
    assert without.path.parent.name == result.path.parent.name


@pytest.mark.parametrize("batch_size, alone", [(1, False), (3, False), (64, False), (3, True)])
def test_batch_size_and_devices_do_not_matter(
    model, result, tmp_path, monkeypatch, batch_size, alone
):
    if alone:
        local = jax.local_devices()[:1]
        monkeypatch.setattr(jax, "local_devices", lambda: local)
        monkeypatch.setattr(jax, "local_device_count", lambda: 1)
        model = cfg_jax.Model(
            model.config,
            jax.device_get(model.params),
            step=model.step,
            shape=model.shape,
            label_names=model.label_names,
        )
        assert devices.num_devices() == 1
    found = evaluate(model, tmp_path, batch_size=batch_size)
    assert found.metrics.keys() == result.metrics.keys()
    for name, value in found.metrics.items():
        assert value == pytest.approx(result.metrics[name], rel=1e-9), name
    assert found[1:3] == result[1:3]


def test_a_killed_cell_ends_as_an_undisturbed_one(model, result, tmp_path, monkeypatch):
    monkeypatch.setattr(accumulate, "SAVE_SECONDS", 0.0)
    undisturbed = evaluate(model, tmp_path / "a", batch_size=10)
    looks = []

    def dying(images):
        looks.append(images)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return NETWORK.function(images)

    network = NETWORK._replace(function=dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tmp_path / "b", network, batch_size=10)
    assert not list((tmp_path / "b").rglob("result_*"))
    resumed = evaluate(model, tmp_path / "b", network, batch_size=10)
    assert len(looks) == 3
    assert resumed.path.read_bytes() == undisturbed.path.read_bytes()


def test_a_second_evaluation_of_a_cell_at_once_is_refused_in_one_line(model, result, tmp_path):
    refused = []

    def beside(images):
        with pytest.raises(
            ValueError, match="cfg_jax.lock is locked: process .* is writing"
        ) as said:
            evaluate(model, tmp_path)
        refused.append(str(said.value))
        return NETWORK.function(images)

    found = evaluate(model, tmp_path, NETWORK._replace(function=beside), batch_size=10)
    assert len(refused) == 2 and not any("\n" in said for said in refused)
    assert found.metrics == pytest.approx(result.metrics, rel=1e-9)
    assert evaluate(model, tmp_path) == found
    assert not list(tmp_path.rglob("*.lock"))


def test_a_finished_cell_is_read_back_and_can_be_asked_for_more(model, tmp_path, monkeypatch):
    first = evaluate(model, tmp_path, metrics=["fid"])
    assert first.metrics.keys() == {"fid"} and "precision_recall" not in first.protocol
    with monkeypatch.context() as patch:
        patch.setattr(model, "draw", None)
        assert evaluate(model, tmp_path, metrics=["fid"]) == first
        # The sums exist, so the score needs no samples. Another reference has its own file.
        scored = evaluate(model, tmp_path, metrics=["is"])
        other = evaluate(
            model, tmp_path, reference=REFERENCE._replace(sha256="e" * 64), metrics=["is"]
        )
    assert scored.metrics == first.metrics | {"is": other.metrics["is"], "is_std": 0.0}
    assert scored.path == first.path != other.path
    shares = evaluate(model, tmp_path, metrics=["precision_recall"])
    assert shares.metrics.keys() == {"fid", "is", "is_std", "precision", "recall"}
    assert shares.metrics["fid"] == first.metrics["fid"]
    assert evaluation.read_result(shares.path) == shares


def test_other_settings_are_other_cells_and_the_number_one_is_one_number(model, tmp_path):
    paths = set()
    for sampling, seed, plan in [
        (SamplingSettings(w=1), 0, "balanced"),
        (SamplingSettings(w=1.0, num_steps=4), 0, "balanced"),  # the config's own number of steps
        (SamplingSettings(w=1.5), 0, "balanced"),
        (SamplingSettings(w=1, score_temperature=0.9), 0, "balanced"),
        (SamplingSettings(w=1), 1, "balanced"),
        (SamplingSettings(w=1), 0, "random"),
    ]:
        found = evaluate(model, tmp_path, sampling=sampling, seed=seed, label_plan=plan)
        paths.add(found.path)
    assert len(paths) == 5


@pytest.fixture
def asked(model, monkeypatch):
    """Records the requests to the model, without sampling."""
    calls = []

    def draw(keys, settings, *, labels, **rest):
        calls.append({"labels": labels, **dataclasses.asdict(settings), **rest})
        return np.resize(np.linspace(-1, 1, 256), (len(labels), 8, 8, 1))

    monkeypatch.setattr(model, "draw", draw)
    return calls


def test_random_labels_depend_on_seed_and_index_alone(model, asked):
    for seed, start in [(3, 0), (3, 7), (4, 0)]:
        draw = Samples(model, 4000, "random", seed).draw
        draw(np.arange(start, start + 4000))
    first, later, other = (call["labels"] for call in asked)
    np.testing.assert_array_equal(later[:-7], first[7:])
    counts = np.bincount(first, minlength=10)
    # Expected count 400 each, standard deviation 19.
    assert counts.size == 10 and np.abs(counts - 400).max() < 80
    assert (other == first).mean() < 0.2


def test_a_classifier_guides_and_is_named(model, asked, tmp_path):
    classifier = clean_classifier()
    options = {"sampling": SamplingSettings(w=-1.0, classifier_w=2.0), "classifier": classifier}
    guided = evaluate(model, tmp_path, metrics=["is"], **options)
    assert asked[0]["classifier"] is classifier and asked[0]["classifier_w"] == 2.0
    assert guided.swept["classifier"] == networks.trained_network(classifier).sha256
    assert f"classifier {guided.swept['classifier'][:12]} 2 (eps)" in evaluation.report(guided)
    assert evaluate(model, tmp_path, metrics=["is"]).path != guided.path


def test_temperatures_reach_the_sampler(model, asked, tmp_path):
    sampling = SamplingSettings(w=0.0, noise_temperature=0.9, score_temperature=1.1)
    found = evaluate(model, tmp_path, metrics=["is"], sampling=sampling)
    assert (asked[0]["noise_temperature"], asked[0]["score_temperature"]) == (0.9, 1.1)
    assert "noise temperature 0.9, score temperature 1.1" in evaluation.report(found)


MISTAKES = {
    "an unknown metric": ({"metrics": ["fid", "kid"]}, "metrics=fid,kid: choose some of fid, sfid"),
    "no metric": ({"metrics": []}, "choose some of"),
    "an unknown plan": ({"label_plan": "even"}, "label_plan='even': choose one of balanced"),
    "N not covered": ({"num_samples": 25}, "num_samples=25: .* multiple of the 10 classes: use 30"),
    "one sample": ({"num_samples": 1}, "num_samples=1: need 2 or more"),
    "no spatial features": (
        {"reference": noise_reference(NETWORK, spatial=False)},
        "sfid needs spatial features",
    ),
    "no rows": ({"reference": noise_reference(NETWORK, rows=False)}, "reference with rows"),
    "another network": (
        {"reference": noise_reference(plain_network("other"))},
        "use different feature networks",
    ),
    "another size": (
        {"reference": REFERENCE._replace(shape=(16, 16, 1))},
        r"images of \(16, 16, 1\), the samples are \(8, 8, 1\)",
    ),
    "a classifier's weight alone": (
        {"sampling": SamplingSettings(classifier_w=1.0)},
        "classifier_w=1.0 without a classifier",
    ),
    "no sampler": ({"sampling": SamplingSettings(solver="euler")}, "solver='euler'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(model, tmp_path, mistake):
    options, said = MISTAKES[mistake]
    with pytest.raises(ValueError, match=said) as error:
        evaluate(model, tmp_path, **options)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def changed(result, **protocol):
    return result._replace(protocol=result.protocol | protocol)


@pytest.mark.parametrize(
    "field, value",
    [
        ("network_sha256", "0"),
        ("resize", "TF1 bilinear to 299"),
        ("reference_sha256", "1"),
        ("num_samples", 50_000),
        ("label_plan", "random"),
        ("ema", False),
        ("score_split", 10),
        ("precision_recall", {"neighbors": 5, "reference_rows": 30}),
    ],
)
def test_results_of_unlike_protocols_are_not_compared(result, field, value):
    with pytest.raises(ValueError, match=f"different protocols: {field} is ") as error:
        evaluation.check_comparable(result, result, changed(result, **{field: value}))
    assert str(value) in str(error.value)


def test_what_is_swept_may_differ_and_so_may_the_metrics(result):
    swept = result._replace(swept=result.swept | {"w": 4.0, "model": "x", "p_uncond": 0.5})
    less = {name: value for name, value in result.protocol.items() if name != "precision_recall"}
    evaluation.check_comparable(result, swept, result._replace(protocol=less))


def test_the_manifest_says_how_to_measure_again(result, model):
    with result.path.open() as file:
        assert json.load(file).keys() == {"metrics", "protocol", "swept", "record"}
    assert result.protocol["reference"] == "noise" and result.protocol["reference_count"] == 30
    assert result.swept["w"] == 1.5 and result.swept["num_steps"] == 4
    assert result.swept["solver"] == "ancestral" and result.swept["checkpoint"] == 4
    assert result.record["seed"] == 0 and result.record["config"]["data"]["name"] == "digits"
    assert result.record["versions"]["jax"] == jax.__version__


def test_numbers_are_called_fid_with_inception_only(result):
    lines = evaluation.report(result).splitlines()
    assert lines[0].startswith("Frechet distance in pixels ")
    assert lines[0].endswith(" (lower is better)")
    assert "FID" not in evaluation.report(result)
    with_inception = evaluation.report(changed(result, network=networks.INCEPTION)).splitlines()
    assert [line.split()[0] for line in with_inception[:3]] == ["FID", "sFID", "IS"]
    assert "all 30 images" in evaluation.report(result)


def test_a_deviation_over_splits_is_told_where_there_are_several(result):
    said = {n: evaluation.report(changed(result, score_split=n)) for n in (10, 5_000)}
    assert "score, deviation over splits in pixels" in said[10] and "splits of 10 im" in said[10]
    assert "deviation" not in said[5_000] and f"splits of {N} images" in said[5_000]


def test_too_few_images_for_the_covariance_are_warned_of_with_the_numbers(model, tmp_path, recwarn):
    wide = plain_network(spatial=False)
    wide = wide._replace(function=lambda images: seen(images)._replace(features=pixels(images)))
    moments = Moments(np.zeros(64), np.eye(64), 1000)
    reference = noise_reference(wide)._replace(count=1000, pool=moments, spatial=None)
    found = evaluate(model, tmp_path, wide, reference, metrics=["fid"])
    (said,) = found.record["warnings"]
    assert "20 samples for features of 64 numbers" in said and "rank 19" in said
    assert f"warning: {said}" in evaluation.report(found)
    assert not [w for w in recwarn if "rank" in str(w.message)]


def pixels(images):
    return images.reshape(len(images), -1).astype(np.float32)


def test_a_file_that_is_no_result_is_refused(tmp_path):
    fields = {"metrics": {"fid": 1.0}, "protocol": {}, "swept": {}, "record": {}}
    odd = [{"metrics": {}}, [1], 3, fields | {"metrics": [1]}, fields | {"metrics": {"fid": "1"}}]
    odd += [fields | {"protocol": None}, fields | {"more": 1}]
    for number, each in enumerate(odd):
        (tmp_path / f"{number}.json").write_text(json.dumps(each))
    for name in [*(f"{number}.json" for number in range(len(odd))), "b.json"]:
        with pytest.raises(ValueError, match=f"{name} is not an evaluation result"):
            evaluation.read_result(tmp_path / name)
