"""A trained network, which draws samples or guides: parameters, config and data."""

import functools
from typing import Any

import jax
from ml_collections import ConfigDict

from cfg_jax.config import build
from cfg_jax.runtime import devices
from cfg_jax.storage import manifest


class Trained:
    """Averaged parameters, and the network that they belong to.

    Attributes:
      config: what it was trained with.
      params: the exponential moving average of the parameters; placed on all devices at first use,
        since placing compiles and a request may still be refused.
      step: the training step it was saved at.
      shape: of one example, (H, W, C) or (D,).
      label_names: one per class; labels are their indices.
      experiment: the network without its parameters, hashable.
    """

    def __init__(
        self,
        config: ConfigDict,
        params: Any,
        *,
        step: int,
        shape: tuple[int, ...],
        label_names: tuple[str, ...],
    ):
        self.config = config
        self._loaded = params
        self.step = step
        self.shape = tuple(shape)
        self.label_names = tuple(label_names)
        self.experiment = build.assemble(config, self.shape, len(self.label_names))

    @functools.cached_property
    def params(self) -> Any:
        """See the class."""
        with jax.ensure_compile_time_eval():  # the first use may be inside a traced function
            return devices.replicate(self.__dict__.pop("_loaded"))

    @property
    def sha256(self) -> str:
        """Fingerprint of the parameters, in hexadecimal."""
        return manifest.sha256(self.__dict__["_loaded" if "_loaded" in self.__dict__ else "params"])
