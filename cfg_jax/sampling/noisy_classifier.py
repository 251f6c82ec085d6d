"""How is a trained classifier of noisy images used?

    classifier = cfg_jax.load("runs/digits_classifier")
    log_prob = classifier.log_prob(z, logsnr, labels)

Averaged parameters bound to log p(label | z), which classifier guidance takes the gradient of, and
what has to agree between it and the model that it guides.
"""

import jax.numpy as jnp
import numpy as np

from cfg_jax.core.types import Array
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
        self, shape: tuple[int, ...], label_names: tuple[str, ...], labels: np.ndarray
    ) -> None:
        """Refuses to guide a model of other data, or towards no label.

        Args:
          shape, label_names: of the model.
          labels: [B], what is to be drawn.

        Raises:
          ValueError: images of another shape, another number of labels, other names, or a label
            that is the model's null label, of which a classifier knows nothing.
        """
        if self.shape != tuple(shape):
            raise ValueError(
                f"the classifier takes images of {self.shape}, the model makes {tuple(shape)}: "
                "give a classifier trained on the same data"
            )
        if len(self.label_names) != len(label_names):
            raise ValueError(
                f"the classifier has {len(self.label_names)} labels, the model "
                f"{len(label_names)}: give a classifier trained on the same data"
            )
        pairs = enumerate(zip(self.label_names, label_names, strict=True))
        for label, (ours, theirs) in pairs:
            if ours != theirs:
                raise ValueError(
                    f"label {label} is {ours!r} to the classifier and {theirs!r} to the model: "
                    "give a classifier trained on the same data"
                )
        last = len(label_names) - 1
        if (labels > last).any():
            raise ValueError(
                f"label {labels.max()} stands for none: a classifier guides towards 0..{last}"
            )


def chosen(log_probs: Array, labels: Array) -> Array:
    """log_probs[i, labels[i]]: [B] from [B, K]; NaN where there is no such label."""
    known = (labels >= 0) & (labels < log_probs.shape[1])
    column = jnp.where(known, labels, 0)[:, None]
    return jnp.where(known, jnp.take_along_axis(log_probs, column, axis=1)[:, 0], jnp.nan)
