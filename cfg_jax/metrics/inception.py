"""Features of the Inception network that defines FID.

    images -> TF1's bilinear resize to 299 x 299 -> (x - 128) / 128 -> 94 convolutions -> Features
    batch norm: scale = gamma / sqrt(variance + 0.001),  shift = beta - scale * mean

The network is TensorFlow's release of 2015-12-05. It differs from the later Inception-v3 of
torchvision and Keras in its resize, in average pools that exclude the padding, in the maximum pool
of the last block and in its 1008 classes; scores of other networks are not comparable. The weights
are a state dict with the names of pytorch-fid and torch-fidelity; `inception_weights` reads and
converts the files, `inception_layers` defines the layers.

Sources: Szegedy et al. 2015 (arXiv 1512.00567); Heusel et al. 2017 for FID, Nash et al. 2021
(arXiv 2103.03841) for the 17 x 17 map of sFID.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cfg_jax.io.weight_files import check
from cfg_jax.metrics import inception_layers as layers

SIDE = 299
EPSILON = 1e-3
SPATIAL_LAYER, SPATIAL_CHANNELS = "Mixed_6d.branch1x1", 7


class Features(NamedTuple):
    """Features of N images that metrics use, float32.

    Attributes:
      pool3: [N, 2048], mean of the last map over its 8 x 8 pixels; for FID, precision and recall.
      logits_unbiased: [N, 1008], pool3 times the classifier's weights without its bias, as in the
        original Inception score.
      spatial: [N, 2023], seven channels of a 17 x 17 map, ordered row, column, channel; for sFID.
    """

    pool3: jax.Array
    logits_unbiased: jax.Array
    spatial: jax.Array


def parameters(state_dict: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Weights for `apply`: each convolution's `kernel` [h, w, in, out], `scale` and `shift` [out].

    Raises ValueError as `checked`; `fc.bias` is required although no feature uses it.
    """
    state_dict = checked(state_dict)
    weights = {"fc": {"kernel": np.asarray(state_dict["fc.weight"]).T}}
    for name in [k.removesuffix(".conv.weight") for k in state_dict if k.endswith(".conv.weight")]:
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
    """Features of uint8 RGB images [N, H, W, 3], a pure function for the caller to jit or pmap.

    Pass `weights`, from `parameters`, as an argument of the compiled function; closed over, they
    become 90 MB of constants. Raises ValueError if images have a different shape or dtype.
    """
    shape, dtype = np.shape(images), getattr(images, "dtype", None)
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        raise ValueError(
            f"images {dtype}{list(shape)}: need uint8 [N, H, W, 3] in RGB; repeat the channel of "
            "grayscale images three times"
        )
    return features_of_resized(weights, resize_bilinear_tf1(images, SIDE))


def checked(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The network's 472 float32 arrays; raises ValueError if names, shapes or types differ.

    PyTorch's counters `*.num_batches_tracked` are dropped.
    """
    arrays = {k: v for k, v in state_dict.items() if not k.endswith(".num_batches_tracked")}
    remedy = "give the weights of the FID Inception network, pt_inception-2015-12-05-6726825d"
    check(arrays, layers.expected_shapes(), np.float32, remedy)
    return arrays


def resize_bilinear_tf1(images: jax.Array, side: int) -> jax.Array:
    """TF1's ResizeBilinear (align_corners=False, no half-pixel centres): [N, side, side, C].

    Pixel i lies at i H / side of the images [N, H, W, C] and interpolates its two source pixels
    linearly, rows after columns, in float32; positions past the last source pixel repeat it.
    Bit-identical to TensorFlow's.
    """
    images = jnp.asarray(images, jnp.float32)
    for axis in (2, 1):
        size = images.shape[axis]
        place = np.arange(side, dtype=np.float32) * (np.float32(size) / np.float32(side))
        low = place.astype(np.int32)
        high = np.minimum(low + 1, size - 1)
        share = (place - low.astype(np.float32)).reshape([-1 if a == axis else 1 for a in range(4)])
        before, after = (jnp.take(images, index, axis=axis) for index in (low, high))
        # Compilers fuse product and sum and round once; TF rounds each. A maximum that changes no
        # finite value prevents the fusion; XLA drops its own barriers before fusing.
        step = jnp.maximum((after - before) * share, np.finfo(np.float32).min)
        images = before + step
    return images


def features_of_resized(
    weights: Mapping[str, Mapping[str, jax.Array]], images: jax.Array
) -> Features:
    """Features of float32 images [N, 299, 299, 3] with values in [0, 255]."""
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
