"""Feature networks that embed images for the metrics.

    images uint8 [B, H, W, C]  ->  features [B, D], logits [B, K], spatial [B, S]

The network is the Inception of 2015, which defines FID, sFID and IS, or a classifier trained by
cfg_jax. Metrics of different networks are not comparable, so results record the name of the
network, the SHA-256 of its parameters and its resize.
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
from cfg_jax.sampling.loading import load_classifier
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.storage import manifest
from cfg_jax.training.run import train

INCEPTION = "inception-2015-12-05"


class Outputs(NamedTuple):
    """Float32 features [B, D], logits [B, K] and spatial [B, S] (None without sFID's map)."""

    features: np.ndarray
    logits: np.ndarray
    spatial: np.ndarray | None


class FeatureNetwork(NamedTuple):
    """Network that embeds images.

    name: INCEPTION for FID's network; any other name appears in the titles of metrics.
    sha256: SHA-256 of the parameters, in hexadecimal.
    resize: resize before the network, "TF1 bilinear to 299" or "none".
    function: uint8 images [B, H, W, C] -> Outputs, over all devices; compiled once per shape.
    """

    name: str
    sha256: str
    resize: str
    function: Callable[[np.ndarray], Outputs]

    @property
    def identity(self) -> dict[str, str]:
        """Fields that must agree for comparable metrics, as JSON values."""
        return {"network": self.name, "network_sha256": self.sha256, "resize": self.resize}


def inception_network(path: str | Path) -> FeatureNetwork:
    """Inception network of FID with the weights in a file; raises ValueError as `load_weights`.

    The channel of grayscale images is repeated. Nothing is downloaded.
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
    """Feature network of a classifier: features are the input of its last projection.

    z = x = image / 127.5 - 1 at the schedule's logsnr_max, without resize. The network is named
    "<data>_features" and raises ValueError if images have a different shape.
    """

    def outputs(params, images):
        return Outputs(*classifier.experiment.features(params, to_x(images)), None)

    spread = _on_all_devices(outputs, classifier.params)

    def function(images: np.ndarray) -> Outputs:
        if images.shape[1:] != classifier.shape:
            raise ValueError(
                f"images of {images.shape[1:]}, the feature network takes {classifier.shape}: "
                "use a network trained on the same data"
            )
        return spread(images)

    return FeatureNetwork(
        f"{classifier.config.data.name}_features",
        classifier.sha256,
        "none",
        function,
    )


def trained_once(config: Any, workdir: Path) -> NoisyClassifier:
    """Classifier at the last step of a config, from `workdir` or else trained there."""
    last = config.train.num_steps
    if not (workdir / manifest.FOLDER / str(last)).exists():
        name, steps = config.data.name, f"{last:,} steps"
        print(f"training the feature network of {name}, once, {steps}, in {workdir}", flush=True)
        train(config, workdir)
    try:
        return load_classifier(workdir, last)
    except ValueError as error:
        raise ValueError(f"{error} Delete {workdir} to train this feature network again") from error


def _on_all_devices(
    outputs: Callable[[Any, jax.Array], Outputs], params: Any
) -> Callable[[np.ndarray], Outputs]:
    """images [B, ...] -> Outputs on the host, with the parameters replicated once."""
    compiled, params = devices.pmap_batch(outputs), devices.replicate(params)

    def function(images: np.ndarray) -> Outputs:
        return jax.tree.map(np.asarray, compiled(params, images))

    return function
