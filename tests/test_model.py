import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.config import build
from cfg_jax.runtime import devices
from cfg_jax.sampling import strips
from cfg_jax.sampling.settings import SamplingSettings
from tests.tiny import (
    DIGITS,
    pixel_model,
    random_model,
    shaken_model,
    tiny_classifier,
    tiny_config,
    tiny_points,
)


@pytest.fixture(scope="module")
def model(tiny_run):
    return shaken_model(tiny_run)


def draw(model, labels, **arguments):
    return model.sample_x(jax.random.key(0), labels=jnp.asarray(labels), **arguments)


@pytest.mark.compat
def test_a_model_gives_images_of_the_data_it_was_trained_on(model):
    images = model.sample(jax.random.key(0), labels=jnp.arange(10), w=2.0, num_steps=4)
    assert images.shape == (10, 8, 8, 1) and images.dtype == np.uint8
    assert images.std() > 0
    assert model.label_names == tuple("0123456789") and model.step == 4


def on_one_device(model, labels, w):
    """The same samples from the library's functions under plain jit, on the first device."""
    logsnrs = cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 4)
    params = jax.device_put(jax.device_get(model.params), jax.devices()[0])

    @jax.jit
    def sample(params, key):
        denoiser = cfg_jax.classifier_free_guidance(
            model.bind(params), labels, jnp.float32(w), null_label=10
        )
        return cfg_jax.sample(key, denoiser, (len(labels), 8, 8, 1), logsnrs)

    return np.asarray(sample(params, jax.random.key(0)))


TEN = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])


# Programs of other shapes round float32 differently on some processors.
@pytest.mark.parametrize("size", [1, 4])
def test_a_sample_is_the_same_in_any_batch(model, size):
    alone = draw(model, TEN[:size], w=1.5)
    np.testing.assert_allclose(alone, draw(model, TEN, w=1.5)[:size], atol=2e-5)


def test_a_sample_is_the_same_on_one_device_and_on_several(model):
    on_one, on_several = on_one_device(model, TEN[:4], 1.5), draw(model, TEN, w=1.5)[:4]
    np.testing.assert_array_equal(
        cfg_jax.images.to_images(on_one), cfg_jax.images.to_images(on_several)
    )
    np.testing.assert_allclose(on_one, on_several, atol=2e-5)


def test_moving_w_labels_seed_and_variance_compiles_nothing_new(pixels, monkeypatch):
    traced = []
    predict = build.Experiment.predict
    counting = lambda *a, **k: traced.append(1) or predict(*a, **k)  # noqa: E731
    monkeypatch.setattr(build.Experiment, "predict", counting)
    for seed, labels, w, logvar_interp, temperatures in [
        (0, [1, 2], 0.0, 0.0, (1, 1)),
        (1, [9, 10], 3.0, 0.7, (0.9, 1.1)),
        (2, [0, 0], np.array([0.0, -1.0]), 1.0, (0, 2.0)),
        (3, [0, 0], np.array([[0.0], [1.0], [2.0]]), 0.0, (1, 1)),
        (4, [0, 0], np.array([0.0, 1.0, 2.0]), 0.0, (1, 1)),
    ]:
        pixels.sample_x(
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
        ({"noise_temperature": -0.1}, "noise_temperature=-0.1: need a finite"),
        ({"noise_temperature": np.nan}, "noise_temperature=nan"),
        ({"score_temperature": 0.0}, "score_temperature=0.0: need a finite"),
        ({"score_temperature": [1.0, 2.0]}, "need a finite number"),
        ({"noise_temperature": 0.5, "solver": "ddim"}, "which draws no noise"),
    ],
)
def test_a_temperature_that_cannot_be_is_refused(model, options, said):
    with pytest.raises(ValueError, match=said):
        draw(model, [3], **options)


