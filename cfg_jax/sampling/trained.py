"""A trained network that draws samples or guides: parameters, config and data description."""

import functools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cfg_jax.config import build
from cfg_jax.runtime import devices
from cfg_jax.sampling.labels import numbered
from cfg_jax.storage import manifest


class Trained:
    """EMA parameters and the network they belong to.

    Attributes:
      config: training config.
      params: exponential moving average of the parameters. They are placed on all devices at first
        use, because placing compiles and a request may still be rejected.
      step: training step of the checkpoint.
      shape: shape of one example, (H, W, C) or (D,).
      label_names: one name per class; labels index them, or are given by name.
      class_counts: number of training examples of each class; None if unknown.
      run: folder that it was loaded from; "" if it was not.
      experiment: network without parameters, hashable.
    """

    def __init__(
        self,
        config: ConfigDict,
        params: Any,
        *,
        step: int,
        shape: tuple[int, ...],
        label_names: tuple[str, ...],
        class_counts: tuple[int, ...] | None = None,
        run: str = "",
    ):
        self.config = config
        self._loaded = params
        self.step = step
        self.shape = tuple(shape)
        self.label_names = tuple(label_names)
        self.class_counts = None if class_counts is None else tuple(class_counts)
        self.run = run
        self.experiment = build.assemble(config, self.shape, len(self.label_names))

    def numbered(self, labels: Any) -> Any:
        """`labels` with class names replaced by numbers; ValueError for an unknown name."""
        return numbered(labels, self.label_names)

    @functools.cached_property
    def params(self) -> Any:
        """EMA parameters on all devices."""
        with jax.ensure_compile_time_eval():  # the first use may be inside a traced function
            return devices.replicate(self.__dict__.pop("_loaded"))

    @property
    def sha256(self) -> str:
        """SHA-256 of the parameters, in hexadecimal."""
        return manifest.sha256(self._held)

    @property
    def _held(self) -> Any:
        """EMA parameters, wherever they are."""
        return self.__dict__["_loaded" if "_loaded" in self.__dict__ else "params"]

    def __repr__(self) -> str:
        network = type(self.experiment.network).__name__
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self._held))
        run = f"{self.run!r}, " if self.run else ""
        return (
            f"{type(self).__name__}({run}step={self.step}, network={network}, params={count}, "
            f"shape={self.shape}, num_classes={len(self.label_names)})"
        )
