"""Classifier-free and classifier guidance of diffusion models in JAX and Flax.

Importing this package does not import TensorFlow, tfds, grain or orbax; calling `load` imports
what it needs to read a checkpoint. It starts no backend and extends $XLA_FLAGS, see
`cfg_jax.runtime.xla_flags`.
"""

import sys
from typing import TYPE_CHECKING, Any

from cfg_jax.core import keys
from cfg_jax.core.diffusion import (
    alpha_sigma,
    as_predict,
    diffuse,
    posterior,
    predict_eps,
    predict_v,
    predict_x,
)
from cfg_jax.core.flow import FlowSchedule
from cfg_jax.core.guidance import (
    classifier_free_guidance,
    classifier_guidance,
    clipped,
    drop_labels,
    mean_shift,
)
from cfg_jax.core.guiding import branches, guide
from cfg_jax.core.likelihood import bits_per_dim, variational_bound
from cfg_jax.core.losses import classifier_loss, diffusion_loss
from cfg_jax.core.oracles import GaussianMixture
from cfg_jax.core.plans import Churn, Plan, plan
from cfg_jax.core.rules import apg, cfg, dynamic_threshold, rescale, zero_star
from cfg_jax.core.samplers import ancestral_step, ddim_step, sample
from cfg_jax.core.schedules import cosine_schedule, logsnr_grid
from cfg_jax.core.timesteps import DiscreteSchedule, cosine_timesteps, linear_timesteps
from cfg_jax.core.types import Denoiser, Predict, Prediction
from cfg_jax.core.weighting import linear_weights, weights
from cfg_jax.io import images
from cfg_jax.models import MLP, Classifier, Transformer, UNet
from cfg_jax.runtime import xla_flags
from cfg_jax.sampling import keywords
from cfg_jax.sampling.loading import load
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.pretrained import pretrained
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.training.step import TrainState, create_optimizer, create_train_state, make_train_step

__version__ = "0.1.0"

xla_flags.set_flags()

# Both are also public as modules: `from cfg_jax.images import grid`.
sys.modules |= {"cfg_jax.images": images, "cfg_jax.keys": keys}

if not TYPE_CHECKING:  # a type checker would take every name for one of any type

    def __getattr__(name: str) -> Any:
        """Raises AttributeError, with the function to use for a name of another library."""
        owner = f"module {__name__!r}"
        said = keywords.attribute(owner, name, {}) or f"{owner} has no attribute {name!r}"
        raise AttributeError(said, name=name, obj=sys.modules[__name__])


__all__ = [
    "Churn",
    "Classifier",
    "Denoiser",
    "DiscreteSchedule",
    "FlowSchedule",
    "GaussianMixture",
    "MLP",
    "Model",
    "NoisyClassifier",
    "Plan",
    "Predict",
    "Prediction",
    "SamplingSettings",
    "TrainState",
    "Transformer",
    "UNet",
    "alpha_sigma",
    "ancestral_step",
    "apg",
    "as_predict",
    "bits_per_dim",
    "branches",
    "cfg",
    "classifier_free_guidance",
    "classifier_guidance",
    "classifier_loss",
    "clipped",
    "cosine_schedule",
    "cosine_timesteps",
    "create_optimizer",
    "create_train_state",
    "ddim_step",
    "diffuse",
    "diffusion_loss",
    "drop_labels",
    "dynamic_threshold",
    "guide",
    "images",
    "keys",
    "linear_timesteps",
    "linear_weights",
    "load",
    "logsnr_grid",
    "make_train_step",
    "mean_shift",
    "plan",
    "posterior",
    "predict_eps",
    "predict_v",
    "predict_x",
    "pretrained",
    "rescale",
    "sample",
    "variational_bound",
    "weights",
    "zero_star",
]
