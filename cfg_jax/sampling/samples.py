"""Numbered samples, each a function of its index.

Sample i of N has label plan(i) and draws from fold_in(key(seed), i), so that it is the same for any
batch size and number of devices, and samples of one seed share their noise whatever is swept.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from cfg_jax.core import keys as keys_lib
from cfg_jax.io import images
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.settings import SamplingSettings

LABEL_PLANS = ("balanced", "random")


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Samples 0..num_samples - 1 of one setting.

    model: of images, no upsampler.
    num_samples: N, 2 or more; a multiple of the K labels where the plan is balanced.
    label_plan: "balanced", sample i has label i mod K; "random", each drawn from the seed.
    seed: of noise and random labels.
    sampling: guidance and sampler.
    classifier: guides with sampling.classifier_w.
    """

    model: Model
    num_samples: int
    label_plan: str = "balanced"
    seed: int = 0
    sampling: SamplingSettings = SamplingSettings()
    classifier: NoisyClassifier | None = None

    def check(self) -> SamplingSettings:
        """The filled settings, after every check that needs no device.

        ValueError for a model without images, an unknown plan, N that the plan does not cover, and
        what `Model.check` refuses.
        """
        model, plan, count = self.model, self.label_plan, self.num_samples
        if len(model.shape) != 3 or model.low_res_shape:
            raise ValueError(
                "need a model that makes images from noise, no upsampler and no points"
            )
        if plan not in LABEL_PLANS:
            raise ValueError(f"label_plan={plan!r}: choose one of {', '.join(LABEL_PLANS)}")
        if count < 2:
            raise ValueError(f"num_samples={count}: need 2 or more, 50000 are customary")
        labels = model.null_label
        if plan == "balanced" and count % labels:
            raise ValueError(
                f"num_samples={count} is no multiple of the {labels} labels of a balanced plan: "
                f"take {-(-count // labels) * labels}, or a random plan"
            )
        return model.check(self.sampling, classifier=self.classifier)

    def protocol(self) -> dict[str, Any]:
        """N, the plan of labels and the images' shape, as JSON values."""
        return {
            "num_samples": self.num_samples,
            "label_plan": self.label_plan,
            "image_shape": list(self.model.shape),
        }

    def swept(self) -> dict[str, Any]:
        """The filled settings as JSON values, and the fingerprints of model and classifier."""
        return self.check().to_json(self.model.experiment) | {
            "classifier": self.classifier and self.classifier.sha256,
            "model": self.model.sha256,
            "checkpoint": self.model.step,
            "p_uncond": self.model.config.diffusion.p_uncond,
        }

    def draw(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """index [B] -> uint8 images [B, H, W, C] and int32 labels [B], each from its own key."""
        keys = keys_lib.indexed(jax.random.key(self.seed), index)
        if self.label_plan == "balanced":
            labels = index % self.model.null_label
        else:
            pick = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.model.null_label))
            labels = np.asarray(pick(keys_lib.stream(keys, "label")))
        labels = labels.astype(np.int32)
        x = self.model.draw(keys, self.sampling, labels=labels, classifier=self.classifier)
        return images.to_images(x), labels