def test_w_zero_is_the_conditional_model_and_minus_one_the_unconditional(model):
    conditional = draw(model, [3, 3], w=0.0)
    assert np.abs(conditional - draw(model, [4, 4], w=0.0)).max() > 1e-3
    np.testing.assert_allclose(draw(model, [3, 3], w=-1.0), draw(model, [4, 4], w=-1.0), atol=1e-5)
    # Both branches of w = 5 use the null label; x_hat at the first step multiplies eps_hat, and the
    # rounding of 6 eps_hat - 5 eps_hat, by 22026.
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
    weights = [0.0, 0.0, 2.0, 1.0, 3.0]
    strip = strips.Strip(model, [3, 5], weights, samples_per_label=2, batch_size=3)
    x = strip.draw()
    assert x.shape == (2, 2, 5, 8, 8, 1)
    np.testing.assert_array_equal(x[:, :, 0], x[:, :, 1])
    assert np.abs(x[0, 0, 0] - x[0, 1, 0]).max() > 1e-3
    whole = dataclasses.replace(strip, batch_size=256).draw()
    np.testing.assert_allclose(x, whole, atol=2e-5)


def test_dropout_is_off_while_sampling(model):
    assert model.config.model.dropout > 0
    config = model.config.copy_and_resolve_references()
    config.model.dropout = 0.0
    bare = cfg_jax.Model(
        config, model.params, step=0, shape=model.shape, label_names=model.label_names
    )
    given = model.params, jnp.ones((2, 8, 8, 1)), jnp.zeros(2), jnp.arange(2)
    traced = [
        str(jax.make_jaxpr(lambda params, *rest, m=m: m.bind(params)(*rest))(*given))
        for m in (model, bare)
    ]
    assert traced[0] == traced[1]


def test_samples_of_other_settings_do_not_overwrite_each_other(pixels, tmp_path):
    paths = set()
    for labels, weights, options in [
        ([3], [0.0], {}),
        ([4], [0.0], {}),
        ([3], [1.0], {}),
        ([3], [0.0], {"solver": "ddim"}),
        ([3], [0.0], {"num_steps": 3}),
    ]:
        strip = strips.Strip(pixels, labels, weights, settings=SamplingSettings(**options))
        paths.update(strips.write_guidance_strip(strip, tmp_path))
    assert len(paths) == 10 and set(tmp_path.iterdir()) == paths


def test_samples_that_are_not_finite_are_not_turned_into_black_images(model):
    broken = model.with_params(jax.tree.map(lambda a: a * np.nan, model.params), 7)
    with pytest.raises(FloatingPointError, match="samples of checkpoint 7 are not finite"):
        broken.sample(jax.random.key(0), labels=[1])


