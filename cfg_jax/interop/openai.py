"""How is one of OpenAI's ADM networks used here?

    network = from_state_dict(state_dict, config, "unet")
    network.raw(x, t, labels)             their forward pass: timestep t, all output channels
    network.predict(z, logsnr, labels)    a Predict: eps_hat alone, t = schedule.timestep(logsnr)

Both sides diffuse in the same way, z = alpha x + sigma eps, so nothing but the name of the noise
level changes. Parameters become a tree of `cfg_jax.models`. What a config means is
`openai_configs`', which entry is which parameter `openai_names`'.

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

from cfg_jax.core.timesteps import DiscreteSchedule, cosine_timesteps, linear_timesteps
from cfg_jax.core.types import Array, chosen
from cfg_jax.interop import openai_names
from cfg_jax.interop.openai_configs import PRESETS, arguments, complete, preset, settings
from cfg_jax.io import weight_files
from cfg_jax.models import Classifier, UNet

__all__ = [
    "PRESETS",
    "ImportedClassifier",
    "ImportedDiffusion",
    "ImportedNetwork",
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
    """A network of ours with the parameters of one of theirs.

    A pytree of its parameters: give it to a jitted function as an argument, or they become
    constants of the program.

    Attributes:
      network: module of `cfg_jax.models`, whose second input is the timestep.
      params: its parameters, float32; what a checkpoint stores.
      schedule: timestep <-> logsnr.
      shape: (H, W, C) of an image.
      upsamples: whether the network is given a small image too.
    """

    network: UNet | Classifier
    params: Any
    schedule: DiscreteSchedule
    shape: tuple[int, int, int]
    upsamples: bool = False

    def raw(
        self, x: Array, t: Array, labels: Array | None = None, low_res: Array | None = None
    ) -> Array:
        """Everything the network gives at timestep t, as the original does.

        Args:
          x: [B, H, W, C] noisy images.
          t: [] or [B], timesteps in [0, 999].
          labels: [B] integers in 0..num_classes - 1 (another gives NaN); ignored by a network
            without labels.
          low_res: [B, h, w, C] images in [-1, 1], for an upsampler alone.

        Returns:
          [B, H, W, out_channels] float32, eps_hat first and the variance's channels after it;
          logits [B, num_classes] of a classifier.

        Raises:
          ValueError: an array of another shape, one that the network needs and is not given,
            low_res for a network that is no upsampler.
        """
        batch = x.shape[:1]
        if x.shape != batch + self.shape:
            raise ValueError(f"x of shape {x.shape}: the network takes images of {self.shape}")
        if not (isinstance(self.network, UNet) and self.network.num_classes):
            labels = None
        elif labels is None or jnp.shape(labels) != batch:
            given = None if labels is None else jnp.shape(labels)
            raise ValueError(f"labels of shape {given}: the network needs one each, {batch}")
        small = None if low_res is None else jnp.shape(low_res)
        if self.upsamples and (small is None or small != batch + small[1:3] + self.shape[2:]):
            raise ValueError(f"low_res of shape {small}: the upsampler needs [B, h, w, C] images")
        if low_res is not None and not self.upsamples:
            raise ValueError(f"low_res of shape {small}: this network is no upsampler, give None")
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), batch)
        return _forward(self.network, self.params, x, t, labels, low_res)


class ImportedDiffusion(ImportedNetwork):
    """A U-Net or an upsampler: `predict` is a Predict."""

    def predict(
        self, z: Array, logsnr: Array, labels: Array | None = None, low_res: Array | None = None
    ) -> Array:
        """eps_hat [B, H, W, C], the first C channels of `raw` at t = schedule.timestep(logsnr).

        Args:
          z: [B, H, W, C].
          logsnr: [] or [B]; outside the schedule it counts as the nearer end.
          labels, low_res: as for `raw`.
        """
        out = self.raw(z, self.schedule.timestep(logsnr), labels, low_res)
        return out[..., : self.shape[-1]]


class ImportedClassifier(ImportedNetwork):
    """A classifier of noisy images."""

    def logits(self, z: Array, logsnr: Array) -> Array:
        """log p(label | z) up to a constant, [B, num_classes]; z [B, H, W, C], logsnr [] or [B]."""
        return self.raw(z, self.schedule.timestep(logsnr))

    def log_prob(self, z: Array, logsnr: Array, labels: Array) -> Array:
        """log p(labels | z) [B]: with labels [B] bound, what `classifier_guidance` takes.

        NaN where a label is none of the classes.
        """
        return chosen(jax.nn.log_softmax(self.logits(z, logsnr)), jnp.asarray(labels))


for _kind in (ImportedDiffusion, ImportedClassifier):
    _static = ["network", "schedule", "shape", "upsamples"]
    jax.tree_util.register_dataclass(_kind, data_fields=["params"], meta_fields=_static)


def from_state_dict(
    state_dict: Mapping[str, np.ndarray], config: Mapping[str, Any], kind: str
) -> ImportedDiffusion | ImportedClassifier:
    """The network whose PyTorch parameters are `state_dict`.

    Args:
      state_dict: {key: array} of any floating type; copied to float32.
      config: the arguments of the original's constructor, `attention_resolutions` as factors, and
        optionally its `noise_schedule`. Keys left out have guided-diffusion's defaults.
      kind: "unet", "classifier" or "superres"; a classifier gives an `ImportedClassifier`.

    Raises:
      ValueError: keys that are missing, unknown, of another shape or no floating numbers; a config
        that cannot be imported.
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
    """The network of a config with shapes for parameters; ValueError as `complete`."""
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
    """`shapes` of the `abstract` network of a config; ValueError as `complete`."""
    return shapes(abstract(config, kind))


def load(path: str | os.PathLike[str], name: str) -> ImportedDiffusion | ImportedClassifier:
    """The published checkpoint `name` from its file, .pt, .pth or .safetensors.

    ValueError for an unknown name, what `weight_files.read` refuses, or other weights.
    """
    kind, config = preset(name)
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
