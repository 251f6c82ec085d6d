"""Rows, columns and files of samples, against single calls of the model."""

import copy
import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from cfg_jax.sampling import strips
from cfg_jax.sampling.strips import Strip, Upsampler
from tests.tiny import pixel_model, tiny_classifier, tiny_config

NEAR = {"diffusion.logsnr_min": -8.0, "diffusion.logsnr_max": 8.0, "sampling.num_steps": 3}
LABELS = [3, 1]


@pytest.fixture(scope="module")
def model():
    return pixel_model(tiny_config(**NEAR))


@pytest.fixture(scope="module")
def classifier():
    return pixel_model(tiny_classifier(), key=1)


@pytest.fixture(scope="module")
def upsampler():
    return pixel_model(tiny_config(**NEAR, **{"diffusion.low_res_size": 8}), shape=(16, 16, 1))


@pytest.mark.parametrize(
    ("weights", "by", "expected"),
    [
        ([0, 1, 3], [0], [(0, 0), (1, 0), (3, 0)]),
        ([-1], [1, 2], [(-1, 1), (-1, 2)]),
        ([0, -1], [0, 4], [(0, 0), (-1, 4)]),
    ],
)
def test_a_single_weight_stands_beside_each_of_the_other_kind(weights, by, expected):
    assert strips.columns(weights, by) == expected


@pytest.mark.parametrize("by", [[1, 2], []])
def test_weights_that_do_not_pair_are_refused(by):
    with pytest.raises(ValueError, match=f"3 guidance weights with {len(by)} classifier weights"):
        strips.columns([0, 1, 3], by)