def test_a_strip_is_written_as_numbers_and_as_a_picture(model, tmp_path):
    archive, picture = strips.write_guidance_strip(
        strips.Strip(model, [3, 5], [0.0, 2.0]), tmp_path
    )
    with np.load(archive, allow_pickle=False) as arrays:
        assert arrays["images"].shape == (2, 1, 2, 8, 8, 1)
        assert arrays["label_names"].tolist() == ["3", "5"]
        assert arrays["w"].tolist() == [0.0, 2.0] and arrays["num_steps"] == 4
    assert picture.stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"labels": [3, 11]}, "label 11: need 0..9, or 10"),
        ({"labels": [-1]}, "label -1"),
        ({"labels": [0.5]}, "need integers"),
        ({"labels": []}, "labels is empty"),
        ({"labels": [1, 2], "w": [1.0, 2.0, 3.0]}, "w has shape"),
        ({"labels": [1], "w": float("nan")}, "finite guidance"),
        ({"labels": [1], "num_steps": 0}, "num_steps=0"),
        ({"labels": [1], "solver": "euler"}, "choose one of ancestral, ddim"),
        ({"labels": [1], "logvar_interp": 1.5}, "logvar_interp=1.5"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_line(model, arguments, said):
    with pytest.raises(ValueError, match=said) as caught:
        model.sample(jax.random.key(0), **arguments)
    assert "\n" not in str(caught.value)


def test_loading_needs_a_run_and_says_so(tmp_path):
    with pytest.raises(ValueError, match="cfg-jax train"):
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


# Pixel networks from here on, since the tests check how functions are combined.


# In this range x_hat keeps four more digits than with the factor 22026 on eps_hat.
NEAR = {"diffusion.logsnr_min": -8.0, "diffusion.logsnr_max": 8.0}


@pytest.fixture(scope="module")
def pixels():
    return pixel_model(tiny_config(**NEAR))


@pytest.fixture(scope="module")
def classifier():
    # Strong enough for a visible gradient beside the network's output.
    drawn = pixel_model(tiny_classifier(), key=1)
    drawn.params = devices.replicate(jax.tree.map(lambda a: 2 * a, drawn.params))
    return drawn


LABELS = np.array([3, 1, 4])


def alone(params):
    return jax.device_put(jax.device_get(params), jax.devices()[0])


def by_hand(model, grid, *, step="ancestral", w=0.0, low_res=None, guide=None):
    """Algorithm 2 as a Python loop without jit, calling the guidance branches separately.

    guide: (classifier, classifier_w [B], form).
    """
    predict = model.bind(alone(model.params), low_res)
    nulls, w = np.full_like(LABELS, model.null_label), np.float32(w)
    classifier, by, form = guide or (None, np.zeros(3), "eps")
    by = np.float32(by).reshape(3, 1, 1, 1)
    row_keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(3)]

    def noise(t):
        keys = [jax.random.fold_in(key, t) for key in row_keys]
        return jnp.stack([jax.random.normal(key, model.shape) for key in keys])

    def shift(z, logsnr):
        if classifier is None:
            return 0.0
        log_probs = classifier.experiment.log_probs(alone(classifier.params))
        of_labels = lambda z: log_probs(z, logsnr)[np.arange(3), LABELS].sum()  # noqa: E731
        return by * jax.grad(of_labels)(z)

    z = noise(0)
    for t, (logsnr, following) in enumerate(zip(grid, [*grid[1:], grid[-1]], strict=True), 1):
        every, sigma = jnp.full(3, logsnr), cfg_jax.alpha_sigma(logsnr)[1]
        output, other = predict(z, every, LABELS), predict(z, every, nulls)
        eps_hat = (1 + w) * cfg_jax.core.types.eps_of(output) - w * cfg_jax.core.types.eps_of(other)
        if form == "eps":
            eps_hat = eps_hat - sigma * shift(z, every)
        x_hat = jnp.clip(cfg_jax.predict_x(z, eps_hat, logsnr), -1, 1)
        if form == "adm" and step == "ddim":
            score_shifted = cfg_jax.predict_eps(z, x_hat, logsnr) - sigma * shift(z, every)
            x_hat = cfg_jax.predict_x(z, score_shifted, logsnr)
        if step == "ddim":
            z = cfg_jax.diffuse(x_hat, cfg_jax.predict_eps(z, x_hat, logsnr), following)
            continue
        interp = getattr(output, "logvar_interp", 0.0)
        mean, logvar = cfg_jax.posterior(z, x_hat, logsnr, following, logvar_interp=interp)
        if form == "adm":
            mean = mean + jnp.exp(logvar) * shift(z, every)
        z = mean + jnp.exp(logvar / 2) * noise(t)
    return np.asarray(x_hat)


@pytest.mark.parametrize("seed", [3, np.uint32(3)])
def test_a_seed_is_the_key_that_jax_makes_of_it(pixels, seed):
    expected = pixels.sample(jax.random.key(3), labels=LABELS, w=1.5)
    np.testing.assert_array_equal(pixels.sample(seed, LABELS, w=1.5), expected)


@pytest.mark.parametrize("label", [4, "4", np.int64(4), jnp.int32(4), np.array(4)])
def test_one_label_is_a_batch_of_one(pixels, label):
    np.testing.assert_array_equal(pixels.sample(0, label), pixels.sample(0, [4]))


def test_telemetry_of_floats_is_that_of_images(pixels):
    (x, one), (images, other) = (
        draw(0, LABELS, w=1.5, telemetry=True) for draw in (pixels.sample_x, pixels.sample)
    )
    np.testing.assert_array_equal(cfg_jax.images.to_images(x), images)
    np.testing.assert_array_equal(one.gap, other.gap)


