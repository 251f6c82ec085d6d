import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax import experiment, generate


@pytest.fixture(scope="module")
def model(tiny_run):
    """The tiny run's model, its parameters shaken so that no layer is still at zero."""
    loaded = cfg_jax.load(tiny_run)
    rng = np.random.default_rng(0)
    shaken = jax.tree.map(
        lambda a: a + 0.1 * rng.standard_normal(a.shape).astype(np.float32), loaded.params
    )
    return loaded.with_params(shaken, loaded.step)


def draw(model, labels, **arguments):
    return model.sample_x(jax.random.key(0), labels=jnp.asarray(labels), **arguments)


def test_a_model_gives_images_of_the_data_it_was_trained_on(model):
    images = model.sample(jax.random.key(0), labels=jnp.arange(10), w=2.0, num_steps=4)
    assert images.shape == (10, 8, 8, 1) and images.dtype == np.uint8
    assert images.std() > 0
    assert model.label_names == tuple("0123456789") and model.step == 4


def on_one_device(model, labels, w):
    """The same draw by the library's pieces under plain jit, on the first device alone."""
    logsnrs = cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 4)
    params = jax.device_put(jax.device_get(model.params), jax.devices()[0])

    @jax.jit
    def sample(params, key):
        denoiser = cfg_jax.classifier_free_guidance(
            model.bind(params), labels, jnp.float32(w), null_label=10
        )
        return cfg_jax.sample(key, denoiser, (len(labels), 8, 8, 1), logsnrs)

    return np.asarray(sample(params, jax.random.key(0)))


@pytest.mark.parametrize("size", [1, 4, 8])
def test_a_sample_is_the_same_in_any_batch_on_one_device_and_on_eight(model, size):
    labels = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    on_eight = draw(model, labels, w=1.5)
    on_one = on_one_device(model, labels[:size], 1.5)
    np.testing.assert_array_equal(draw(model, labels[:size], w=1.5), on_eight[:size])
    np.testing.assert_array_equal(
        cfg_jax.images.to_images(on_one), cfg_jax.images.to_images(on_eight[:size])
    )
    np.testing.assert_allclose(on_one, on_eight[:size], atol=2e-5)


def test_moving_w_labels_seed_and_variance_compiles_nothing_new(model, monkeypatch):
    traced = []
    predict = experiment.Experiment.predict
    counting = lambda *a, **k: traced.append(1) or predict(*a, **k)  # noqa: E731
    monkeypatch.setattr(experiment.Experiment, "predict", counting)
    for seed, labels, w, logvar_interp, temperatures in [
        (0, [1, 2], 0.0, 0.0, (1, 1)),
        (1, [9, 10], 3.0, 0.7, (0.9, 1.1)),
        (2, [0, 0], np.array([0.0, -1.0]), 1.0, (0, 2.0)),
        (3, [0, 0], np.array([[0.0], [1.0], [2.0]]), 0.0, (1, 1)),
        (4, [0, 0], np.array([0.0, 1.0, 2.0]), 0.0, (1, 1)),
    ]:
        model.sample_x(
            jax.random.key(seed),
            labels=np.array(labels),
            w=w,
            logvar_interp=logvar_interp,
            noise_temperature=temperatures[0],
            score_temperature=temperatures[1],
            num_steps=3,
        )
    assert len(traced) == 1


def test_temperatures_change_samples_and_one_changes_nothing(model):
    plain = draw(model, [3, 5], w=1.0)
    one = draw(model, [3, 5], w=1.0, noise_temperature=1.0, score_temperature=1)
    np.testing.assert_array_equal(plain, one)
    for option in ({"noise_temperature": 0.8}, {"score_temperature": 0.9}):
        assert np.abs(draw(model, [3, 5], w=1.0, **option) - plain).max() > 1e-3


@pytest.mark.parametrize(
    "options, said",
    [
        ({"noise_temperature": -0.1}, "noise_temperature=-0.1, score_temperature=1.0: need finite"),
        ({"noise_temperature": np.nan}, "noise_temperature=nan"),
        ({"score_temperature": 0.0}, "score_temperature=0.0: need finite"),
        ({"score_temperature": [1.0, 2.0]}, "need finite numbers"),
        ({"noise_temperature": 0.5, "step": "ddim"}, "which draws no noise"),
    ],
)
def test_a_temperature_that_cannot_be_is_refused(model, options, said):
    with pytest.raises(ValueError, match=said):
        draw(model, [3], **options)


def test_w_zero_is_the_conditional_model_and_minus_one_the_unconditional(model):
    conditional = draw(model, [3, 3], w=0.0)
    assert np.abs(conditional - draw(model, [4, 4], w=0.0)).max() > 1e-3
    np.testing.assert_allclose(draw(model, [3, 3], w=-1.0), draw(model, [4, 4], w=-1.0), atol=1e-5)
    # Both branches of w = 5 are the null label's; x_hat at the first step is eps_hat times 22026,
    # and so is the rounding of 6 eps_hat - 5 eps_hat.
    nulls = draw(model, [model.null_label] * 2, w=5.0)
    np.testing.assert_allclose(draw(model, [3, 3], w=-1.0), nulls, atol=0.05)


