"""Classifier-free and classifier guidance of diffusion models in JAX and Flax.

Importing this package loads neither TensorFlow nor tfds, grain or orbax; `load` imports what
reads a checkpoint when it is called.
"""

from cfg_jax import images, keys
from cfg_jax.diffusion import (
    alpha_sigma,
    as_predict,
    diffuse,
    posterior,
    predict_eps,
    predict_v,
    predict_x,
)
from cfg_jax.guidance import classifier_free_guidance, classifier_guidance, drop_labels
from cfg_jax.losses import diffusion_loss
from cfg_jax.model import Model, load
from cfg_jax.models import MLP, UNet
from cfg_jax.oracles import GaussianMixture
from cfg_jax.samplers import ancestral_step, ddim_step, sample
from cfg_jax.schedules import cosine_schedule, logsnr_grid
from cfg_jax.train_state import TrainState, create_optimizer, create_train_state, make_train_step
from cfg_jax.types import Denoiser, Predict

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "Denoiser",
    "GaussianMixture",
    "Model",
    "Predict",
    "TrainState",
    "UNet",
    "alpha_sigma",
    "ancestral_step",
    "as_predict",
    "classifier_free_guidance",
    "classifier_guidance",
    "cosine_schedule",
    "create_optimizer",
    "create_train_state",
    "ddim_step",
    "diffuse",
    "diffusion_loss",
    "drop_labels",
    "images",
    "keys",
    "load",
    "logsnr_grid",
    "make_train_step",
    "posterior",
    "predict_eps",
    "predict_v",
    "predict_x",
    "sample",
]
