"""Trained classifiers of noisy images.

    classifier = cfg_jax.load("runs/digits_classifier")
    log_prob = classifier.log_prob(z, logsnr, labels)

Classifier guidance shifts the eps_hat of a model of the same data along the gradient of log_prob.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cfg_jax.config.build import ClassifierExperiment
from cfg_jax.core.arguments import data, labels_of
from cfg_jax.core.diffusion import each_logsnr
from cfg_jax.core.types import Array, chosen
from cfg_jax.sampling.trained import Trained


class NoisyClassifier(Trained):
    """log p(label | z) of a trained network; `Trained` lists the attributes.

    Examples:
      >>> network = cfg_jax.Classifier(
      ...     num_classes=4, channels=8, channel_mult=(1,), num_blocks=1, attention_resolutions=(),
      ...     norm_groups=4, head_channels=8,
      ... )
      >>> inputs = jnp.zeros((1, 8, 8, 1)), jnp.zeros(1)
      >>> shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
      >>> params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
      >>> classifier = cfg_jax.NoisyClassifier.from_params(network, params, shape=(8, 8, 1))
      >>> log_prob = jax.jit(classifier.log_prob)(jnp.zeros((2, 8, 8, 1)), 0.0, jnp.array([0, 3]))
      >>> print(np.asarray(log_prob).round(3))  # without weights, -log 4
      [-1.386 -1.386]
    """

    experiment: ClassifierExperiment
    _task = ClassifierExperiment

    def log_probs(self, z: Array, logsnr: Array) -> Array:
        """log p(label | z) [B, K] for every label, z [B, H, W, C] and logsnr [] or [B]."""
        z = data("z", z)
        return self.experiment.log_probs(self.params)(z, each_logsnr(logsnr, z))

    def log_prob(self, z: Array, logsnr: Array, labels: Array) -> Array:
        """log p(labels | z) [B]; labels [B] are numbers or names, NaN for a label of no class."""
        labels = labels_of(self.numbered(labels), data("z", z).shape[0])
        return chosen(self.log_probs(z, logsnr), labels)

    def check_guides(
        self, shape: tuple[int, ...], label_names: tuple[str, ...], labels: Any = ()
    ) -> None:
        """Raises ValueError unless the classifier can guide a model towards `labels` [B].

        The model's image `shape` and `label_names` must equal the classifier's. The null
        label is not allowed, because a classifier has no class for it.
        """
        if difference := next(self._differences(tuple(shape), label_names), None):
            raise ValueError(f"{difference}: give a classifier trained on the same data")
        highest, last = np.max(labels, initial=0), len(label_names) - 1
        if highest > last:
            raise ValueError(f"label {highest} means no label: a classifier needs 0..{last}")

    def _differences(self, shape: tuple[int, ...], label_names: tuple[str, ...]) -> Iterator[str]:
        if self.shape != shape:
            yield f"the classifier takes images of {self.shape}, the model draws {shape}"
        own = self.label_names
        if len(own) != len(label_names):
            yield f"the classifier has {len(own)} labels, the model {len(label_names)}"
        for label, (ours, theirs) in enumerate(zip(own, label_names, strict=False)):
            if ours != theirs:
                yield f"label {label} is {ours!r} for the classifier and {theirs!r} for the model"
