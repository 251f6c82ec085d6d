"""JiT's networks, with their parameters in `cfg_jax.models.Transformer`.

    network = from_state_dict(state_dict, "JiT-B/16")
    network, weights = load("checkpoint-last.pth", "JiT-B/16")
    network.raw(z, t, labels)             x_hat of z = t x + (1 - t) n eps, as the original
    network.predict(z, logsnr, labels)    of z = alpha x + sigma eps, a Predict with x_hat

`jit_configs` translates configs, `jit_names` parameters.

Source: Li & He 2025, "Back to Basics: Let Denoising Generative Models Denoise", arXiv 2511.13720.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.core.arguments import integers
from cfg_jax.core.diffusion import each_logsnr, from_x
from cfg_jax.core.flow import coordinates
from cfg_jax.core.types import Array, Prediction
from cfg_jax.interop import jit_names
from cfg_jax.interop.jit_configs import (
    PRESETS,
    PUBLISHED_W,
    arguments,
    complete,
    preset,
    settings,
)
from cfg_jax.io import weight_files
from cfg_jax.models import Transformer

__all__ = [
    "PRESETS",
    "PUBLISHED_W",
    "SETS",
    "ImportedTransformer",
    "abstract",
    "expected_shapes",
    "from_state_dict",
    "load",
    "preset",
    "settings",
    "shapes",
]

PREFIX = "net."

SETS = {"ema1": "model_ema1", "ema2": "model_ema2", "model": "model"}
"""Sets of weights in the original's files: averages with decay 0.9999 and 0.9996, and the last."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImportedTransformer:
    """A `Transformer` with imported parameters.

    A pytree: pass it to a jitted function as an argument, or the parameters become constants.

    Attributes:
      network: the module, whose second input is the time.
      params: float32 parameters, as a checkpoint stores them.
      shape: (H, W, C) of an image.
      noise_scale: n, the standard deviation of the noise that it was trained with.
    """

    network: Transformer
    params: Any
    shape: tuple[int, int, int]
    noise_scale: float

    def raw(self, z: Array, t: Array, labels: Array) -> Array:
        """x_hat [B, H, W, C] of the flow z = t x + (1 - t) n eps, float32 and not clipped.

        Args:
          z: [B, H, W, C] noisy images.
          t: [] or [B], times in [0, 1], 1 for data.
          labels: [B] integers; num_classes means no label, any outside of 0..num_classes gives NaN.

        Raises ValueError if an array has the wrong shape, or if labels are not integers.
        """
        return self._forward(z, jnp.asarray(t, jnp.float32), labels)

    def predict(self, z: Array, logsnr: Array, labels: Array) -> Prediction:
        """The `Prediction` of z = alpha x + sigma eps, with x_hat: `raw` for the same noise level.

        logsnr is [] or [B]; z and labels are as for `raw`.
        """
        logsnr = each_logsnr(logsnr, z)
        return from_x(z, self._forward(*coordinates(z, logsnr, self.noise_scale), labels), logsnr)

    def _forward(self, z: Array, t: Array, labels: Array) -> Array:
        batch = z.shape[:1]
        if z.shape != batch + self.shape:
            raise ValueError(f"z of shape {z.shape}: give images of shape {self.shape}")
        if labels is None or jnp.shape(labels) != batch:
            given = None if labels is None else jnp.shape(labels)
            raise ValueError(f"labels of shape {given}: give one label per image, {batch}")
        if t.shape not in [(), batch]:
            raise ValueError(f"t of shape {t.shape}: give one number, or one per image")
        t = jnp.broadcast_to(t, batch)
        return _apply(self.network, self.params, z, t, integers("labels", labels))


jax.tree_util.register_dataclass(
    ImportedTransformer, data_fields=["params"], meta_fields=["network", "shape", "noise_scale"]
)


@functools.partial(jax.jit, static_argnums=0)
def _apply(network: Transformer, params: Any, z: Array, t: Array, labels: Array) -> Array:
    return network.apply({"params": params}, z, t, labels)


