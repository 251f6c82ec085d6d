"""What does the Inception network that FID is defined with see in an image?

    images -> TF1's bilinear resize to 299 x 299 -> (x - 128) / 128 -> 94 convolutions -> Features
    batch norm: scale = gamma / sqrt(variance + 0.001),  shift = beta - scale * mean

The network is TensorFlow's release of 2015-12-05. It differs from the later Inception-v3 of
torchvision and Keras in its resize, in average pools that do not count the padding, in the maximum
pool of the last block and in its 1008 classes; the scores of another network are not comparable.
Its weights are a state dict with the names of the pytorch-fid and torch-fidelity projects;
`inception_weights` reads and converts the files, `inception_layers` has the layers.

Sources: Szegedy et al. 2015 (arXiv 1512.00567); Heusel et al. 2017 for FID, Nash et al. 2021
(arXiv 2103.03841) for the 17 x 17 map of sFID.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cfg_jax.metrics import inception_layers as layers

SIDE = 299
EPSILON = 1e-3
SPATIAL_LAYER, SPATIAL_CHANNELS = "Mixed_6d.branch1x1", 7


class Features(NamedTuple):
    """What the metrics use of N images, float32.

    Attributes:
      pool3: [N, 2048], the last map's mean over its 8 x 8 places: FID, precision and recall.
      logits_unbiased: [N, 1008], pool3 times the classifier's weights without its bias, as the
        Inception score of the original programs has it.
      spatial: [N, 2023], seven channels of a 17 x 17 map, in the order row, column, channel: sFID.
    """

    pool3: jax.Array
    logits_unbiased: jax.Array
    spatial: jax.Array


def from_state_dict(state_dict: Mapping[str, np.ndarray]) -> Callable[[jax.Array], Features]:
    """images -> Features, compiled once for each N; the weights go to the device once.

    The function takes uint8 images [N, H, W, 3] of any size, RGB, and raises ValueError, before it
    compiles anything, for any others.

    Args:
      state_dict: as for `parameters`.

    Raises:
      ValueError: as `parameters`.
    """
    weights = jax.tree.map(jnp.asarray, parameters(state_dict))

    def features(images: jax.Array) -> Features:
        _check_images(images)
        # Two programs, so that images of another size recompile the resize alone.
        return _network(weights, _resize(images, SIDE))

    return features


def parameters(state_dict: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """What `apply` takes: of each convolution `kernel` [h, w, in, out], `scale` and `shift` [out].

    Args:
      state_dict: the 472 float32 arrays of `expected_shapes`. The counters
        `*.num_batches_tracked`, which some files have, say nothing about the network and are
        passed over. `fc.bias` has to be there too, though none of the `Features` uses it.

    Raises:
      ValueError: a name is missing or unknown, a shape or dtype is another.
    """
    check_state_dict(state_dict)
    weights = {"fc": {"kernel": np.asarray(state_dict["fc.weight"]).T}}
    for name in (
        key.removesuffix(".conv.weight") for key in layers.expected_shapes() if ".conv." in key
    ):
        gamma, beta, mean, variance = (
            np.asarray(state_dict[f"{name}.bn.{part}"], np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        weights[name] = {
            "kernel": np.asarray(state_dict[f"{name}.conv.weight"]).transpose(2, 3, 1, 0),
            "scale": scale.astype(np.float32),
            "shift": (beta - scale * mean).astype(np.float32),
        }
    return weights


def apply(weights: Mapping[str, Mapping[str, jax.Array]], images: jax.Array) -> Features:
    """Features of uint8 images [N, H, W, 3], as a pure function for the caller to jit or pmap.

    Args:
      weights: of `parameters`; an argument of the compiled function, or the compiler takes 90 MB
        of constants.
      images: RGB.

    Raises:
      ValueError: images of another shape or dtype.
    """
    _check_images(images)
    return _features_of_resized(weights, resize_bilinear_tf1(images, SIDE))


def check_state_dict(state_dict: Mapping[str, np.ndarray]) -> None:
    """Refuses anything but the network's state dict.

    Raises:
      ValueError: a name is missing or unknown, a shape or dtype is another.
    """
    shapes = layers.expected_shapes()
    faults = {
        "missing": [name for name in shapes if name not in state_dict],
        "unknown": [
            name
            for name in state_dict
            if name not in shapes and not name.endswith(".num_batches_tracked")
        ],
        "of another shape or dtype": [
            f"{name} {np.dtype(state_dict[name].dtype)}{list(state_dict[name].shape)} "
            f"(need float32{list(shape)})"
            for name, shape in shapes.items()
            if name in state_dict
            and (state_dict[name].shape != shape or state_dict[name].dtype != np.float32)
        ],
    }
    found = [
        f"{len(names)} {fault}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for fault, names in faults.items()
        if names
    ]
    if found:
        raise ValueError(
            f"not the weights of the FID Inception network: {'; '.join(found)}; need the "
            f"{len(shapes)} arrays of pt_inception-2015-12-05-6726825d"
        )


def resize_bilinear_tf1(images: jax.Array, side: int) -> jax.Array:
    """TF1's ResizeBilinear (align_corners=False, no half-pixel centres): [N, side, side, C].

    Pixel i lies at i H / side of the source, between two source pixels that are interpolated
    linearly, rows after columns, float32 throughout; past the last source pixel there is only that.
    Equal to TensorFlow's bit for bit.

    Args:
      images: [N, H, W, C] of any numbers.
      side: of the result, in pixels.
    """
    images = jnp.asarray(images, jnp.float32)
    for axis in (2, 1):
        size = images.shape[axis]
        place = np.arange(side, dtype=np.float32) * (np.float32(size) / np.float32(side))
        low = place.astype(np.int32)
        high = np.minimum(low + 1, size - 1)
        share = (place - low.astype(np.float32)).reshape([-1 if a == axis else 1 for a in range(4)])
        before, after = (jnp.take(images, index, axis=axis) for index in (low, high))
        # Compilers fuse a product and a sum and round them once, where TF rounds each. A maximum
        # that changes no finite number stands between the two; XLA drops its own barriers first.
        step = jnp.maximum((after - before) * share, np.finfo(np.float32).min)
        images = before + step
    return images


def _check_images(images: jax.Array) -> None:
    shape = np.shape(images)
    dtype = getattr(images, "dtype", None)
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        raise ValueError(
            f"images {dtype}{list(shape)}: need uint8 [N, H, W, 3] in RGB; repeat the channel of "
            "grey ones three times"
        )


def _features_of_resized(
    weights: Mapping[str, Mapping[str, jax.Array]], images: jax.Array
) -> Features:
    """Features of images [N, 299, 299, 3] with values in 0..255, float32."""
    maps = {}

    def convolve(x: jax.Array, name: str, conv: layers.Conv) -> jax.Array:
        maps[name] = layers.convolve(x, weights[name], conv)
        return maps[name]

    x = layers.walk(
        (images - 128) / 128, convolve, layers.pool, lambda parts: jnp.concatenate(parts, axis=-1)
    )
    pool3 = jnp.mean(x, axis=(1, 2))
    spatial = maps[SPATIAL_LAYER][..., :SPATIAL_CHANNELS]
    return Features(
        pool3=pool3,
        logits_unbiased=jnp.matmul(pool3, weights["fc"]["kernel"], precision=lax.Precision.HIGHEST),
        spatial=spatial.reshape(x.shape[0], -1),
    )


_resize = jax.jit(resize_bilinear_tf1, static_argnums=1)
_network = jax.jit(_features_of_resized)