def test_a_weight_per_sample_and_per_step_reach_their_place(model):
    per_sample = draw(model, [3, 3], w=np.array([0.0, 4.0]))
    np.testing.assert_array_equal(per_sample[0], draw(model, [3, 3], w=0.0)[0])
    np.testing.assert_array_equal(per_sample[1], draw(model, [3, 3], w=4.0)[1])
    constant = draw(model, [3, 3], w=np.full((4, 1), 4.0))
    np.testing.assert_array_equal(constant, draw(model, [3, 3], w=4.0))
    late = draw(model, [3, 3], w=np.array([0.0, 0.0, 0.0, 4.0]))
    assert np.abs(late - constant).max() > 1e-4


def test_rows_of_a_strip_share_their_noise(model):
    x = generate.guided(model, 0, [3, 5], [0.0, 0.0, 2.0], samples_per_label=2, batch_size=5)
    assert x.shape == (2, 2, 3, 8, 8, 1)
    np.testing.assert_array_equal(x[:, :, 0], x[:, :, 1])
    assert np.abs(x[0, 0, 0] - x[0, 1, 0]).max() > 1e-3
    whole = generate.guided(model, 0, [3, 5], [0.0, 0.0, 2.0], samples_per_label=2)
    np.testing.assert_array_equal(x, whole)


def test_dropout_is_off_while_sampling(model, tiny_run):
    with_dropout = model.config.model.dropout
    assert with_dropout > 0
    z, logsnr, labels = jnp.ones((2, 8, 8, 1)), jnp.zeros(2), jnp.arange(2)
    first, second = (model.predict(z, logsnr, labels) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    config = model.config.copy_and_resolve_references()
    config.model.dropout = 0.0
    bare = cfg_jax.Model(
        config, model.params, step=0, shape=model.shape, label_names=model.label_names
    )
    np.testing.assert_array_equal(bare.predict(z, logsnr, labels), first)


def test_samples_of_other_settings_do_not_overwrite_each_other(model, tmp_path):
    paths = set()
    for labels, weights, options in [
        ([3], [0.0], {}),
        ([4], [0.0], {}),
        ([3], [1.0], {}),
        ([3], [0.0], {"step": "ddim"}),
        ([3], [0.0], {"num_steps": 3}),
    ]:
        paths.update(generate.write_guidance_strip(model, tmp_path, 0, labels, weights, **options))
    assert len(paths) == 10 and set(tmp_path.iterdir()) == paths


def test_samples_that_are_not_finite_are_not_turned_into_black_images(model):
    broken = model.with_params(jax.tree.map(lambda a: a * np.nan, model.params), 7)
    with pytest.raises(FloatingPointError, match="step 7"):
        broken.sample(jax.random.key(0), labels=[1])


def test_a_strip_is_written_as_numbers_and_as_a_picture(model, tmp_path):
    archive, picture = generate.write_guidance_strip(model, tmp_path, 0, [3, 5], [0.0, 2.0])
    with np.load(archive, allow_pickle=False) as arrays:
        assert arrays["images"].shape == (2, 1, 2, 8, 8, 1)
        assert arrays["label_names"].tolist() == ["3", "5"]
        assert arrays["w"].tolist() == [0.0, 2.0] and arrays["num_steps"] == 4
    assert picture.stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"labels": [3, 11]}, "labels from 3 to 11: need 0..9, or 10"),
        ({"labels": [-1]}, "labels from -1"),
        ({"labels": [0.5]}, "need integers"),
        ({"labels": 3}, "need integers"),
        ({"labels": []}, "need integers"),
        ({"labels": [1, 2], "w": [1.0, 2.0, 3.0]}, "w of shape"),
        ({"labels": [1], "w": float("nan")}, "finite guidance"),
        ({"labels": [1], "num_steps": 1}, "num_steps=1"),
        ({"labels": [1], "step": "heun"}, "choose one of ancestral, ddim"),
        ({"labels": [1], "logvar_interp": 1.5}, "logvar_interp=1.5"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_line(model, arguments, said):
    with pytest.raises(ValueError, match=said) as caught:
        model.sample(jax.random.key(0), **arguments)
    assert "\n" not in str(caught.value)


def test_loading_needs_a_run_and_says_so(tmp_path):
    with pytest.raises(ValueError, match="launch.train"):
        cfg_jax.load(tmp_path / "nothing")


def test_a_chosen_checkpoint_is_loaded_and_an_absent_one_refused(tiny_run):
    assert cfg_jax.load(tiny_run, step=2).step == 2
    with pytest.raises(ValueError, match="no step 3"):
        cfg_jax.load(tiny_run, step=3)


def test_loading_changes_nothing_on_disk(tiny_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    cfg_jax.load(copy)
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before
