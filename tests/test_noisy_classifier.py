"""Noisy classifiers: training, and the models that they may guide."""

import math
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.core.types import chosen
from cfg_jax.runtime import devices
from cfg_jax.sampling.loading import load_classifier, load_model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.training.run import make_step, train
from cfg_jax.training.step import create_optimizer, create_train_state
from tests.tiny import (
    DIGITS,
    parameters,
    pixel_model,
    pixel_networks,
    records,
    tiny_classifier,
    tiny_config,
)

BANDS = ("-inf_to_-2", "-2_to_0", "0_to_2", "2_to_inf")


def test_a_run_records_its_accuracy_over_all_and_in_bands_of_noise_and_draws_no_preview(
    tiny_classifier_run,
):
    logged = records(tiny_classifier_run)
    assert [record["step"] for record in logged] == [2, 4]
    of_bands = [record[f"accuracy_logsnr_{band}"] for record in logged for band in BANDS]
    assert all(0 <= share <= 1 for share in of_bands)
    assert min(of_bands) <= logged[0]["accuracy"] <= max(of_bands)
    assert not {"drop_rate", "eps_mse", "loss_conditional"} & logged[0].keys()
    # It cannot distinguish the ten classes yet.
    assert abs(logged[0]["loss"] - math.log(10)) < 0.3
    assert not (tiny_classifier_run / "previews").exists()


def test_a_classifiers_run_resumed_from_its_middle_ends_bit_for_bit_as_it_did(
    tiny_classifier_run, data_dir, tmp_path, capsys
):
    half = tmp_path / "half"
    shutil.copytree(tiny_classifier_run, half)
    shutil.rmtree(half / "checkpoints" / "4")
    with pixel_networks():
        train(tiny_classifier(**{"data.data_dir": data_dir}), half)
    assert "resuming from step 2" in capsys.readouterr().out
    chex.assert_trees_all_equal(parameters(half), parameters(tiny_classifier_run))
    assert [(record["loss"], record["accuracy"]) for record in records(half)] == [
        (record["loss"], record["accuracy"]) for record in records(tiny_classifier_run)
    ]


def test_training_teaches_digits_where_they_can_be_seen_and_only_there(
    tiny_classifier_run, data_dir, tmp_path
):
    longer = tmp_path / "longer"
    shutil.copytree(tiny_classifier_run, longer)
    times = {"train.num_steps": 90, "train.log_every": 30, "train.checkpoint_every": 90}
    with pixel_networks():
        train(tiny_classifier(**{"data.data_dir": data_dir} | times), longer)
    last = records(longer)[-1]
    assert last["accuracy_logsnr_2_to_inf"] > 0.6
    assert last["accuracy_logsnr_-inf_to_-2"] < 0.4
    assert last["loss"] < records(longer)[0]["loss"]


def test_the_step_of_the_true_network_keeps_the_form_of_its_state():
    config = tiny_classifier()
    described = build.assemble(config, (8, 8, 1), 10)
    optimizer = create_optimizer(
        learning_rate=0.1, warmup_steps=0, b1=0.9, b2=0.99, grad_clip=0.5, anneal_steps=9
    )
    batch = {
        "x": np.zeros((devices.num_devices(), 4, 8, 8, 1), np.float32),
        "labels": np.zeros((devices.num_devices(), 4), np.int32),
        "index": np.zeros((devices.num_devices(), 4), np.int32),
    }
    step = devices.pmap_step(make_step(described, optimizer, config))
    params = jax.eval_shape(described.init, jax.random.key(0))
    before = jax.eval_shape(lambda params: create_train_state(params, optimizer), params)
    after, metrics = jax.eval_shape(step, before, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)
    assert {"loss", "accuracy", *(f"accuracy_logsnr_{band}" for band in BANDS)} <= metrics.keys()


def test_training_crops_as_the_config_says(monkeypatch, data_dir, tmp_path):
    class Seen(Exception):
        pass

    def stop(source, **arguments):
        raise Seen(arguments)

    monkeypatch.setattr(data, "batches", stop)
    with pytest.raises(Seen) as caught:
        train(tiny_classifier(**{"data.data_dir": data_dir, "data.min_crop": 0.7}), tmp_path)
    (arguments,) = caught.value.args
    assert arguments["min_crop"] == 0.7 and arguments["batch_size"] == 64


@pytest.fixture(scope="module")
def classifier(tiny_classifier_run):
    with pixel_networks():
        return cfg_jax.load(tiny_classifier_run)


