"""Trained classifiers of noisy images.

    classifier = cfg_jax.load("runs/digits_classifier")
    log_prob = classifier.log_prob(z, logsnr, labels)

Classifier guidance takes the gradient of log_prob, for a model of the same data.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from cfg_jax.core.types import Array, chosen
from cfg_jax.sampling.trained import Trained


class NoisyClassifier(Trained):
    """log p(label | z) of a trained network; `Trained` lists its attributes."""

    def log_probs(self, z: Array, logsnr: Array) -> Array:
        """log p(label | z) of every label: [B, K] for z [B, H, W, C] and logsnr [] or [B]."""
        logsnr = jnp.broadcast_to(jnp.asarray(logsnr, jnp.float32), z.shape[:1])
        return self.experiment.log_probs(self.params)(z, logsnr)

    def log_prob(self, z: Array, logsnr: Array, labels: Array) -> Array:
        """log p(labels | z): [B]."""
        return chosen(self.log_probs(z, logsnr), labels)

    def check_guides(
        self, shape: tuple[int, ...], label_names: tuple[str, ...], labels: Any = ()
    ) -> None:
        """Refuses to guide a model of other data, or towards no label.

        Args:
          shape, label_names: of the model.
          labels: [B] of the request.

        Raises:
          ValueError: images of another shape, another number of labels, other names, or a label
            that is the model's null label, which a classifier does not know.
        """
        if difference := next(self._differences(tuple(shape), label_names), None):
            raise ValueError(f"{difference}: give a classifier trained on the same data")
        highest, last = np.max(labels, initial=0), len(label_names) - 1
        if highest > last:
            raise ValueError(
                f"label {highest} stands for none: a classifier guides towards 0..{last}"
            )

    def _differences(self, shape: tuple[int, ...], label_names: tuple[str, ...]) -> Iterator[str]:
        if self.shape != shape:
            yield f"the classifier takes images of {self.shape}, the model makes {shape}"
        own = self.label_names
        if len(own) != len(label_names):
            yield f"the classifier has {len(own)} labels, the model {len(label_names)}"
        for label, (ours, theirs) in enumerate(zip(own, label_names, strict=False)):
            if ours != theirs:
                yield f"label {label} is {ours!r} to the classifier and {theirs!r} to the model"
