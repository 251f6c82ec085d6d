"""Which samples are evaluated?

Sample i of N has label plan(i) and draws from fold_in(key(seed), i), so that it is the same for any
batch size and number of devices, and samples of one seed share their noise whatever is swept.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cfg_jax.core import keys as keys_lib
from cfg_jax.io import images
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.settings import SamplingSettings

LABEL_PLANS = ("balanced", "random")


def check_samples(model: Model, num_samples: int, label_plan: str) -> None:
    """Refuses a model without images, an unknown plan, and N that the plan does not cover.

    Raises:
      ValueError: with what is allowed.
    """
    if len(model.shape) != 3 or model.low_res_shape:
        raise ValueError("need a model that makes images from noise, no upsampler and no points")
    if label_plan not in LABEL_PLANS:
        raise ValueError(f"label_plan={label_plan!r}: choose one of {', '.join(LABEL_PLANS)}")
    labels = model.null_label
    if num_samples < 2:
        raise ValueError(f"num_samples={num_samples}: need 2 or more, 50000 are customary")
    if label_plan == "balanced" and num_samples % labels:
        above = -(-num_samples // labels) * labels
        raise ValueError(
            f"num_samples={num_samples} is no multiple of the {labels} labels of a balanced plan: "
            f"take {above}, or a random plan"
        )


def swept_fields(
    model: Model, settings: SamplingSettings, classifier: NoisyClassifier | None
) -> dict[str, Any]:
    """The filled settings as JSON values, and the fingerprints of model and classifier.

    Raises:
      ValueError: what `Model.check` refuses.
    """
    filled = model.check(settings, classifier=classifier)
    return filled.to_json(model.experiment) | {
        "classifier": None if classifier is None else classifier.sha256,
        "model": model.sha256,
        "checkpoint": model.step,
        "p_uncond": model.config.diffusion.p_uncond,
    }


def samples_at(
    model: Model,
    settings: SamplingSettings,
    classifier: NoisyClassifier | None,
    label_plan: str,
    seed: int,
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """index [B] -> uint8 samples [B, H, W, C] and int32 labels [B], each from its own key."""

    def drawn(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys = keys_lib.indexed(jax.random.key(seed), index)
        labels = labels_at(keys, index).astype(np.int32)
        x = model.draw(keys, settings, labels=labels, classifier=classifier)
        return images.to_images(x), labels

    def labels_at(keys: jax.Array, index: np.ndarray) -> np.ndarray:
        if label_plan == "balanced":
            return index % model.null_label
        draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, model.null_label))
        return np.asarray(draw(keys_lib.stream(keys, "label")))

    return drawn


def images_at(*arguments) -> Callable[[np.ndarray], np.ndarray]:
    """index [B] -> uint8 samples [B, H, W, C]; arguments as of `samples_at`."""
    drawn = samples_at(*arguments)
    return lambda index: drawn(index)[0]