def test_a_step_rule_of_ones_own_samples_like_the_same_rule_by_name(pixels):
    own = pixels.sample_x(0, LABELS, w=1.5, solver=cfg_jax.ddim_step)
    np.testing.assert_array_equal(own, pixels.sample_x(0, LABELS, w=1.5, solver="ddim"))

    def halved(key, z_t, x_hat, logsnr_t, logsnr_s):
        return cfg_jax.ddim_step(key, z_t, x_hat, logsnr_t, logsnr_s) / 2

    assert np.abs(pixels.sample_x(0, LABELS, w=1.5, solver=halved) - own).max() > 1e-3


def test_plans_of_ones_own_share_a_program_and_sample_like_the_same_solver_by_name(pixels):
    grid = cfg_jax.logsnr_grid(pixels.schedule, 5)
    compiled = pixels._compiled.cache_info().misses
    for name in ("dpmpp_2m", "unipc_2"):
        own = pixels.sample_x(0, LABELS, w=1.5, solver=cfg_jax.plan(grid, name))
        expected = pixels.sample_x(0, LABELS, w=1.5, solver=name, num_steps=5)
        np.testing.assert_allclose(own, expected, atol=1e-6)
    assert pixels._compiled.cache_info().misses == compiled + 1


@pytest.mark.parametrize("solver", ["ancestral", "ddim", cfg_jax.ddim_step])
def test_one_call_returns_the_estimate_from_noise(pixels, solver):
    got = pixels.sample_x(0, LABELS, w=1.5, num_steps=1, solver=solver)
    np.testing.assert_allclose(got, by_hand(pixels, grid_of_four()[:1], w=1.5), atol=5e-4)
    late = pixels.sample_x(0, LABELS, w=1.5, num_steps=1, solver=solver, grid="uniform")
    np.testing.assert_allclose(got, late, atol=5e-4)  # both begin at -8


def test_a_model_describes_itself_in_one_line(tiny_run, pixels):
    loaded = cfg_jax.load(tiny_run)
    count = sum(leaf.size for leaf in jax.tree.leaves(loaded.params))
    assert repr(loaded) == (
        f"Model('{tiny_run}', step=4, network=UNet, params={count}, shape=(8, 8, 1), "
        "num_classes=10)"
    )
    unsaved = pixel_model(tiny_config())
    assert repr(unsaved).startswith("Model(step=7, ") and "params" not in vars(unsaved)


def test_samples_are_shown_below_the_names_of_their_labels(pixels):
    drawn = pixels.sample(0, LABELS)
    plain = np.asarray(pixels.show(drawn))
    np.testing.assert_array_equal(plain, cfg_jax.images.grid(drawn))
    np.testing.assert_array_equal(plain, pixels.show(drawn / np.float32(127.5) - 1))
    captioned = np.asarray(pixels.show(drawn, ["3", 1, "no label"]))
    np.testing.assert_array_equal(captioned[20:], plain)
    assert pixels.show(drawn[0]).size == (68, 68)
    assert pixels.show(np.stack([drawn] * 4), LABELS).size == (3 * 68, 4 * 88)


def test_points_are_shown_as_a_plot():
    model = cfg_jax.Model(tiny_points(), {}, step=0, shape=(2,), label_names=("a", "b"))
    points = np.random.default_rng(0).standard_normal((6, 2))
    assert model.show(points, ["a", "b"] * 3).size == (300, 320)


@pytest.mark.parametrize(
    ("shape", "labels", "said"),
    [
        ((2, 9, 9, 1), None, r"samples of shape \(2, 9, 9, 1\): this model draws"),
        ((2, 8, 8, 1), [1, 2, 3], "3 captions for 2 images"),
        ((2, 8, 8, 1), [1, "eleven"], "label 'eleven' is not a class"),
    ],
)
def test_samples_that_are_not_the_models_are_not_shown(pixels, shape, labels, said):
    with pytest.raises(ValueError, match=said):
        pixels.show(np.zeros(shape, np.uint8), labels)


def grid_of_four():
    return cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(-8, 8), 4)


