"""OpenAI's ADM networks, with their parameters in networks of `cfg_jax.models`.

    network = from_state_dict(state_dict, config, "unet")
    network.raw(x, t, labels)             original forward pass: timestep t, all output channels
    network.predict(z, logsnr, labels)    a Predict: eps_hat alone, t = schedule.timestep(logsnr)

Both programs diffuse z = alpha x + sigma eps and differ only in the variable of the noise level.
`openai_configs` translates configs, `openai_names` parameters.

Source: Dhariwal & Nichol 2021 (ADM) and the checkpoints published with it, guided-diffusion.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from cfg_jax.core.arguments import integers
from cfg_jax.core.timesteps import DiscreteSchedule, cosine_timesteps, linear_timesteps
from cfg_jax.core.types import Array, chosen
from cfg_jax.interop import openai_names
from cfg_jax.interop.openai_configs import (
    PRESETS,
    Preset,
    arguments,
    complete,
    preset,
    settings,
)
from cfg_jax.io import weight_files
from cfg_jax.models import Classifier, UNet

__all__ = [
    "PRESETS",
    "ImportedClassifier",
    "ImportedDiffusion",
    "ImportedNetwork",
    "Preset",
    "abstract",
    "expected_shapes",
    "from_state_dict",
    "load",
    "preset",
    "settings",
    "shapes",
]


@dataclasses.dataclass(frozen=True, eq=False)
class ImportedNetwork:
    """A network of `cfg_jax.models` with imported parameters.

    A pytree: pass it to a jitted function as an argument, or the parameters become constants.

    Attributes:
      network: module of `cfg_jax.models`, whose second input is the timestep.
      params: float32 parameters, as a checkpoint stores them.
      schedule: timestep <-> logsnr.
      shape: (H, W, C) of an image.
      upsamples: whether the network also takes a low-resolution image.
    """

    network: UNet | Classifier
    params: Any
    schedule: DiscreteSchedule
    shape: tuple[int, int, int]
    upsamples: bool = False

    def raw(
        self, x: Array, t: Array, labels: Array | None = None, low_res: Array | None = None
    ) -> Array:
        """All output channels of the network at timestep t.

        Args:
          x: [B, H, W, C] noisy images.
          t: [] or [B], timesteps in [0, 999].
          labels: [B] integers in 0..num_classes - 1, others give NaN; ignored by a network
            without labels.
          low_res: [B, h, w, C] images in [-1, 1], for an upsampler only.

        Returns:
          [B, H, W, out_channels] float32, eps_hat first, then the channels of the variance;
          [B, num_classes] logits for a classifier.

        Raises ValueError if an array is missing, superfluous or of the wrong shape, or if labels
        are not integers.
        """
        batch = x.shape[:1]
        if x.shape != batch + self.shape:
            raise ValueError(f"x of shape {x.shape}: give images of shape {self.shape}")
        if not (isinstance(self.network, UNet) and self.network.num_classes):
            labels = None
        elif labels is None or jnp.shape(labels) != batch:
            given = None if labels is None else jnp.shape(labels)
            raise ValueError(f"labels of shape {given}: give one label per image, {batch}")
        else:
            labels = integers("labels", labels)
        small = None if low_res is None else jnp.shape(low_res)
        if self.upsamples and (small is None or small != batch + small[1:3] + self.shape[2:]):
            raise ValueError(f"low_res of shape {small}: give [B, h, w, C] images to enlarge")
        if low_res is not None and not self.upsamples:
            raise ValueError(f"low_res of shape {small}: give None, the network does not upsample")
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), batch)
        return _forward(self.network, self.params, x, t, labels, low_res)


class ImportedDiffusion(ImportedNetwork):
    """A U-Net or an upsampler: `predict` is a Predict."""

    def predict(
        self, z: Array, logsnr: Array, labels: Array | None = None, low_res: Array | None = None
    ) -> Array:
        """eps_hat [B, H, W, C], the first C channels of `raw` at t = schedule.timestep(logsnr).

        z is [B, H, W, C]; logsnr, [] or [B], is clamped to the range of the schedule; labels and
        low_res are as for `raw`.
        """
        out = self.raw(z, self.schedule.timestep(logsnr), labels, low_res)
        return out[..., : self.shape[-1]]


class ImportedClassifier(ImportedNetwork):
    """A classifier of noisy images."""

    def logits(self, z: Array, logsnr: Array) -> Array:
        """log p(label | z) up to a constant, [B, num_classes]; z [B, H, W, C], logsnr [] or [B]."""
        return self.raw(z, self.schedule.timestep(logsnr))

    def log_prob(self, z: Array, logsnr: Array, labels: Array) -> Array:
        """log p(labels | z) [B], for `classifier_guidance` with labels bound; NaN out of range."""
        return chosen(jax.nn.log_softmax(self.logits(z, logsnr)), integers("labels", labels))


for _kind in (ImportedDiffusion, ImportedClassifier):
    _static = ["network", "schedule", "shape", "upsamples"]
    jax.tree_util.register_dataclass(_kind, data_fields=["params"], meta_fields=_static)


def from_state_dict(
    state_dict: Mapping[str, np.ndarray], config: Mapping[str, Any], kind: str
) -> ImportedDiffusion | ImportedClassifier:
    """The network with the PyTorch parameters `state_dict`.

    Args:
      state_dict: {key: array} of any floating type; copied to float32.
      config: constructor arguments of the original, `attention_resolutions` as factors, and
        optionally `noise_schedule`. Missing keys have guided-diffusion's defaults.
      kind: "unet", "classifier" or "superres"; "classifier" returns an `ImportedClassifier`.

    Raises ValueError if a key is missing or unknown, if an array has the wrong shape or is not
    floating, or if the config cannot be imported.
    """
    network = abstract(config, kind)
    entries = _entries(network)
    remedy = "give the name or config they belong to"
    weight_files.check(state_dict, shapes(network), jnp.floating, remedy)
    leaves = {
        entry.path: jnp.asarray(entry.to_ours(np.asarray(state_dict[key])))
        for key, entry in entries.items()
    }
    return dataclasses.replace(network, params=unflatten_dict(leaves, sep="/"))


def abstract(config: Mapping[str, Any], kind: str) -> ImportedDiffusion | ImportedClassifier:
    """The network of a config with shapes as parameters; raises ValueError as `complete`."""
    full = complete(config, kind)
    own = arguments(config, kind) | {"noise_input": "timestep"}
    shape = (full["image_size"], full["image_size"], full["in_channels"])
    z, t = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jnp.zeros(1)
    if kind == "classifier":
        network, inputs = Classifier(num_classes=full["out_channels"], **own), (z, t)
    else:
        own |= {"num_classes": full["num_classes"] or 0, "out_channels": full["out_channels"]}
        network = UNet(**own)
        inputs = (z, t, jnp.zeros(1, jnp.int32), None, z if kind == "superres" else None)
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    schedule = {"linear": linear_timesteps, "cosine": cosine_timesteps}[full["noise_schedule"]]()
    result = ImportedClassifier if kind == "classifier" else ImportedDiffusion
    return result(network, params, schedule, shape, kind == "superres")


def shapes(network: ImportedNetwork) -> dict[str, tuple[int, ...]]:
    """{key: shape} of the state dict of a network, abstract or not, in guided-diffusion's order."""
    return {key: entry.shape for key, entry in _entries(network).items()}


