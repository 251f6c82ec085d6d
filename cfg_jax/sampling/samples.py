"""Numbered samples, each a function of its index.

Sample i of N has label plan(i) and key fold_in(key(seed), i), whatever the batch size and the
number of devices. Samples of one seed therefore share their noise in a sweep.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import whole
from cfg_jax.io import images
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.settings import SamplingSettings

LABEL_PLANS = ("balanced", "random")


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Samples 0..num_samples - 1 of one model with one setting.

    model: model of images, not an upsampler.
    num_samples: N, at least 2; for balanced labels a multiple of the number of classes K.
    label_plan: "balanced" (sample i has label i mod K) or "random" (labels drawn from the seed).
    seed: random seed of noise and random labels.
    sampling: settings of guidance and sampler.
    classifier: noisy classifier that guides with weight sampling.classifier_w.
    """

    model: Model
    num_samples: int
    label_plan: str = "balanced"
    seed: int = 0
    sampling: SamplingSettings = SamplingSettings()
    classifier: NoisyClassifier | None = None

    def check(self) -> SamplingSettings:
        """Returns the filled settings, after all checks that need no device.

        Raises ValueError if the model is an upsampler or does not draw images, if the plan is
        unknown, if N does not suit the plan, or if `Model.check` rejects the settings.
        """
        model, plan = self.model, self.label_plan
        count = whole("num_samples", self.num_samples)
        whole("seed", self.seed)
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
        return model.check(self.sampling, classifier=self.classifier)

    def protocol(self) -> dict[str, Any]:
        """N, label plan and image shape as JSON values."""
        return {
            "num_samples": self.num_samples,
            "label_plan": self.label_plan,
            "image_shape": list(self.model.shape),
        }

    def swept(self) -> dict[str, Any]:
        """Filled settings as JSON values, with fingerprints of model and classifier."""
        return self.check().to_json(self.model.experiment) | {
            "classifier": self.classifier and self.classifier.sha256,
            "model": self.model.sha256,
            "checkpoint": self.model.step,
            "p_uncond": self.model.config.diffusion.p_uncond,
        }

    def draw(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws the samples index [B]: uint8 images [B, H, W, C] and int32 labels [B]."""
        keys = keys_lib.indexed(jax.random.key(self.seed), index)
        if self.label_plan == "balanced":
            labels = index % self.model.null_label
        else:
            pick = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.model.null_label))
            labels = np.asarray(pick(keys_lib.stream(keys, "label")))
        labels = labels.astype(np.int32)
        x = self.model.draw(keys, self.sampling, labels=labels, classifier=self.classifier)
        return images.to_images(x), labels
