"""Numbered samples, each a function of its index.

Sample i of N has label plan(i) and key fold_in(key(seed), i), whatever the batch size and the
number of devices. Samples of one seed therefore share their noise in a sweep.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.config.validate import to_json
from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import seed_of, whole
from cfg_jax.core.types import Array
from cfg_jax.io import images
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.settings import SamplingSettings

LABEL_PLANS = ("balanced", "random", "data")

UNBALANCED = 2.0
"""Ratio of the largest and smallest class above which samples get the data's labels by default."""


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Samples 0..num_samples - 1 of one model with one setting.

    model: model of images, not an upsampler.
    num_samples: N, at least 2; for balanced labels a multiple of the number of classes K.
    label_plan: "balanced" (sample i has label i mod K), "random" (labels drawn from the seed), or
      "data" (drawn from the seed with the class frequencies of the training data). None is "data"
      if the largest class has more than UNBALANCED times the images of the smallest, and
      "balanced" otherwise.
    seed: random seed of noise and drawn labels.
    sampling: settings of guidance and sampler.
    classifier: noisy classifier that guides with weight sampling.classifier_w.
    weaker: weaker model of autoguidance, in place of the null label.
    """

    model: Model
    num_samples: int
    label_plan: str | None = None
    seed: int = 0
    sampling: SamplingSettings = SamplingSettings()
    classifier: NoisyClassifier | None = None
    weaker: Model | None = None
    ema: ClassVar[bool] = True

    @property
    def plan(self) -> str:
        """The label plan, chosen by the class sizes if `label_plan` is None."""
        return self.label_plan or default_plan(self.model.class_counts)

    def check(self) -> SamplingSettings:
        """Returns the filled settings, after all checks that need no device.

        Raises ValueError if the model is an upsampler or does not draw images, if the plan is
        unknown, if N does not suit the plan, or if `Model.check` rejects the settings.
        """
        model, plan = self.model, self.plan
        count = whole("num_samples", self.num_samples)
        seed_of(self.seed)
        if len(model.shape) != 3 or model.low_res_shape:
            raise ValueError(f"model of shape {model.shape}: give an image model, not an upsampler")
        if plan not in LABEL_PLANS:
            raise ValueError(f"label_plan={plan!r}: choose one of {', '.join(LABEL_PLANS)}")
        if count < 2:
            raise ValueError(f"num_samples={count}: need 2 or more, 50000 is customary")
        labels = model.null_label
        if plan == "balanced" and count % labels:
            raise ValueError(
                f"num_samples={count}: label_plan='balanced' needs a multiple of the {labels} "
                f"classes: use {-(-count // labels) * labels}, or label_plan='random'"
            )
        if plan == "data" and model.class_counts is None:
            raise ValueError(
                "label_plan='data': the checkpoint has no class sizes (large data set, source "
                "without `labels`, or run of an earlier version): use label_plan='random'"
            )
        return model.check(self.sampling, classifier=self.classifier, weaker=self.weaker)

    def protocol(self) -> dict[str, Any]:
        """N, label plan and image shape as JSON values."""
        described = {
            "num_samples": self.num_samples,
            "label_plan": self.plan,
            "image_shape": list(self.model.shape),
        }
        if self.plan == "data" and self.model.class_counts is not None:
            described["class_counts"] = list(self.model.class_counts)
        return described

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C) of one image."""
        return self.model.shape

    def record(self) -> dict[str, Any]:
        """Seed and configs, the settings of a result that neither compare nor vary."""
        return {
            "seed": self.seed,
            "config": to_json(self.model.config),
            "classifier_config": self.classifier and to_json(self.classifier.config),
        }

    def swept(self) -> dict[str, Any]:
        """Filled settings as JSON values, with fingerprints of model and classifier."""
        return self.check().to_json(self.model.experiment) | {
            "classifier": self.classifier and self.classifier.sha256,
            "weaker": self.weaker and self.weaker.sha256,
            "model": self.model.sha256,
            "checkpoint": self.model.step,
            "p_uncond": self.model.config.diffusion.p_uncond,
        }

    def draw(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws the samples index [B]: uint8 images [B, H, W, C] and int32 labels [B]."""
        keys = keys_lib.indexed(jax.random.key(self.seed), index)
        if self.plan == "balanced":
            labels = (index % self.model.null_label).astype(np.int32)
        else:
            counts = self.model.class_counts if self.plan == "data" else None
            labels = drawn_labels(keys, self.model.null_label, counts)
        guides: dict[str, Any] = {"classifier": self.classifier, "weaker": self.weaker}
        x = self.model.draw(keys, self.sampling, labels=labels, **guides)
        return images.to_images(x), labels


def default_plan(counts: Sequence[int] | None) -> str:
    """The label plan for classes of these sizes, None if unknown, as in `Samples`."""
    unbalanced = counts is not None and max(counts) > UNBALANCED * min(counts)
    return "data" if unbalanced else "balanced"


def drawn_labels(keys: Array, num_classes: int, counts: Sequence[int] | None = None) -> np.ndarray:
    """Labels int32 [B], each drawn with its key [B]: uniformly, or in proportion to `counts`."""
    keys = keys_lib.stream(keys, "label")
    if counts is None:
        labels = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_classes))(keys)
    else:
        logits = jnp.log(jnp.asarray(counts, jnp.float32))
        labels = jax.vmap(lambda key: jax.random.categorical(key, logits))(keys)
    return np.asarray(labels, np.int32)