def expected_shapes(config: Mapping[str, Any], kind: str) -> dict[str, tuple[int, ...]]:
    """`shapes` of the `abstract` network of a config; raises ValueError as `complete`."""
    return shapes(abstract(config, kind))


def load(
    path: str | os.PathLike[str], network: str | Preset
) -> ImportedDiffusion | ImportedClassifier:
    """A published name, or a network of one's own, from its file, .pt, .pth or .safetensors.

    Raises ValueError if the name is unknown, `weight_files.read` rejects the file, or the file
    holds the weights of a different checkpoint.
    """
    name = network if isinstance(network, str) else f"the {network.kind} described"
    kind, config = preset(network) if isinstance(network, str) else network[:2]
    state_dict = weight_files.read(path)
    try:
        return from_state_dict(state_dict, config, kind)
    except ValueError as error:
        raise ValueError(f"{path} is not {name}: {error}") from error


@functools.partial(jax.jit, static_argnums=0)
def _forward(network, params, x, t, labels, low_res):
    inputs = (x, t) if isinstance(network, Classifier) else (x, t, labels, None, low_res)
    return network.apply({"params": params}, *inputs)


def _entries(network: ImportedNetwork) -> dict[str, openai_names.Entry]:
    module = network.network
    return openai_names.entries(network.params, len(module.channel_mult), module.num_blocks)