@pytest.mark.parametrize("step", ["ancestral", "ddim"])
@pytest.mark.parametrize("form", ["eps", "adm"])
def test_a_classifier_guides_as_the_pieces_composed_by_hand(pixels, classifier, form, step):
    by = np.array([6.0, 0.0, 20.0])
    guide = dict(classifier=classifier, classifier_w=by, classifier_form=form)
    got = draw(pixels, LABELS, w=0.5, solver=step, **guide)
    grid = grid_of_four()
    expected = by_hand(pixels, grid, w=0.5, step=step, guide=(classifier, by, form))
    np.testing.assert_allclose(got, expected, atol=5e-4)
    plain = by_hand(pixels, grid, w=0.5, step=step)
    np.testing.assert_allclose(got[1], plain[1], atol=5e-4)
    assert np.abs(got - plain).max((1, 2, 3))[[0, 2]].min() > 1e-2


@pytest.mark.parametrize("form", ["eps", "adm"])
def test_a_classifier_of_weight_zero_is_none(pixels, classifier, form):
    plain = draw(pixels, LABELS, w=0.5)
    for weight in (0.0, np.zeros(3)):
        guide = dict(classifier=classifier, classifier_w=weight, classifier_form=form)
        np.testing.assert_allclose(draw(pixels, LABELS, w=0.5, **guide), plain, atol=1e-5)


def test_moving_the_classifiers_weight_or_parameters_compiles_nothing_new(classifier, monkeypatch):
    traced = []
    log_probs = build.ClassifierExperiment.log_probs
    counting = lambda *a, **k: traced.append(1) or log_probs(*a, **k)  # noqa: E731
    monkeypatch.setattr(build.ClassifierExperiment, "log_probs", counting)
    model, other = pixel_model(tiny_config(**NEAR)), pixel_model(tiny_classifier(), key=2)
    drawn = [
        model.sample_x(jax.random.key(seed), labels=labels, classifier=given, classifier_w=by)
        for seed, labels, given, by in [
            (0, LABELS, classifier, 9.0),
            (1, LABELS + 5, classifier, np.array([-1.0, 4.0, 0.0])),
            (0, LABELS, other, 9.0),
        ]
    ]
    assert len(traced) == 1
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3, "each classifier has its own parameters"


def other_classifiers():
    return {
        "shape": pixel_model(tiny_classifier(), shape=(16, 16, 1)),
        "number": pixel_model(tiny_classifier(), label_names=DIGITS[:9]),
        "names": pixel_model(tiny_classifier(), label_names=tuple("abcdefghij")),
    }


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("shape", {}, r"classifier takes images of \(16, 16, 1\)"),
        ("number", {}, "classifier has 9 labels, the model 10"),
        ("names", {}, "label 0 is 'a' for the classifier and '0' for the model"),
        (None, {"labels": [1, 10]}, "label 10 means no label"),
        (None, {"classifier_w": [1.0, 2.0, 3.0]}, r"classifier_w=\[1.0, 2.0, 3.0\].*\[2\]"),
        (None, {"classifier_w": np.ones((4, 1))}, "classifier_w="),
        (None, {"classifier_w": float("nan")}, "classifier_w=nan: need a finite number"),
        (None, {"classifier_w": [1.0, float("inf")]}, "need a finite number"),
        (None, {"classifier_form": "score"}, "classifier_form='score'.*eps, adm"),
    ],
)
def test_a_classifier_that_cannot_guide_is_refused_in_one_line_before_compiling(
    pixels, classifier, monkeypatch, name, arguments, said
):
    monkeypatch.setattr(pixels, "_compiled", None)
    given = other_classifiers()[name] if name else classifier
    arguments = {"labels": [1, 2], "classifier_w": 1.0} | arguments
    with pytest.raises(ValueError, match=said) as caught:
        pixels.sample(jax.random.key(0), classifier=given, **arguments)
    assert len(str(caught.value).splitlines()) == 1 or name is None


