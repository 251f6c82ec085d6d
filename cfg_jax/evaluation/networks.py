"""Through which network are images compared?

    images uint8 [B, H, W, C]  ->  features [B, D], logits [B, K], spatial [B, S]

The Inception network of 2015, which FID, sFID and IS are defined with, or any classifier of our
own. A number measured through one network says nothing about that through another, so each is
known by its name, the SHA-256 of its parameters and what it does to the size of an image.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.io.images import to_x
from cfg_jax.metrics import inception, inception_weights
from cfg_jax.runtime import devices
from cfg_jax.sampling.model import load_classifier
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.training.run import train

INCEPTION = "inception-2015-12-05"


class Outputs(NamedTuple):
    """Outputs of a network for B images: float32 features [B, D], logits [B, K], spatial [B, S].

    `spatial` is None for a network without a map of sFID's kind.
    """

    features: np.ndarray
    logits: np.ndarray
    spatial: np.ndarray | None


class FeatureNetwork(NamedTuple):
    """A network that images are compared through.

    name: INCEPTION for the one of FID; its own for any other, and its numbers are called by it.
    sha256: of its parameters, in hexadecimal.
    resize: what happens to the images first, "TF1 bilinear to 299" or "none".
    function: uint8 images [B, H, W, C] -> Outputs, over all devices; compiled once for each shape.
    """

    name: str
    sha256: str
    resize: str
    function: Callable[[np.ndarray], Outputs]

    @property
    def identity(self) -> dict[str, str]:
        """Fields that have to agree for numbers to be comparable, as JSON values."""
        return {"network": self.name, "network_sha256": self.sha256, "resize": self.resize}


def inception_network(path: str | Path) -> FeatureNetwork:
    """The Inception network of FID with the weights in a file; grey images become grey RGB.

    ValueError as `inception_weights.load_weights`; nothing is downloaded.
    """
    state_dict = inception_weights.load_weights(path)

    def outputs(weights, images):
        if images.shape[-1] == 1:
            images = jnp.repeat(images, 3, axis=-1)
        return Outputs(*inception.apply(weights, images))

    return FeatureNetwork(
        INCEPTION,
        inception_weights.sha256_of_weights(state_dict),
        f"TF1 bilinear to {inception.SIDE}",
        _on_all_devices(outputs, inception.parameters(state_dict)),
    )


def trained_network(classifier: NoisyClassifier) -> FeatureNetwork:
    """A classifier of nearly clean images: features are the input of its last projection.

    x = image / 127.5 - 1 is taken for a z at the schedule's logsnr_max, and not resized. The
    network is called "<data>_features"; ValueError for images of another shape.
    """

    def outputs(params, images):
        return Outputs(*classifier.experiment.features(params, to_x(images)), None)

    spread = _on_all_devices(outputs, classifier.params)

    def function(images: np.ndarray) -> Outputs:
        if images.shape[1:] != classifier.shape:
            raise ValueError(
                f"images of {images.shape[1:]}, the feature network takes {classifier.shape}: "
                "give one trained on the same data"
            )
        return spread(images)

    return FeatureNetwork(
        f"{classifier.config.data.name}_features",
        classifier.sha256,
        "none",
        function,
    )


def trained_once(config: Any, workdir: Path) -> NoisyClassifier:
    """The classifier of a config's last step in `workdir`, trained where it is not there yet."""
    last = config.train.num_steps
    if not (workdir / "checkpoints" / str(last)).exists():
        print(f"training the feature network of {config.data.name}, once, in {workdir}", flush=True)
        train(config, workdir)
    return load_classifier(workdir, last)


def _on_all_devices(
    outputs: Callable[[Any, jax.Array], Outputs], params: Any
) -> Callable[[np.ndarray], Outputs]:
    """images [B, ...] -> Outputs on the host, with the parameters on every device once."""
    compiled, params = devices.pmap_batch(outputs), devices.replicate(params)

    def function(images: np.ndarray) -> Outputs:
        return jax.tree.map(np.asarray, compiled(params, images))

    return function
