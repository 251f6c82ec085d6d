"""Plausible mistakes in a notebook, each answered in one line with the way out."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.sampling.settings import SamplingSettings
from tests.tiny import pixel_model, tiny_config

KEY = jax.random.key(0)
LOGSNRS = cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 8)
IMAGES = np.zeros((3, 8, 8, 1), np.uint8)
MIXTURE = cfg_jax.GaussianMixture(means=np.eye(2), variance=0.1, weights=np.ones(2))


@pytest.fixture(scope="module")
def model():
    return pixel_model(tiny_config())


MISTAKES = {
    "a key forgotten": (lambda m: m.sample(labels=[3]), "give a seed such as 0"),
    "key and labels swapped": (lambda m: m.sample([3], 0), r"key=\[3\]: need a seed such as 0"),
    "a weight without its name": (lambda m: m.sample(0, [3], 2.0), "by keyword, as w=2.0"),
    "a guidance scale": (lambda m: m.sample(0, [3], guidance_scale=7.5), "use w=6.5"),
    "steps by another name": (
        lambda m: m.sample(0, [3], num_inference_steps=50),
        "use num_steps",
    ),
    "a generator": (lambda m: m.sample([3], generator=0), "use key, a seed such as 0"),
    "several images per label": (
        lambda m: m.sample(0, [3], num_images_per_prompt=4),
        r"labels=\[7\] \* 4",
    ),
    "a misspelt argument": (lambda m: m.sample(0, [3], num_step=4), r"did you mean num_steps\?"),
    "a class that is none": (lambda m: m.sample(0, "no_label"), "did you mean 'no label'"),
    "a label too high": (lambda m: m.sample(0, [11]), "need 0..9, or 10 for no label"),
    "no label at all": (lambda m: m.sample(0, []), r"is empty: .* such as \[0, 1\]"),
    "labels forgotten": (lambda m: m.sample(0), "labels is missing: give one number or name per"),
    "a callback": (lambda m: m.sample(0, [3], callback_on_step_end=print), "use trajectory, for"),
    "an interval of one number": (lambda m: m.sample(0, [3], interval=3), r"such as \(-3, 6\)"),
    "rows of a one-hot matrix": (
        lambda m: m.sample(0, jax.nn.one_hot(jnp.arange(2), 10)),
        r"need integers \[B\]",
    ),
    "a number as text": (
        lambda m: m.sample(0, [3], num_steps="16"),
        "need an integer of at least 1",
    ),
    "a solver of another library": (
        lambda m: m.sample(0, [3], solver="euler"),
        r"choose one of ancestral, ddim, dpmpp_2m, .*; did you mean ddim\?",
    ),
    "a solver in capitals": (
        lambda m: m.sample(0, [3], solver="DDIM"),
        r"did you mean ddim\?",
    ),
    "a solver with signs": (
        lambda m: cfg_jax.plan(LOGSNRS, "DPM++ 2M"),
        r"did you mean dpmpp_2m\?",
    ),
    "a solver without its order": (
        lambda m: m.sample(0, [3], solver="unipc"),
        r"did you mean unipc_2\?",
    ),
    "a scheduler of diffusers": (
        lambda m: m.sample(0, [3], solver="DDPMScheduler"),
        r"did you mean ancestral\?",
    ),
    "a grid in capitals": (lambda m: m.sample(0, [3], grid="Karras"), r"did you mean karras\?"),
    "half a schedule": (lambda m: m.sample(0, [3], schedule="cos"), r"did you mean cosine\?"),
    "a rule that is a schedule": (
        lambda m: m.sample(0, [3], rule="cfg++"),
        r"did you mean schedule='cfgpp'\?",
    ),
    "a rule without the name of its number": (
        lambda m: m.sample(0, [3], rule="rescale:0.7"),
        "'0.7' is not NAME=NUMBER, as in rescale:phi=0.7",
    ),
    "a prediction of another library": (
        lambda m: cfg_jax.as_predict(lambda *inputs: 0, "epsilon"),
        "choose one of eps, x, v, .*; did you mean eps",
    ),
    "a name that is like none": (
        lambda m: m.sample(0, [3], solver="plms"),
        "choose one of ancestral, .*pcg$",
    ),
    "a type for its name": (
        lambda m: m.sample(0, [3], dtype=jnp.bfloat16),
        "dtype=.*: choose one of float32, bfloat16, as a text: 'float32'",
    ),
    "a class by another word": (
        lambda m: m.sample(0, "seven"),
        "label 'seven' is not a class: need 0, 1, 2, 3, .*, 9, no label; classes also",
    ),
    "weights of a sweep": (lambda m: m.sample(0, [3, 4], w=[0, 1, 2]), r"\[2\] for one per sample"),
    "an interval the wrong way round": (
        lambda m: m.sample(0, [3], interval=(6, -3)),
        "lo below hi",
    ),
    "a rule as a value": (
        lambda m: m.sample(0, [3], rule=cfg_jax.apg()),
        "need a text, such as 'cfg', 'rescale:phi=0.7'",
    ),
    "a grid as a value": (
        lambda m: m.sample(0, [3], grid=LOGSNRS),
        r"solver=cfg_jax.plan\(logsnrs, 'unipc_2'\)",
    ),
    "a model as its own classifier": (
        lambda m: m.sample(0, [3], classifier=m),
        "need a NoisyClassifier, from cfg_jax.load",
    ),
    "too many frames": (lambda m: m.trajectory(0, [3], calls=100), "need an integer from 1 to 4"),
    "one channel taken away": (
        lambda m: m.show(IMAGES[..., 0]),
        r"draws \[B, ...\] of \(8, 8, 1\)",
    ),
    "labels of other samples": (lambda m: m.show(IMAGES, [1, 2]), "give one per image"),
    "an array saved as a picture": (
        lambda m: cfg_jax.images.save_png("a.png", IMAGES),
        r"need a picture, as of `sheet\(images\)`",
    ),
    "a picture before its path": (
        lambda m: cfg_jax.images.save_png(m.show(IMAGES), "a.png"),
        "give the name of the file first",
    ),
    "frames before their path": (
        lambda m: cfg_jax.images.save_gif(IMAGES[:, None], "a.gif"),
        "give the name of the file first",
    ),
    "a GIF in the name of a PNG": (
        lambda m: cfg_jax.images.save_gif("a.png", IMAGES[:, None]),
        "path=a.png: need a name that ends in .gif",
    ),
    "an animation in the name of a PNG": (
        lambda m: cfg_jax.images.animation(IMAGES[:, None]).save("a.png"),
        "path=a.png: need a name that ends in .gif",
    ),
    "a PNG in the name of a JPEG": (
        lambda m: cfg_jax.images.save_png("a.jpg", m.show(IMAGES)),
        "path=a.jpg: need a name that ends in .png",
    ),
    "images as frames": (
        lambda m: cfg_jax.images.animation(IMAGES),
        r"frames of shape \(3, 8, 8, 1\): need uint8 \[n, B, H, W, C\], as of `Model.trajectory`",
    ),
    "no time per frame": (
        lambda m: cfg_jax.images.animation(IMAGES[:, None], seconds=0),
        "seconds=0: need a number from 0.01",
    ),
    "a time in words": (
        lambda m: cfg_jax.images.animation(IMAGES[:, None], seconds="1"),
        "seconds='1': need a number from 0.01",
    ),
    "8-bit levels as floats": (
        lambda m: m.show(np.full((3, 8, 8, 1), 200.0)),
        r"type float64 from 200 to 200: need uint8, .*samples.astype\(np.uint8\)",
    ),
    "8-bit levels as int64": (
        lambda m: m.show(IMAGES.astype(int)),
        r"type int64: need uint8, or floats .*samples.astype\(np.uint8\)",
    ),
    "images for x": (lambda m: m.predict(IMAGES, 0.0, [1, 2, 3]), "images / 127.5 - 1"),
    "a timestep for a log-SNR": (
        lambda m: m.predict(IMAGES / 127.5 - 1, 500, [1, 2, 3]),
        r"logsnr=500: need log-SNRs from -80 .* cfg_jax.linear_timesteps\(\).logsnr\(t\)",
    ),
    "one timestep per image": (
        lambda m: cfg_jax.diffuse(IMAGES / 127.5, IMAGES / 1.0, jnp.array([1, 200, 999])),
        "logsnr=200: need log-SNRs",
    ),
    "timesteps for a grid": (
        lambda m: cfg_jax.sample(KEY, lambda z, logsnr: z, (2, 2), jnp.arange(1000)),
        "logsnrs=81: need log-SNRs",
    ),
    "timesteps for a plan": (
        lambda m: cfg_jax.plan(range(0, 1000, 100), "ddim"),
        "logsnrs=100: need log-SNRs",
    ),
    "timesteps for weights": (
        lambda m: cfg_jax.weights(np.arange(1000), 2.0),
        "logsnrs=81: need log-SNRs",
    ),
    "a number of calls for weights": (
        lambda m: cfg_jax.weights(16, 2.0),
        r"plan of shape \(\): need a Plan, or finite log-SNRs \[T\], as of `logsnr_grid`",
    ),
    "a timestep of a mixture": (
        lambda m: MIXTURE.predict(np.zeros((1, 2)), 500, [0]),
        "logsnr=500: need log-SNRs",
    ),
    "images to diffuse": (
        lambda m: cfg_jax.diffuse(IMAGES, IMAGES / 1.0, 0.0),
        r"x=uint8\[3, 8, 8, 1\]: need floats .* images / 127.5 - 1",
    ),
    "noise and log-SNR swapped": (
        lambda m: cfg_jax.diffuse(IMAGES / 127.5, 0.0, IMAGES / 1.0),
        r"eps of shape \(\): need .* \(3, 8, 8, 1\); the order is diffuse\(x, eps, logsnr\)",
    ),
    "a step towards noise": (
        lambda m: cfg_jax.posterior(IMAGES / 1.0, IMAGES / 1.0, 2.0, 1.0),
        "logsnr_t=2.0, logsnr_s=1.0: need logsnr_s of at least logsnr_t",
    ),
    "timesteps of a step": (
        lambda m: cfg_jax.ddim_step(KEY, IMAGES / 1.0, IMAGES / 1.0, 999, 499),
        "logsnr=999: need log-SNRs",
    ),
    "timesteps of a posterior": (
        lambda m: cfg_jax.posterior(IMAGES / 1.0, IMAGES / 1.0, 999, 1.0),
        "logsnr_t=999: need log-SNRs",
    ),
    "data for its shape": (
        lambda m: cfg_jax.bits_per_dim(3.0, IMAGES),
        r"need the shape \[B, ...\] of a batch, x.shape",
    ),
    "a number for a shape": (
        lambda m: cfg_jax.bits_per_dim(3.0, 64),
        r"shape=64: need the shape",
    ),
    "a schedule for a plan": (
        lambda m: cfg_jax.plan(cfg_jax.cosine_schedule(), "ddim"),
        "logsnrs=CosineSchedule.*: need .*, as of `logsnr_grid`",
    ),
    "floats to x": (
        lambda m: cfg_jax.images.to_x(IMAGES / 255),
        "images of type float64: need an array of integers 0..255",
    ),
    "images for v": (lambda m: cfg_jax.predict_v(IMAGES, IMAGES / 1.0, 0.0), "images / 127.5 - 1"),
    "images for x_hat": (
        lambda m: cfg_jax.predict_eps(IMAGES / 1.0, IMAGES, 0.0),
        "x_hat=uint8.*images / 127.5 - 1",
    ),
    "images for a posterior": (
        lambda m: cfg_jax.posterior(IMAGES / 1.0, IMAGES, 0.0, 1.0),
        "images / 127.5 - 1",
    ),
    "a Predict for a Denoiser": (
        lambda m: cfg_jax.sample(KEY, MIXTURE.predict, (2, 2), LOGSNRS),
        "need a function .z, logsnr. -> eps_hat, as of `classifier_free_guidance`",
    ),
    "a number of steps for a grid": (
        lambda m: cfg_jax.sample(KEY, lambda z, logsnr: z, (2, 2), 64),
        "from `logsnr_grid`",
    ),
    "a grid from data to noise": (
        lambda m: cfg_jax.sample(KEY, lambda z, logsnr: z, (2, 2), LOGSNRS[::-1]),
        "from noise to data",
    ),
    "schedule and steps swapped": (
        lambda m: cfg_jax.logsnr_grid(64, cfg_jax.cosine_schedule()),
        "need a schedule, as of `cosine_schedule`",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_notebook_is_answered_with_the_way_out(model, name):
    call, way_out = MISTAKES[name]
    with pytest.raises((ValueError, TypeError), match=way_out) as caught:
        call(model)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 350


def test_the_name_of_a_pretrained_model_is_no_folder_of_a_run_and_the_reverse(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    said = f"digits does not exist in {tmp_path}: give .*; cfg_jax.pretrained\\('digits'\\) needs"
    with pytest.raises(ValueError, match=said):
        cfg_jax.load("digits")
    with pytest.raises(ValueError, match="name='runs/a': choose one of digits; cfg_jax.load reads"):
        cfg_jax.pretrained("runs/a")


@pytest.mark.parametrize("given", ["digit", "digits/checkpoints", "digits/checkpoints/900", ""])
def test_a_folder_beside_a_run_is_answered_with_the_run(tmp_path, given):
    (tmp_path / "digits" / "checkpoints" / "900").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match=f"did you mean {tmp_path / 'digits'}\\?"):
        cfg_jax.load(tmp_path / given)
    with pytest.raises(ValueError, match="cfg-jax train .*: give the folder of a run"):
        cfg_jax.load(tmp_path / "notes")


def test_the_trajectory_of_points_has_another_method():
    network = cfg_jax.MLP(out_channels=2, num_classes=3, channels=8, num_blocks=1)
    inputs = jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    params = network.init(KEY, *inputs)["params"]
    points = cfg_jax.Model.from_params(network, params, shape=(2,))
    with pytest.raises(ValueError, match=r"call model.draw\(.*, record='trajectory'\)"):
        points.trajectory(0, [1])
    settings = SamplingSettings(num_steps=4)
    x, estimates = points.draw(0, settings, labels=[1], record="trajectory")
    np.testing.assert_array_equal(estimates[:, -1], x)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("from_pretrained", r"cfg_jax.load\(workdir\), or cfg_jax.pretrained\('digits'\)"),
        ("DiffusionPipeline", r"cfg_jax.load\(workdir\)"),
        ("DDIMScheduler", "solver='ddim'"),
    ],
)
def test_a_function_of_another_library_is_answered_with_ours(name, use):
    said = f"module 'cfg_jax' has no attribute '{name}': use .*{use}"
    with pytest.raises(AttributeError, match=said):
        getattr(cfg_jax, name)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("save_pretrained", r"save\(workdir\)"),
        ("unet", r"predict, a function \(z, logsnr, labels\) -> eps_hat"),
        ("scheduler", "solver='ddim'"),
        ("from_pretrained", r"cfg_jax.load\(workdir\)"),
        ("parameters", "params"),
        ("to", "parameters are placed on all"),
    ],
)
def test_an_attribute_of_another_library_is_answered_with_ours(model, name, use):
    with pytest.raises(AttributeError, match=f"Model has no attribute '{name}': use .*{use}"):
        getattr(model, name)
    assert not hasattr(model, name) and name not in dir(model)


def test_other_attributes_are_missing_as_ever(model, monkeypatch):
    with pytest.raises(AttributeError, match="object has no attribute 'colour'$"):
        model.colour  # noqa: B018
    with pytest.raises(AttributeError, match="^module 'cfg_jax' has no attribute 'colour'$"):
        cfg_jax.colour  # noqa: B018
    monkeypatch.setattr(type(model), "schedule", property(lambda self: self.experiment.colour))
    with pytest.raises(AttributeError, match="has no attribute 'colour'"):
        model.schedule  # noqa: B018  (the error of a property is kept)
    assert copy.copy(model).num_classes == model.num_classes == 10


def test_images_that_were_not_clipped_are_shown_as_if_they_were(model):
    x = np.linspace(-3, 3, 64).reshape(1, 8, 8, 1)
    np.testing.assert_array_equal(model.show(x), model.show(np.clip(x, -1, 1)))


def test_points_may_be_lists():
    labels = np.array([1, 0])
    points = [[0.0, 1.0], [1.0, 0.5]]
    for function in (MIXTURE.predict, MIXTURE.log_prob, MIXTURE.log_prob_label):
        as_array = function(jnp.array(points), jnp.zeros(2), labels)
        np.testing.assert_array_equal(function(points, jnp.zeros(2), labels), as_array)