def from_state_dict(
    state_dict: Mapping[str, np.ndarray], config: str | Mapping[str, Any]
) -> ImportedTransformer:
    """The network with the PyTorch parameters `state_dict`.

    Args:
      state_dict: {key: array} of any floating type, copied to float32; all keys may start with
        "net.", as in the original's files. `pos_embed` is taken from it, not computed: an average
        of parameters rounds it.
      config: a name in `PRESETS`, or arguments of the original class `JiT`, see `jit_configs`.

    Raises ValueError if a key is missing or unknown, if an array has the wrong shape or is not
    floating, if the config cannot be imported, or if the state dict is that of a DiT.
    """
    state_dict = _without_prefix(state_dict)
    _refuse_latents(state_dict)
    network = abstract(config)
    remedy = "give the name or config they belong to"
    weight_files.check(state_dict, shapes(network), jnp.floating, remedy)
    params = jit_names.parameters(network.network, network.params, state_dict)
    return dataclasses.replace(network, params=jax.tree.map(jnp.asarray, params))


def load(
    path: str | os.PathLike[str], name: str, weights: str | None = None
) -> tuple[ImportedTransformer, str]:
    """(network, weights) of a published name from a file, .pt, .pth or .safetensors.

    The result's weights are a key of `SETS`, "" for a set without a name.

    Args:
      path: a file of the original's program, with the sets of weights in `SETS`; a .safetensors
        with their names before those of the arrays; or a file of one set without a name.
      name: a key of `PRESETS`.
      weights: a key of `SETS`; None for "ema1", which the original evaluates, and for a set without
        a name.

    Raises ValueError if a name is unknown, `weight_files.read_set` rejects the file, weights are
    given for a file of one set without a name, or the file holds a different network.
    """
    preset(name)
    if weights is not None and weights not in SETS:
        raise ValueError(f"weights={weights!r} is unknown: choose one of {', '.join(SETS)}")
    which = weights or "ema1"
    state_dict, chosen = weight_files.read_set(path, SETS, which)
    if weights and not chosen:
        raise ValueError(
            f"{path} has one set of weights without a name, not {weights}: leave weights out to "
            "import it"
        )
    try:
        return from_state_dict(state_dict, name), which if chosen else ""
    except ValueError as error:
        if (other := _fitting(state_dict)) not in ("", name):
            raise ValueError(f"{path} is {other}, not {name}: give that name") from error
        raise ValueError(f"{path} is not {name}: {error}") from error


def _fitting(state_dict: Mapping[str, np.ndarray]) -> str:
    """The preset with the keys and shapes of a state dict, "" for none."""
    found = {key: tuple(array.shape) for key, array in _without_prefix(state_dict).items()}
    for name, config in PRESETS.items():
        full = complete(config)
        kernel = full["bottleneck_dim"], full["in_channels"], full["patch_size"], full["patch_size"]
        # The kernel first: all shapes of a network take a second.
        if found.get("x_embedder.proj1.weight") == kernel and expected_shapes(name) == found:
            return name
    return ""


def abstract(config: str | Mapping[str, Any]) -> ImportedTransformer:
    """The network of a name or config, with shapes as parameters; raises as `complete`."""
    full = complete(preset(config) if isinstance(config, str) else config)
    network: Transformer = Transformer(**arguments(full))
    shape = (full["input_size"], full["input_size"], full["in_channels"])
    inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    return ImportedTransformer(network, params, shape, float(full["noise_scale"]))


def shapes(network: ImportedTransformer) -> dict[str, tuple[int, ...]]:
    """{key: shape} of the state dict of a network, abstract or not, without prefix, in order."""
    entries = jit_names.entries(network.network, network.params)
    return {key: entry.shape for key, entry in entries.items()}


def expected_shapes(config: str | Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """`shapes` of the `abstract` network of a name or config; raises ValueError as `complete`."""
    return shapes(abstract(config))


def _without_prefix(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if state_dict and all(key.startswith(PREFIX) for key in state_dict):
        return {key.removeprefix(PREFIX): value for key, value in state_dict.items()}
    return dict(state_dict)


def _refuse_latents(state_dict: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for a DiT, whose keys are known, but whose data are latents."""
    kernel = state_dict.get("x_embedder.proj.weight")
    if kernel is None or np.ndim(kernel) != 4:
        return
    width, channels, patch, _ = np.shape(kernel)
    matches = (re.match(r"blocks\.(\d+)\.mlp\.fc1\.weight$", key) for key in state_dict)
    depth = 1 + max((int(match[1]) for match in matches if match), default=-1)
    raise ValueError(
        f"the state dict is a DiT's (depth {depth}, width {width}, patch {patch}): it denoises "
        f"{channels}-channel latents, and their autoencoder is not here; give a JiT's"
    )