@pytest.mark.parametrize("label_input", ["without_null", "none"])
def test_a_model_without_null_label_samples_at_w_zero_and_refuses_another(label_input):
    model = pixel_model(tiny_config(**{"model.label_input": label_input}))
    assert not model.has_null_label
    threes, fours = (draw(model, [label] * 2) for label in (3, 4))
    assert np.abs(threes[0] - threes[1]).max() > 1e-3
    assert np.array_equal(threes, fours) == (label_input == "none")
    for w in (1.0, -1.0, np.array([0.0, 0.5])):
        with pytest.raises(ValueError, match="no null label; use w=0 and a classifier") as caught:
            draw(model, [3, 4], w=w)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("p_uncond", "w", "label"), [(0.0, 0.0, 3), (1.0, -1.0, 10)])
def test_a_model_of_one_branch_samples_from_that_branch_only(tmp_path, p_uncond, w, label):
    model = pixel_model(tiny_config(**{"diffusion.p_uncond": p_uncond}))
    assert model.has_null_label and not model.guides_itself
    assert np.isfinite(draw(model, [label], w=w)).all()
    for other in (1.0, -1 - w, np.array([w, 0.5])):
        with pytest.raises(ValueError, match=f"p_uncond={p_uncond:g} never showed .*use w={w:g}"):
            draw(model, [3, 4], w=other)
    with pytest.raises(ValueError, match=f"use w={w:g}"):
        strips.preview(model, (0.0, 1.0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_label_is_refused_by_a_model_that_always_had_one():
    model = pixel_model(tiny_config(**{"diffusion.p_uncond": 0.0}))
    with pytest.raises(ValueError, match=r"label 10 means no label.*\(p_uncond=0\)"):
        draw(model, [3, 10])
    model = pixel_model(tiny_config(**{"model.label_input": "without_null"}))
    with pytest.raises(ValueError, match="label 10: need 0..9$"):
        draw(model, [3, 10])


def test_a_learned_variance_is_the_one_that_is_sampled_with():
    model = pixel_model(tiny_config(**NEAR, **{"diffusion.learned_variance": True}))
    got = draw(model, LABELS, w=1.5)
    np.testing.assert_allclose(got, by_hand(model, grid_of_four(), w=1.5), atol=1e-4)
    np.testing.assert_array_equal(draw(model, LABELS, w=1.5, logvar_interp=0.9), got)


def linear_logsnrs(timesteps):
    """log(abar / (1 - abar)) of Ho et al. 2020's betas, in float64."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[timesteps]
    return jnp.asarray(np.log(abar / (1 - abar)), jnp.float32)


@pytest.fixture(scope="module")
def discrete():
    return pixel_model(tiny_config(**{"diffusion.schedule": "linear"}))


def test_a_discrete_model_samples_at_its_timesteps(discrete):
    expected = by_hand(discrete, linear_logsnrs([999, 666, 333, 0]), w=0.5)
    np.testing.assert_allclose(draw(discrete, LABELS, w=0.5), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("default", "arguments", "timesteps"),
    [
        ("", {"num_steps": 3}, [999, 500, 0]),
        ("", {"respacing": "ddim25"}, range(960, -1, -40)),
        ("", {"respacing": "2,1"}, [500, 499, 0]),
        ("ddim5", {}, [800, 600, 400, 200, 0]),
        ("ddim5", {"num_steps": 2}, [999, 0]),
        ("ddim5", {"respacing": "2"}, [999, 0]),
    ],
)
def test_timesteps_are_those_asked_for_and_else_the_configs(
    monkeypatch, default, arguments, timesteps
):
    settings = {"diffusion.schedule": "linear", "sampling.respacing": default}
    model, plans = pixel_model(tiny_config(**settings)), []

    def planned(plan):
        plans.append(plan)
        return lambda shared, batch: np.zeros((3, 8, 8, 1))

    monkeypatch.setattr(model, "_compiled", planned)
    draw(model, LABELS, **arguments)
    expected = linear_logsnrs(np.array(timesteps))
    np.testing.assert_allclose(plans[0].grid, expected, rtol=1e-4, atol=1e-4)


def test_a_discrete_models_network_is_given_timesteps(discrete):
    z, timesteps = jnp.ones((3, 8, 8, 1)), [999, 500, 0]
    described = discrete.experiment
    assert described.network.noise_input == "timestep"
    params = alone(discrete.params)
    raw = described.network.apply({"params": params}, z, jnp.float32(jnp.array(timesteps)), LABELS)
    alpha, sigma = (
        np.asarray(a).reshape(3, 1, 1, 1) for a in cfg_jax.alpha_sigma(linear_logsnrs(timesteps))
    )
    # The digits networks predict v.
    eps_hat = discrete.bind(params)(z, linear_logsnrs(timesteps), LABELS)
    np.testing.assert_allclose(eps_hat, sigma * z + alpha * raw, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_steps": 7, "respacing": "ddim25"}, "num_steps=7 and respacing='ddim25'"),
        ({"num_steps": 1001}, "num_steps=1001.*from 2 to 1000"),
        ({"respacing": "ddim37"}, "'ddim37'.*nearest"),
        ({"respacing": "fast"}, "respacing='fast'"),
    ],
)
def test_a_grid_that_a_discrete_model_does_not_have_is_refused(discrete, arguments, said):
    with pytest.raises(ValueError, match=said) as caught:
        draw(discrete, LABELS, **arguments)
    assert "\n" not in str(caught.value)


def test_a_continuous_model_has_no_timesteps_to_space(pixels):
    with pytest.raises(ValueError, match="respacing='ddim25'.*continuous.*give num_steps"):
        draw(pixels, LABELS, respacing="ddim25")


@pytest.fixture(scope="module")
def upsampler():
    return pixel_model(tiny_config(**NEAR, **{"diffusion.low_res_size": 4}))


def test_an_upsampler_gives_each_sample_its_own_small_image_in_both_branches(upsampler):
    assert upsampler.low_res_shape == (4, 4, 1)
    low_res = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    got = draw(upsampler, LABELS, w=1.5, low_res=low_res)
    expected = by_hand(upsampler, grid_of_four(), w=1.5, low_res=low_res)
    np.testing.assert_allclose(got, expected, atol=5e-4)
    changed = draw(
        upsampler, LABELS, w=1.5, low_res=low_res * np.float32([1, -1, 1])[:, None, None, None]
    )
    moved = np.abs(changed - got).max((1, 2, 3))
    assert moved[1] > 1e-2 and moved[0] == moved[2] == 0


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (None, r"low_res is missing: this upsampler needs images of shape \(3, 4, 4, 1\)"),
        ((3, 8, 8, 1), r"low_res has shape \(3, 8, 8, 1\): .* \(3, 4, 4, 1\)"),
        ((1, 4, 4, 1), r"low_res has shape \(1, 4, 4, 1\)"),
    ],
)
def test_a_small_image_missing_or_of_another_shape_is_refused(upsampler, shape, said):
    low_res = None if shape is None else np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=said) as caught:
        draw(upsampler, LABELS, low_res=low_res)
    assert "\n" not in str(caught.value)


def test_a_small_image_for_a_model_that_is_no_upsampler_is_refused(pixels):
    assert pixels.low_res_shape is None
    with pytest.raises(ValueError, match="not an upsampler: omit it"):
        draw(pixels, LABELS, low_res=np.zeros((3, 4, 4, 1), np.float32))


def test_a_small_side_that_does_not_divide_the_large_one_is_refused():
    with pytest.raises(ValueError, match=r"low_res_size=3 for images of \(8, 8, 1\)"):
        build.assemble(tiny_config(**{"diffusion.low_res_size": 3}), (8, 8, 1), 10)


def test_the_unet_of_an_upsampler_with_every_other_choice_samples():
    model = random_model(
        tiny_config(
            **{
                "diffusion.schedule": "cosine",
                "diffusion.learned_variance": True,
                "diffusion.low_res_size": 4,
                "model.attention_resolutions": (),
                "model.label_input": "without_null",
                "model.adagn": False,
                "model.rescale_residual": True,
                "model.qkv_order": "heads_qkv",
                "model.num_heads": 2,
            }
        )
    )
    low_res = np.zeros((3, 4, 4, 1), np.float32)
    images = model.sample(jax.random.key(0), labels=LABELS, low_res=low_res, respacing="ddim25")
    assert images.shape == (3, 8, 8, 1) and images.std() > 1
