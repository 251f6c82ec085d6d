"""Trained denoising networks as a Predict, for guidance and samplers of one's own.

    predict = model.bind(params)
    eps_hat = predict(z, logsnr, labels)

`model.Model` adds the guided samples that the network draws.
"""

from typing import Any

from ml_collections import ConfigDict

from cfg_jax.config import build
from cfg_jax.core.arguments import data, is_concrete, labels_of
from cfg_jax.core.diffusion import each_logsnr
from cfg_jax.core.schedules import Schedule
from cfg_jax.core.types import Array, Predict, eps_of
from cfg_jax.sampling.program import check_labels, check_low_res
from cfg_jax.sampling.trained import Trained


class TrainedPredict(Trained):
    """A trained network (z, logsnr, labels) -> eps_hat; `Trained` lists the other attributes.

    Attributes:
      null_label: num_classes, the label that means "no label".

    Examples:
      >>> network = cfg_jax.MLP(out_channels=2, num_classes=3, channels=8, num_blocks=1)
      >>> inputs = jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
      >>> params = network.init(jax.random.key(0), *inputs)["params"]
      >>> model = cfg_jax.Model.from_params(network, params, shape=(2,))
      >>> model.predict(jnp.zeros((4, 2)), 0.0, ["0", "1", "2", "no label"]).shape
      (4, 2)
    """

    experiment: build.Experiment
    _task = build.Experiment

    def __init__(self, config: ConfigDict, params: Any, **data):
        super().__init__(config, params, **data)
        self.null_label = len(self.label_names)

    @property
    def schedule(self) -> Schedule:
        """Training schedule u -> logsnr; `logsnr_grid(model.schedule, T)` samples it."""
        return self.experiment.schedule

    def predict(
        self, z: Array, logsnr: Array, labels: Array, low_res: Array | None = None
    ) -> Array:
        """The network as a Predict, for custom guidance and samplers.

        Under `jax.jit` the parameters become compile-time constants; pass them as arguments with
        `model.bind(params)`. z is [B, ...], logsnr [] or [B]; labels [B] are numbers or names. An
        upsampler's low_res is [B, h, w, C] in [-1, 1].

        Raises ValueError for other shapes or types, or for concrete labels out of range.
        """
        z = data("z", z)
        if z.shape[1:] != self.shape:
            raise ValueError(f"z of shape {z.shape}: this model needs [B, ...] of {self.shape}")
        labels = self.numbered(labels)
        if is_concrete(labels):
            labels = check_labels(self.experiment, labels)
        labels = labels_of(labels, len(z))
        check_low_res(self.experiment, low_res, len(z))
        return eps_of(self.bind(self.params, low_res)(z, each_logsnr(logsnr, z), labels))

    def bind(self, params: Any, low_res: Array | None = None) -> Predict:
        """A Predict with other parameters; returns a `Prediction` if the variance is learned."""
        return self.experiment.predict(params, low_res=low_res)

    @property
    def has_null_label(self) -> bool:
        """Whether the network accepts the null label, as classifier-free guidance requires."""
        return self.experiment.label_input == "with_null"

    @property
    def guides_itself(self) -> bool:
        """Whether both branches of classifier-free guidance are trained."""
        return self.has_null_label and 0 < self.config.diffusion.p_uncond < 1

    @property
    def low_res_shape(self) -> tuple[int, int, int] | None:
        """Shape (h, w, C) of an upsampler's input images; None for other networks."""
        side = self.experiment.low_res_size
        return (side, side, self.shape[-1]) if side else None
