"""Arguments that Python and NumPy would convert without a word."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cfg_jax
from cfg_jax.core.arguments import finite, integers, whole
from cfg_jax.core.timesteps import linear_timesteps


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3), jnp.int32(3)])
def test_integers_of_every_library_are_whole(value):
    assert whole("n", value) == 3 and type(whole("n", value)) is int


@pytest.mark.parametrize("value", [5.9, 4.0, "4", None, True, np.float32(4), [4], -1])
def test_what_is_no_whole_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match="^n=.*: need an integer of at least 0$") as caught:
        whole("n", value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [None, "2", True, 1j, [1, [2, 3]], float("nan"), [0, np.inf], np.full(2000, np.nan)]
    + [[True, 1.5], np.ma.masked_array([1.0, 2.0], [0, 1]), 10**400, [0.5] * 500 + [None]]
    + [np.timedelta64(3, "s"), jnp.array(True), jnp.float32(np.nan), jax.random.key(0)],
)
def test_what_is_no_finite_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match="^w=.*: need finite numbers$") as caught:
        finite("w", value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_finite_numbers_of_every_type_stay_as_they_are():
    for value in (2, [0.5, 1], np.float16(3), jnp.bfloat16(0.5)):
        np.testing.assert_array_equal(finite("w", value), np.asarray(value))


@pytest.mark.parametrize("schedule", [cfg_jax.cosine_schedule(), linear_timesteps()])
@pytest.mark.parametrize("num_steps", [0, 5.9, "5", None])
def test_no_schedule_has_a_grid_of_a_fraction_of_a_step(schedule, num_steps):
    with pytest.raises(ValueError, match=f"num_steps={num_steps!r}: need an integer"):
        schedule.grid(num_steps)


def test_labels_with_fractions_are_refused_not_truncated():
    with pytest.raises(ValueError, match="labels of type float32: need integers"):
        integers("labels", jnp.array([1.5]))
    with pytest.raises(ValueError, match="labels of type float64: need integers"):
        cfg_jax.classifier_free_guidance(None, np.array([0.5, 2]), 1.0, null_label=3)
    with pytest.raises(ValueError, match="w=None: need finite numbers"):
        cfg_jax.classifier_free_guidance(None, np.array([0, 2]), None, null_label=3)
    mixture = cfg_jax.GaussianMixture(np.eye(2), 0.1, np.ones(2))
    with pytest.raises(ValueError, match="labels of type float32: need integers"):
        mixture.predict(jnp.zeros((1, 2)), jnp.zeros(1), jnp.array([0.5]))


def test_labels_that_32_bits_would_wrap_are_refused():
    with pytest.raises(ValueError, match=r"labels from 1 to 4294967297: need integers of 32 bits"):
        integers("labels", [1, 2**32 + 1])
    for value in ([True, 2], [1, [2]], np.array([1, 2], "timedelta64[s]"), [2**80]):
        with pytest.raises(ValueError, match="labels.*: need integers"):
            integers("labels", value)


MIXTURE = cfg_jax.GaussianMixture(np.eye(3), 0.1, np.ones(3))
SCHEDULE, KEY = cfg_jax.cosine_schedule(-8, 8), jax.random.key(0)
GRID = np.array([-8.0, 0.0, 8.0], np.float32)
LABELS, X = np.array([0, 1]), np.zeros((2, 3), np.float32)


def denoise(z, logsnr):
    return z


def guide(predict=MIXTURE.predict, labels=LABELS, w=1.0, null_label=3):
    return cfg_jax.classifier_free_guidance(predict, labels, w, null_label=null_label)


def sample(key=KEY, denoiser=denoise, shape=(2, 3), logsnrs=GRID, **options):
    return cfg_jax.sample(key, denoiser, shape, logsnrs, **options)


def drop(labels=LABELS, p_uncond=0.1, null_label=3):
    return cfg_jax.drop_labels(KEY, labels, p_uncond=p_uncond, null_label=null_label)


def loss(predict=MIXTURE.predict, x=X, labels=LABELS, schedule=SCHEDULE, **options):
    options = {"p_uncond": 0.1, "null_label": 3} | options
    return cfg_jax.diffusion_loss(KEY, predict, x, labels, schedule=schedule, **options)


def classify(labels=LABELS, x=X, log_probs=MIXTURE.log_posterior):
    return cfg_jax.classifier_loss(KEY, log_probs, x, labels, schedule=SCHEDULE)


def bound(x=X, labels=LABELS, **options):
    return cfg_jax.variational_bound(KEY, MIXTURE.predict, x, labels, GRID, **options)


EYE = np.eye(2)


def mixture(means=EYE, variance=1.0, weights=(1.0, 1.0)):
    return cfg_jax.GaussianMixture(means, variance, weights)


def optimizer(**settings):
    defaults = {"learning_rate": 0.1, "warmup_steps": 0, "b1": 0.9, "b2": 0.99, "grad_clip": 1.0}
    return cfg_jax.create_optimizer(**defaults | settings)


def train_step(loss_fn=denoise, **settings):
    settings = {"seed": 0, "ema_decay": 0.9} | settings
    return cfg_jax.make_train_step(loss_fn, optax.sgd(0.1), **settings)


# function: (arguments, text of the error)
REFUSED = [
    (guide, {"w": False}, "w=False: need finite numbers"),
    (guide, {"w": jnp.array(True)}, "w=True: need finite numbers"),
    (guide, {"w": jnp.float32(np.nan)}, "w=nan: need finite numbers"),
    (guide, {"w": jnp.array(1j)}, "need finite numbers"),
    (guide, {"null_label": 3.0}, "null_label=3.0: need an integer from 0"),
    (guide, {"null_label": None}, "null_label=None: need an integer"),
    (guide, {"null_label": True}, "null_label=True: need an integer"),
    (guide, {"null_label": -1}, "null_label=-1: need an integer from 0"),
    (guide, {"predict": None}, "predict=None: need a function"),
    (guide, {"labels": [1, 2**40]}, "labels from 1 to .*32 bits"),
    (sample, {"key": [KEY, KEY]}, "key=.*: need jax.random.key"),
    (sample, {"key": np.zeros(3, np.uint32)}, r"key of type uint32 and shape \(3,\): need jax"),
    (sample, {"key": np.zeros(2)}, "key of type float64 and shape"),
    (sample, {"shape": 2}, "shape=2: need the shape"),
    (sample, {"shape": (0, 3)}, r"shape=\(0, 3\): need the shape"),
    (sample, {"shape": (2.0, 3)}, r"shape=\(2.0, 3\): need the shape"),
    (sample, {"logsnrs": None}, "logsnrs=None: need an ascending grid"),
    (sample, {"logsnrs": SCHEDULE}, "logsnrs=CosineSchedule.*: need an ascending grid"),
    (sample, {"logsnrs": [np.nan]}, r"logsnrs=\[nan\]: need an ascending grid"),
    (sample, {"logsnrs": [-8.0, np.inf]}, "need an ascending grid of finite"),
    (sample, {"step": "ddim"}, "step='ddim': need a function such as cfg_jax.ancestral_step"),
    (sample, {"denoiser": None}, "denoiser=None: need a function"),
    (sample, {"clip_x": "no"}, "clip_x='no': choose True or False"),
    (sample, {"clip_x": None}, "clip_x=None: choose True or False"),
    (sample, {"logvar_interp": np.nan}, "logvar_interp=nan: need finite"),
    (sample, {"logvar_interp": "0.3"}, "logvar_interp='0.3': need finite"),
    (sample, {"noise_temperature": -1}, "noise_temperature=-1: need a finite number, 0 or more"),
    (sample, {"noise_temperature": True}, "noise_temperature=True: need"),
    (sample, {"per_step": 1.0}, r"per_step of shape \(\): need 3 rows"),
    (drop, {"p_uncond": 10}, "p_uncond=10: need a probability"),
    (drop, {"p_uncond": np.nan}, "p_uncond=nan: need a probability"),
    (drop, {"p_uncond": True}, "p_uncond=True: need a probability"),
    (drop, {"labels": [0.0, 1.0]}, "labels of type float64: need integers"),
    (drop, {"labels": 3}, r"labels of shape \(\): give one per example"),
    (drop, {"null_label": 1.5}, "null_label=1.5: need an integer"),
    (loss, {"x": np.zeros((2, 3), np.uint8)}, r"x=uint8\[2, 3\]: need floats.*images / 127.5"),
    (loss, {"labels": [1]}, r"labels of shape \(1,\) for a batch of 2"),
    (loss, {"labels": [True, False]}, "labels=.*: need integers"),
    (loss, {"p_uncond": "0.1"}, "p_uncond='0.1': need a probability"),
    (loss, {"weighting": ["eps"]}, "weighting=.*: choose one of eps, x"),
    (loss, {"vlb_weight": True}, "vlb_weight=True: need 0"),
    (loss, {"vlb_weight": 1.0, "vlb_steps": 2.5}, "vlb_steps=2.5: need an integer"),
    (loss, {"schedule": "cosine"}, "schedule='cosine': need a function"),
    (classify, {"labels": [0.0, 1.0]}, "labels of type float64"),
    (classify, {"labels": [0]}, r"labels of shape \(1,\) for a batch of 2"),
    (classify, {"log_probs": lambda z, logsnr: logsnr}, r"log_probs of shape \(2,\)"),
    (bound, {"x": np.zeros((2, 3), np.uint8)}, "x=uint8.*: need floats"),
    (bound, {"labels": [0]}, r"labels of shape \(1,\)"),
    (bound, {"clip_x": "no"}, "clip_x='no': choose"),
    (bound, {"logvar_interp": "1"}, "logvar_interp='1': need finite"),
    (mixture, {"variance": np.inf}, "variance=inf: need finite"),
    (mixture, {"variance": "1"}, "variance='1': need finite"),
    (mixture, {"variance": 1e-50}, "variance=1e-50.*: every entry must be above 0"),
    (mixture, {"means": np.eye(2) * np.nan}, "means=.*: need finite"),
    (mixture, {"means": np.zeros((0, 2)), "weights": np.zeros(0)}, r"means of shape \(0, 2\)"),
    (mixture, {"weights": [True, True]}, "weights=.*: need finite"),
    (optimizer, {"learning_rate": -1.0}, "learning_rate=-1.0: need a finite number above 0"),
    (optimizer, {"learning_rate": None}, "learning_rate=None: need"),
    (optimizer, {"b2": 1.0}, r"b2=1.0: need a number in \[0, 1\)"),
    (optimizer, {"b1": 0.999999999}, "b1=0.999999999: need"),
    (optimizer, {"grad_clip": None}, "grad_clip=None: need .*0 for no clipping"),
    (optimizer, {"warmup_steps": 1.5}, "warmup_steps=1.5: need an integer"),
    (optimizer, {"weight_decay": np.nan}, "weight_decay=nan: need"),
    (train_step, {"seed": 1.5}, "seed=1.5: need an integer from 0 to 4294967295"),
    (train_step, {"seed": 2**32}, "seed=4294967296: need"),
    (train_step, {"ema_decay": 1.5}, r"ema_decay=1.5: need a number in \[0, 1\]"),
    (train_step, {"num_microbatches": 0}, "num_microbatches=0: need an integer"),
    (train_step, {"loss_fn": None}, "loss_fn=None: need a function"),
    (cfg_jax.cosine_schedule, {"logsnr_min": "1"}, "logsnr_min='1': need finite values"),
    (cfg_jax.cosine_schedule, {"logsnr_max": True}, "logsnr_max=True: need finite values"),
    (cfg_jax.cosine_schedule, {"logsnr_min": -1e4}, "logsnr_min=-10000.0: need .* from -80"),
    (cfg_jax.linear_timesteps, {"num_timesteps": 100.5}, "num_timesteps=100.5: need an integer"),
    (cfg_jax.cosine_timesteps, {"num_timesteps": True}, "num_timesteps=True: need an integer"),
    (cfg_jax.DiscreteSchedule, {"logsnrs": "98"}, "logsnrs='98': need log-SNRs"),
    (cfg_jax.DiscreteSchedule, {"logsnrs": (True, False)}, "logsnrs=.*: need log-SNRs"),
    (SCHEDULE.grid, {"num_steps": 10**9}, "num_steps=1000000000: need an integer from 2 to 100000"),
    (SCHEDULE.grid, {"num_steps": 4, "inclusive": "no"}, "inclusive='no': choose True or False"),
]


@pytest.mark.parametrize(("call", "arguments", "said"), REFUSED)
def test_an_argument_that_means_nothing_is_refused_by_name_in_one_line(call, arguments, said):
    with pytest.raises(ValueError, match=said) as caught:
        call(**arguments)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_schedule_that_is_none_has_no_grid():
    with pytest.raises(ValueError, match="schedule='cosine': need a schedule"):
        cfg_jax.logsnr_grid("cosine", 4)


def test_an_output_of_another_shape_is_refused_where_it_would_be_broadcast():
    with pytest.raises(ValueError, match=r"eps_hat of shape \(2, 1\) for z of shape \(2, 3\)"):
        sample(denoiser=lambda z, logsnr: z[:, :1])
    with pytest.raises(ValueError, match=r"eps_hat of shape \(2, 1\)"):
        loss(predict=lambda z, logsnr, labels: z[:, :1])
    with pytest.raises(ValueError, match=r"eps_hat of shape \(4, 1\)"):
        guide(predict=lambda z, logsnr, labels: z[:, :1])(X, 0.0)
    with pytest.raises(ValueError, match=r"log_prob of shape \(2, 3\) for a batch of 2"):
        cfg_jax.classifier_guidance(denoise, MIXTURE.log_posterior, 1.0)(X, np.zeros(2))
    for prediction, learned in (("x_and_eps", False), ("eps", True)):
        network = cfg_jax.as_predict(lambda *a: a[0], prediction, learned_variance=learned)
        with pytest.raises(ValueError, match=rf"shape \(2, 3\): prediction='{prediction}'.*6\)"):
            network(X, np.zeros(2), LABELS)


def test_a_negative_label_is_not_the_last_class_for_a_classifiers_loss():
    found, _ = classify(labels=np.array([-1, 3]))
    assert np.isnan(found).all()


def test_traced_arguments_are_checked_by_type_and_shape_alone():
    def denoiser(w, null_label):
        return guide(w=w, null_label=null_label)(X, 0.0)

    np.testing.assert_allclose(jax.jit(denoiser)(1.0, 3), denoiser(1.0, 3), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="null_label of type float32: need integers"):
        jax.jit(denoiser)(1.0, 3.0)
    with pytest.raises(ValueError, match="need finite numbers"):
        jax.jit(denoiser)(True, 3)
