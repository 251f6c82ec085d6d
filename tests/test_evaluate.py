"""Likelihood and accuracy over a data set, against explicit sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.core.likelihood import variational_bound
from cfg_jax.evaluation import likelihood
from tests.tiny import pixel_model, tiny_classifier, tiny_config

N = 19


@pytest.fixture(scope="module")
def digits(data_dir):
    return data.open_source("digits", split="test", data_dir=data_dir)


@pytest.fixture(scope="module")
def model():
    return pixel_model(tiny_config())


@pytest.fixture(scope="module")
def found(model, digits):
    options = dict(num_steps=3, logsnr_max=8.0, logvar_interp=0.5, num_examples=N)
    return likelihood.likelihood(model, digits, batch_size=8, **options)


def test_a_bound_above_the_bits_of_raw_images_is_remarked():
    bound = likelihood.Likelihood(1.0, 6.0, 1.5, 0.1, num_examples=4, num_steps=3)
    assert "warning: images as they are need 8 bits/dim" in bound.report(images=True)
    assert "warning" not in bound.report()  # of points
    assert "warning" not in bound._replace(diffusion=5.5).report(images=True)


def alone(params):
    return jax.device_put(jax.device_get(params), jax.devices()[0])


def test_the_bound_is_the_mean_over_examples_of_each_examples_own_bound(model, digits, found):
    grid = cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(-20, 8), 3)

    @jax.jit
    def nats(params, i, x, label):
        key = jax.random.fold_in(jax.random.key(0), i)[None]
        options = {"logvar_interp": 0.5, "num_levels": 256}
        return variational_bound(key, model.bind(params), x[None], label[None], grid, **options)

    total = []
    for i in range(N):
        parts = nats(alone(model.params), i, digits[i]["x"], np.int32(digits[i]["label"]))
        total.append(sum(float(part[0]) for part in parts.values()) / (64 * np.log(2)))
    np.testing.assert_allclose(found.total, np.mean(total), rtol=1e-4)
    np.testing.assert_allclose(found.standard_error, np.std(total) / np.sqrt(N), rtol=1e-3)
    assert (found.num_examples, found.num_steps) == (N, 3)


@pytest.mark.parametrize("batch_size", [N, 64])
def test_the_bound_does_not_depend_on_the_batches(model, digits, found, batch_size):
    other = likelihood.likelihood(
        model,
        digits,
        num_steps=3,
        logsnr_max=8.0,
        logvar_interp=0.5,
        num_examples=N,
        batch_size=batch_size,
    )
    np.testing.assert_allclose(other, found, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 2.5, "3", -1])
def test_a_number_of_examples_that_is_none_is_refused_and_not_all(model, digits, count):
    with pytest.raises(ValueError, match="num_examples=.*: need an integer of at least 1"):
        likelihood.likelihood(model, digits, num_steps=3, num_examples=count)


class Unlabelled:
    """The digits, each with the label that means none."""

    def __init__(self, digits):
        self.name, self.shape, self.num_classes = digits.name, digits.shape, 10
        self.examples = [digits[i] | {"label": np.int32(0)} for i in range(4)]

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


def test_a_model_that_never_saw_a_label_is_measured_without_one(digits):
    model = pixel_model(tiny_config(**{"diffusion.p_uncond": 1.0}))
    options = dict(num_steps=3, num_examples=4, batch_size=4)
    found = likelihood.likelihood(model, digits, **options)
    # Its value is that of any labels, unlike a model's that was trained with some.
    assert found == likelihood.likelihood(model, Unlabelled(digits), **options)
    other = pixel_model(tiny_config())
    assert likelihood.likelihood(other, digits, **options) != found


def nearest_image(digits):
    """log_probs of a classifier that returns the label of the nearest image of the data set."""
    examples = [digits[i] for i in range(len(digits))]
    x = jnp.asarray(np.stack([example["x"].ravel() for example in examples]))
    labels = np.array([example["label"] for example in examples])

    def log_probs(z, logsnr):
        guess = z.reshape(len(z), -1) / cfg_jax.alpha_sigma(logsnr)[0][:, None]
        far = jnp.sum(x**2, 1)[None] - 2 * guess @ x.T
        of_label = [jnp.min(far[:, labels == label], axis=1) for label in range(10)]
        return jax.nn.log_softmax(-jnp.stack(of_label, axis=1))

    return log_probs


def test_accuracy_falls_from_one_to_chance_as_noise_grows(digits, monkeypatch):
    classifier = pixel_model(tiny_classifier())
    known = nearest_image(digits)
    monkeypatch.setattr(build.ClassifierExperiment, "log_probs", lambda self, params: known)
    by_level = likelihood.accuracy(classifier, digits, [20.0, 0.0, -20.0], batch_size=64)
    assert list(by_level) == [20.0, 0.0, -20.0]
    assert by_level[20.0] == 1.0
    assert 0.2 < by_level[0.0] < 1.0
    # 297 uninformed guesses: three standard errors above the largest class's fraction.
    assert by_level[-20.0] < 0.1 + 3 * 0.018


def test_accuracy_counts_the_examples_that_are_right(digits, monkeypatch):
    classifier = pixel_model(tiny_classifier())

    def always_three(self, params):
        return lambda z, logsnr: jax.nn.log_softmax(jnp.zeros((len(z), 10)).at[:, 3].set(1.0))

    monkeypatch.setattr(build.ClassifierExperiment, "log_probs", always_three)
    share = np.mean([digits[i]["label"] == 3 for i in range(N)])
    by_level = likelihood.accuracy(classifier, digits, [1.0], num_examples=N, batch_size=8)
    assert by_level == {1.0: pytest.approx(share)}
    assert 0 < share < 1


@pytest.mark.parametrize("measure", ["likelihood", "accuracy"])
def test_data_of_another_shape_is_refused(digits, measure):
    shape = (16, 16, 1)
    with pytest.raises(ValueError, match=r"\(8, 8, 1\) with 10 labels.*trained on") as caught:
        if measure == "likelihood":
            likelihood.likelihood(pixel_model(tiny_config(), shape=shape), digits)
        else:
            likelihood.accuracy(pixel_model(tiny_classifier(), shape=shape), digits, [0.0])
    assert "\n" not in str(caught.value)


def test_data_with_other_labels_is_refused(digits):
    other = pixel_model(tiny_config(), label_names=("cat", "dog"))
    with pytest.raises(ValueError, match="10 labels, the model is for .* with 2"):
        likelihood.likelihood(other, digits)


def test_the_likelihood_of_an_upsampler_is_refused(digits):
    upsampler = pixel_model(tiny_config(**{"diffusion.low_res_size": 4}))
    with pytest.raises(ValueError, match="upsampler"):
        likelihood.likelihood(upsampler, digits)


@pytest.mark.parametrize("end", [-20.0, -21.0, 20.5])
def test_a_grid_that_ends_outside_the_schedule_is_refused(model, digits, end):
    with pytest.raises(ValueError, match=f"logsnr_max={end}: need a value above -20 and up to 20"):
        likelihood.likelihood(model, digits, logsnr_max=end)


def test_a_discrete_schedule_ends_where_it_ends(digits):
    discrete = pixel_model(tiny_config(**{"diffusion.schedule": "linear"}))
    with pytest.raises(ValueError, match="logsnr_max=5.0: this schedule ends at its own"):
        likelihood.likelihood(discrete, digits, logsnr_max=5.0)


def test_the_data_of_a_run_are_opened_by_its_config(data_dir):
    trained = pixel_model(tiny_config(**{"data.data_dir": data_dir}))
    assert len(likelihood.open_data(trained, "test")) == 297
