"""What does a config describe?

The place where a ConfigDict becomes a network, a schedule and a Predict. Training and sampling
share it; below the programs nobody sees a config. Its checks are `configuration`'s.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from cfg_jax.diffusion import as_predict
from cfg_jax.models import MLP, UNet
from cfg_jax.samplers import ancestral_step, ddim_step
from cfg_jax.schedules import CosineSchedule, cosine_schedule
from cfg_jax.types import Array, Predict

NETWORKS = {"unet": UNet, "mlp": MLP}
STEPS: dict[str, Callable] = {"ancestral": ancestral_step, "ddim": ddim_step}


class Experiment(NamedTuple):
    """A network and what its output means.

    network: module (z, logsnr, labels, dropout_keys) -> output.
    schedule: u -> logsnr.
    prediction: what the output is, a key of HEADS.
    shape: of one example, (H, W, C) or (D,).
    null_label: num_classes, the label that stands for none.
    """

    network: Any
    schedule: CosineSchedule
    prediction: str
    shape: tuple[int, ...]
    null_label: int

    def predict(self, params: Any, dropout_keys: Array | None = None) -> Predict:
        """The network as a Predict; call it inside the jitted function that uses it."""

        def network(z, logsnr, labels):
            return self.network.apply({"params": params}, z, logsnr, labels, dropout_keys)

        return as_predict(network, self.prediction)

    def init(self, key: Array) -> Any:
        """Fresh parameters; key is consumed."""
        example = jnp.zeros((1, *self.shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
        return self.network.init(key, *example)["params"]


def data_arguments(config: ConfigDict) -> dict[str, Any]:
    """What `data.open_source` is given besides the split, which training alone is tied to."""
    arguments = {
        name: value
        for name, value in config.data.items()
        if name not in ("split", "random_flip", "num_threads")
    }
    optional = {name: arguments[name] or None for name in ("data_dir", "image_size")}
    return arguments | optional


def assemble(config: ConfigDict, shape: tuple[int, ...], num_classes: int) -> Experiment:
    """The experiment that `config` describes, for data of one shape and number of classes."""
    heads = 2 if config.diffusion.prediction == "x_and_eps" else 1
    network = NETWORKS[config.network](
        out_channels=heads * shape[-1], num_classes=num_classes, **config.model
    )
    schedule = cosine_schedule(config.diffusion.logsnr_min, config.diffusion.logsnr_max)
    return Experiment(network, schedule, config.diffusion.prediction, tuple(shape), num_classes)