def test_a_classifiers_run_loads_as_a_classifier_of_its_data(classifier):
    assert isinstance(classifier, NoisyClassifier)
    assert (classifier.shape, classifier.label_names) == ((8, 8, 1), DIGITS)
    assert classifier.step == 4 and classifier.config.network == "classifier"


def test_what_a_classifier_answers_are_log_probabilities_of_each_image_at_its_noise(classifier):
    z = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8, 8, 1)), jnp.float32)
    logsnr = jnp.array([-3.0, 2, 2])
    log_probs = jax.jit(classifier.log_probs)
    each = log_probs(z, logsnr)
    assert each.shape == (3, 10)
    np.testing.assert_allclose(np.exp(np.float64(each)).sum(axis=1), 1, rtol=1e-5)
    log_prob = jax.jit(classifier.log_prob)(z, logsnr, jnp.array([7, 0, 10]))
    np.testing.assert_allclose(log_prob[:2], [each[0, 7], each[1, 0]], rtol=1e-5)
    assert np.isnan(log_prob[2]), "the null label has no probability"
    np.testing.assert_array_equal(log_probs(z, 2.0)[1:], each[1:])
    assert np.abs(log_probs(z, 2.0)[0] - each[0]).max() > 1e-5


def test_a_classifier_that_guides_drops_no_features(classifier):
    assert classifier.config.model.dropout > 0
    config = classifier.config.copy_and_resolve_references()
    config.model.dropout = 0.0
    with pixel_networks():
        bare = NoisyClassifier(
            config, classifier.params, step=4, shape=(8, 8, 1), label_names=DIGITS
        )
    given = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)
    traced = [str(jax.make_jaxpr(one.log_probs)(*given)) for one in (classifier, bare)]
    assert traced[0] == traced[1]


@pytest.mark.parametrize("label", [-1, 3, 100])
def test_a_label_that_is_none_has_no_log_probability(label):
    table = jnp.log(jnp.array([[0.2, 0.3, 0.5]] * 2))
    found = chosen(table, jnp.array([2, label]))
    np.testing.assert_allclose(found[0], np.log(0.5), rtol=1e-6)
    assert np.isnan(found[1])


def test_each_kind_of_run_is_refused_where_the_other_is_needed(tiny_run, tiny_classifier_run):
    assert load_classifier(tiny_classifier_run, 2).step == 2
    assert load_model(tiny_run).step == 4
    with pytest.raises(ValueError, match=f"{tiny_classifier_run} holds a classifier: give") as one:
        load_model(tiny_classifier_run)
    with pytest.raises(ValueError, match=f"{tiny_run} holds no classifier: give") as other:
        load_classifier(tiny_run)
    assert "\n" not in str(one.value) + str(other.value)


@pytest.mark.parametrize(
    ("shape", "label_names", "labels", "said"),
    [
        ((16, 16, 1), DIGITS, [1], r"images of \(8, 8, 1\), the model draws \(16, 16, 1\)"),
        ((8, 8, 1), DIGITS[:9], [1], "10 labels, the model 9"),
        ((8, 8, 1), ("0", "one", *DIGITS[2:]), [1], "label 1 is '1' .* and 'one' for the model"),
        ((8, 8, 1), DIGITS, [1, 10], r"label 10 means no label: .* 0\.\.9"),
    ],
)
def test_a_classifier_refuses_to_guide_other_data_or_towards_no_label(
    classifier, shape, label_names, labels, said
):
    with pytest.raises(ValueError, match=said) as caught:
        classifier.check_guides(shape, label_names, np.array(labels))
    assert "\n" not in str(caught.value)
    classifier.check_guides((8, 8, 1), DIGITS, np.array([0, 9]))


def test_a_model_asks_a_classifier_whether_it_fits_before_it_compiles(monkeypatch):
    model = pixel_model(tiny_config())
    other = pixel_model(tiny_classifier(), label_names=DIGITS[:9] + ("nine",))
    monkeypatch.setattr(model, "_compiled", None)
    for labels, classifier, said in [
        ([1], other, "label 9 is 'nine'"),
        ([10], pixel_model(tiny_classifier()), "label 10 means no label"),
    ]:
        with pytest.raises(ValueError, match=said):
            model.sample_x(
                jax.random.key(0), labels=labels, classifier=classifier, classifier_w=1.0
            )
