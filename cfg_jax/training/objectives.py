"""Training objectives: the losses of `core.losses` bound to a task, with metrics to log.

    loss_fn = (params, keys [b], batch) -> (loss [b], {name: (values [b], weights [b])})

`make_train_step` takes such a function.
"""

import itertools

import jax.numpy as jnp
import numpy as np

from cfg_jax.config.build import ClassifierExperiment, Experiment
from cfg_jax.core import keys as keys_lib
from cfg_jax.core.losses import classifier_loss, diffusion_loss
from cfg_jax.core.types import Array
from cfg_jax.training.step import LossFn, Weighted

# For uniform u and logsnr in +-20 the bands hold 22.5, 27.5, 27.5 and 22.5 per cent of examples.
LOGSNR_EDGES = (-2.0, 0.0, 2.0)


def diffusion_loss_fn(task: Experiment, **options) -> LossFn:
    """A loss function that computes `diffusion_loss` and its metrics.

    Metrics, as (values [b], weights [b]): `eps_mse`; the loss of examples with and without their
    label; the fraction without; the loss in four bands of logsnr; for a learned variance `vlb`, in
    bits per dimension. Options are p_uncond, weighting, vlb_weight, vlb_steps and t_eps
    of `diffusion_loss`.
    """

    def loss_fn(params, keys, batch):
        loss_keys, dropout_keys = keys_lib.split(keys)
        low_res = area_mean(batch["x"], task.low_res_size) if task.low_res_size else None
        loss, aux = diffusion_loss(
            loss_keys,
            task.predict(params, dropout_keys, low_res),
            batch["x"],
            batch["labels"],
            schedule=task.schedule,
            null_label=task.null_label,
            **options,
        )
        dropped = aux["dropped"].astype(loss.dtype)
        metrics = {
            "loss_conditional": (loss, 1 - dropped),
            "loss_unconditional": (loss, dropped),
            "drop_rate": (dropped, jnp.ones_like(loss)),
        }
        every = {name: aux[name] for name in ("eps_mse", "vlb") if name in aux}
        metrics |= {name: (values, jnp.ones_like(loss)) for name, values in every.items()}
        return loss, metrics | _by_band("loss", loss, aux["logsnr"])

    return loss_fn


def classifier_loss_fn(task: ClassifierExperiment) -> LossFn:
    """A loss function of `classifier_loss`, with `accuracy` overall and in four bands of logsnr."""

    def loss_fn(params, keys, batch):
        loss_keys, dropout_keys = keys_lib.split(keys)
        loss, aux = classifier_loss(
            loss_keys,
            task.log_probs(params, dropout_keys),
            batch["x"],
            batch["labels"],
            schedule=task.schedule,
        )
        correct = aux["correct"].astype(loss.dtype)
        metrics = {"accuracy": (correct, jnp.ones_like(loss))}
        return loss, metrics | _by_band("accuracy", correct, aux["logsnr"])

    return loss_fn


def _by_band(name: str, values: Array, logsnr: Array) -> dict[str, Weighted]:
    """`values` weighted by 1 inside and 0 outside each band of logsnr."""
    bands = {}
    for low, high in itertools.pairwise((-np.inf, *LOGSNR_EDGES, np.inf)):
        inside = (logsnr >= low) & (logsnr < high)
        bands[f"{name}_logsnr_{low:g}_to_{high:g}"] = (values, inside.astype(values.dtype))
    return bands


def area_mean(x: Array, size: int) -> Array:
    """Means of equal squares of pixels: [B, H, W, C] to [B, size, size, C], size dividing H = W."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, size, height // size, size, width // size, channels)
    return blocks.mean(axis=(2, 4))