def test_a_row_is_one_key_and_one_label_at_every_weight(model):
    x = Strip(model, LABELS, [0.0, 2.0], seed=5, samples_per_label=2, batch_size=3).draw()
    assert x.shape == (2, 2, 2, 8, 8, 1)
    for row, label in enumerate([3, 3, 1, 1]):
        key = jax.random.fold_in(jax.random.key(5), row)[None]
        for column, w in enumerate([0.0, 2.0]):
            alone = model.sample_x(key, labels=np.array([label]), w=w)[0]
            np.testing.assert_allclose(x[row // 2, row % 2, column], alone, atol=1e-4)


def test_each_column_has_its_own_weight_of_the_classifier(model, classifier):
    # Random parameters give small gradients; the weights are large enough to be visible.
    x = Strip(model, LABELS, [-1.0], classifier_weights=[0.0, 50.0], classifier=classifier).draw()
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(np.arange(2))
    labels = np.array(LABELS)
    plain = model.sample_x(keys, labels=labels, w=-1.0)
    guided = model.sample_x(keys, labels=labels, w=-1.0, classifier=classifier, classifier_w=50.0)
    np.testing.assert_allclose(x[:, 0, 0], plain, atol=1e-4)
    np.testing.assert_allclose(x[:, 0, 1], guided, atol=1e-4)
    assert np.abs(guided - plain).max() > 1e-2


def test_an_upsampler_enlarges_the_image_of_its_place_after_rounding(model, upsampler):
    rng = np.random.default_rng(0)
    small = rng.uniform(-1.2, 1.2, (2, 1, 3, 8, 8, 1)).astype(np.float32)
    strip, stage = Strip(model, LABELS, [0.0, 1.0, 2.0]), Upsampler(upsampler, batch_size=6)
    large = Upsampler(upsampler, batch_size=4).draw(strip, small)
    assert large.shape == (2, 1, 3, 16, 16, 1)
    rounded = np.round((np.clip(small, -1, 1) + 1) * 127.5) / 127.5 - 1
    again = stage.draw(strip, rounded.astype(np.float32))
    np.testing.assert_allclose(again, large, atol=1e-4)
    swapped = stage.draw(strip, small[:, :, ::-1])
    np.testing.assert_allclose(swapped[:, :, ::-1], large, atol=1e-4)
    assert np.abs(large[:, :, 0] - large[:, :, 1]).max() > 1e-2


def test_an_upsampler_has_noise_of_its_own(model, upsampler, monkeypatch):
    keys = {}

    def record(name, drawing):
        def draw(key, settings, **arguments):
            keys[name] = np.asarray(jax.random.key_data(key))
            return np.zeros((len(keys[name]), *drawing.shape))

        monkeypatch.setattr(drawing, "draw", draw)

    record("small", model), record("large", upsampler)
    strip = Strip(model, LABELS, [0.0, 1.0])
    Upsampler(upsampler).draw(strip, strip.draw())
    assert keys["small"].shape == keys["large"].shape == (4, 2)
    # Rows share keys across columns in each strip; the two strips share none.
    assert np.unique(keys["small"], axis=0).shape == np.unique(keys["large"], axis=0).shape
    both = np.concatenate([keys["small"], keys["large"]])
    assert np.unique(both, axis=0).shape[0] == 4


def test_images_of_another_size_than_the_upsamplers_are_refused(upsampler):
    strip = Strip(pixel_model(tiny_config(**NEAR), shape=(4, 4, 1)), LABELS, [0.0])
    with pytest.raises(ValueError, match=r"images of \(8, 8, 1\), the model draws \(4, 4, 1\)"):
        Upsampler(upsampler).draw(strip, np.zeros((2, 1, 1, 4, 4, 1), np.float32))


@pytest.mark.parametrize(
    ("shape", "overrides", "label_names", "said"),
    [
        ((16, 16, 1), {}, tuple("0123456789"), "no low_res input"),
        (
            (8, 8, 1),
            {"diffusion.low_res_size": 4},
            tuple("0123456789"),
            r"\(4, 4, 1\).*\(8, 8, 1\)",
        ),
        ((16, 16, 1), {"diffusion.low_res_size": 8}, ("cat", "dog"), "2 label names differ"),
        ((16, 16, 1), {"diffusion.low_res_size": 8}, tuple("abcdefghij"), "label names differ"),
    ],
)
def test_an_upsampler_that_does_not_fit_is_refused(model, shape, overrides, label_names, said):
    other = pixel_model(tiny_config(**overrides), shape=shape, label_names=label_names)
    with pytest.raises(ValueError, match=said) as caught:
        Upsampler(other).check(model)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def strip(model, classifier, upsampler, tmp_path_factory):
    """A strip with both kinds of guidance, its upsampler, and the two files."""
    by = {"classifier_weights": [0.0, 2.0], "classifier": classifier}
    strip, stage = Strip(model, LABELS, [0.0, -1.0], **by, seed=7), Upsampler(upsampler)
    folder = tmp_path_factory.mktemp("strip")
    return strip, stage, strips.write_guidance_strip(strip, folder, stage)


def test_the_files_hold_what_was_drawn_and_what_it_depends_on(model, strip):
    request, _, (archive, png) = strip
    with np.load(archive) as held:
        assert held["images"].shape == (2, 1, 2, 16, 16, 1) and held["images"].dtype == np.uint8
        assert held["small_images"].shape == (2, 1, 2, 8, 8, 1)
        assert held["w"].tolist() == [0, -1] and held["classifier_w"].tolist() == [0, 2]
        assert held["labels"].tolist() == LABELS and held["label_names"].tolist() == ["3", "1"]
        assert (held["seed"], held["num_steps"], held["step"]) == (7, 3, model.step)
        expected = np.clip(np.round((request.draw() + 1) * 127.5), 0, 255)
        assert np.abs(held["small_images"] - expected).max() <= 1
    assert min(Image.open(png).size) > 2 * 16
    assert "w0_-1c2" in archive.name and png == archive.with_suffix(".png")


def older(trained):
    """The same parameters as of an earlier step."""
    other = copy.copy(trained)
    other.step -= 1
    return other


def test_files_of_another_classifier_or_upsampler_stand_beside_the_first(strip):
    request, stage, (archive, _) = strip
    names = {archive.name}
    for other in (
        (dataclasses.replace(request, classifier=older(request.classifier)), stage),
        (request, Upsampler(older(stage.model))),
    ):
        drawn = strips.write_guidance_strip(other[0], archive.parent, other[1])
        names.add(drawn[0].name)
    assert len(names) == 3 and len(list(archive.parent.glob("*.npz"))) == 3


def test_a_caption_names_the_classifier_only_where_it_guides():
    assert strips.caption(0.5, 0.0) == "w = 0.5"
    assert strips.caption(-1.0, 2.0) == "w = -1\nclassifier 2"
