"""Which samples are evaluated?

Sample i of N has label plan(i) and draws from fold_in(key(seed), i), so that it is the same for any
batch size and number of devices, and samples of one seed share their noise whatever is swept.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from cfg_jax.core import keys as keys_lib
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.storage import manifest

LABEL_PLANS = ("balanced", "random")


class Sampling(NamedTuple):
    """What a sweep moves; arguments of `Model.sample_x`, the config's where None."""

    w: float = 0.0
    num_steps: int | None = None
    step: str | None = None
    logvar_interp: float | None = None
    clip_x: bool | None = None
    respacing: str | None = None
    classifier_w: float = 0.0
    classifier_form: str = "eps"
    noise_temperature: float = 1.0
    score_temperature: float = 1.0


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
    model: Model, sampling: Sampling, classifier: NoisyClassifier | None
) -> dict[str, Any]:
    """The sampling with the config's values where it leaves them open, and the model it is of.

    Raises:
      ValueError: a weight of a classifier without a classifier, steps that cannot be.
    """
    if classifier is None and sampling.classifier_w:
        raise ValueError(f"classifier_w={sampling.classifier_w} without a classifier: give one")
    defaults = model.config.sampling
    chosen = sampling._asdict()
    if sampling.num_steps is None and sampling.respacing is None:
        chosen["respacing"] = defaults.respacing
    chosen["respacing"] = chosen["respacing"] or ""
    chosen["num_steps"] = len(model.grid(sampling.num_steps, sampling.respacing))
    for name in ("step", "logvar_interp", "clip_x"):
        if chosen[name] is None:
            chosen[name] = defaults[name]
    for name, value in chosen.items():
        if isinstance(value, int) and name not in ("num_steps", "clip_x"):
            chosen[name] = float(value)  # 1 and 1.0 are the same cell
    return chosen | {
        "classifier": None if classifier is None else manifest.sha256(classifier.params),
        "model": manifest.sha256(model.params),
        "checkpoint": model.step,
        "p_uncond": model.config.diffusion.p_uncond,
    }


def samples_at(
    model: Model,
    sampling: Sampling,
    classifier: NoisyClassifier | None,
    label_plan: str,
    seed: int,
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """index [B] -> uint8 samples [B, H, W, C] and int32 labels [B], each from its own key."""
    options = sampling._asdict()
    if classifier is not None:
        options["classifier"] = classifier

    def drawn(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys = keys_lib.indexed(jax.random.key(seed), index)
        labels = labels_at(keys, index).astype(np.int32)
        return model.sample(keys, labels=labels, **options), labels

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
