"""From a ConfigDict to a network, a schedule and the task that combines them.

A task is a Predict or a classifier of noisy data, shared by training and sampling. `validate`
checks the values of a config.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cfg_jax.config.by_path import by_path
from cfg_jax.core.diffusion import as_predict
from cfg_jax.core.flow import FlowSchedule, clamped, coordinates
from cfg_jax.core.samplers import ancestral_step, ddim_step
from cfg_jax.core.schedules import Schedule, cosine_schedule
from cfg_jax.core.timesteps import DiscreteSchedule, cosine_timesteps, linear_timesteps
from cfg_jax.core.types import Array, Predict
from cfg_jax.models import MLP, Classifier, Transformer, UNet

NETWORKS = {"unet": UNet, "transformer": Transformer, "mlp": MLP, "classifier": Classifier}
DTYPES = ("float32", "bfloat16")
STEPS: dict[str, Callable] = {"ancestral": ancestral_step, "ddim": ddim_step}
SCHEDULES: dict[str, Callable[[ConfigDict], Schedule]] = {
    "continuous": lambda diffusion: cosine_schedule(diffusion.logsnr_min, diffusion.logsnr_max),
    "linear": lambda diffusion: linear_timesteps(),
    "cosine": lambda diffusion: cosine_timesteps(),
    "flow": lambda diffusion: FlowSchedule(
        diffusion.p_mean, diffusion.p_std, diffusion.noise_scale
    ),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A network without parameters, and the form of its input; hashable.

    network: module called with (z, noise, ...).
    schedule: u -> logsnr.
    shape: shape of one example, (H, W, C) or (D,).
    num_classes: K.
    draws: whether the task draws samples.
    low_res_size: side of an upsampler's input image; 0 for other networks.
    """

    network: Any
    schedule: Schedule
    shape: tuple[int, ...]
    num_classes: int
    draws: ClassVar[bool]
    low_res_size = 0

    def init(self, key: Array) -> Any:
        """Fresh parameters; key is consumed.

        Raises ValueError, with paths in the config, for settings that do not fit each other.
        """
        with by_path("model", (field.name for field in dataclasses.fields(self.network))):
            return self.network.init(key, *self._example())["params"]

    def _example(self) -> tuple[Array | None, ...]:
        """Inputs of the network, of a batch of one."""
        return jnp.zeros((1, *self.shape)), jnp.zeros(1)

    @property
    def noise_scale(self) -> float:
        """n of a `FlowSchedule`; 1 for other schedules."""
        return self.schedule.noise_scale if isinstance(self.schedule, FlowSchedule) else 1.0

    def with_dtype(self, dtype: str) -> Self:
        """This task with another type inside its network, for the same parameters; "" keeps it."""
        network = self.network.clone(dtype=dtype) if dtype else self.network
        return dataclasses.replace(self, network=network)

    def _apply(self, params: Any, z: Array, logsnr: Array, *inputs, **options) -> Any:
        """Output of the network, which gets logsnr, the timestep, or time and z of `flow`."""
        noise = logsnr
        if self.network.noise_input == "timestep":
            assert isinstance(self.schedule, DiscreteSchedule)  # see `assemble`
            noise = self.schedule.timestep(logsnr)
        if self.network.noise_input == "time":
            z, noise = coordinates(z, logsnr, self.noise_scale)
        return self.network.apply({"params": params}, z, noise, *inputs, **options)


@dataclasses.dataclass(frozen=True)
class Experiment(Task):
    """A denoising network and the meaning of its output.

    network: module (z, noise, labels, dropout_keys) -> output; an upsampler also takes low_res.
    prediction: meaning of the output, a key of HEADS.
    learned_variance: whether the last C channels of the output are the variance.
    label_input: labels that the network accepts, see `UNet`.
    t_eps: smallest 1 - t in the velocity of a `FlowSchedule`; 0 for no limit.
    """

    prediction: str
    learned_variance: bool
    label_input: str
    low_res_size: int
    t_eps: float = 0.0
    draws: ClassVar[Literal[True]] = True

    @property
    def null_label(self) -> int:
        """num_classes, the label that means "no label"."""
        return self.num_classes

    def predict(
        self, params: Any, dropout_keys: Array | None = None, low_res: Array | None = None
    ) -> Predict:
        """The network as a Predict; call this inside the jitted function that uses it.

        dropout_keys are [B], or None for no dropout. low_res [B, h, w, C] is the input of an
        upsampler; for a batch of 2B, low_res is repeated.
        """

        def network(z, logsnr, labels):
            extra = {}
            if low_res is not None:
                extra["low_res"] = jnp.tile(low_res, (len(z) // len(low_res), 1, 1, 1))
            return self._apply(params, z, logsnr, labels, dropout_keys, **extra)

        return as_predict(network, self.prediction, learned_variance=self.learned_variance)

    def sampled(self, params: Any, low_res: Array | None = None) -> Predict:
        """`predict` for samplers: `clamped` for a `FlowSchedule` with t_eps."""
        predict = self.predict(params, low_res=low_res)
        if not isinstance(self.schedule, FlowSchedule) or not self.t_eps:
            return predict
        return clamped(predict, self.noise_scale, self.t_eps)

    def _example(self) -> tuple[Array | None, ...]:
        inputs = *super()._example(), jnp.zeros(1, jnp.int32)
        if not (side := self.low_res_size):
            return inputs
        return *inputs, None, jnp.zeros((1, side, side, self.shape[-1]))  # None: no dropout keys


@dataclasses.dataclass(frozen=True)
class ClassifierExperiment(Task):
    """A network that classifies noisy data: a module (z, noise, dropout_keys) -> logits."""

    draws: ClassVar[Literal[False]] = False

    def log_probs(
        self, params: Any, dropout_keys: Array | None = None
    ) -> Callable[[Array, Array], Array]:
        """Returns (z [B, ...], logsnr [B]) -> log p(label | z) [B, K] of every label."""
        return lambda z, logsnr: jax.nn.log_softmax(self._apply(params, z, logsnr, dropout_keys))

    def features(self, params: Any, x: Array) -> tuple[Array, Array]:
        """Inputs of the last projection [B, D] and logits [B, K] for z = x at logsnr_max."""
        logsnr = jnp.full(x.shape[:1], self.schedule.logsnr_max, jnp.float32)
        logits, found = self._apply(params, x, logsnr, mutable="intermediates")
        return found["intermediates"]["pool"]["pooled"][0], logits


def kind(config: ConfigDict) -> type[Task]:
    """The type of the result of `assemble` for a config; needs no data."""
    return ClassifierExperiment if config.network == "classifier" else Experiment


def data_arguments(config: ConfigDict) -> dict[str, Any]:
    """Arguments of `data.open_source` except the split, which only training uses."""
    arguments = {
        name: value
        for name, value in config.data.items()
        if name not in ("split", "random_flip", "min_crop", "num_threads")
    }
    optional = ("data_dir", "image_size", "channels")
    return arguments | {name: arguments[name] or None for name in optional if name in arguments}


def assemble(
    config: ConfigDict, shape: tuple[int, ...], num_classes: int
) -> Experiment | ClassifierExperiment:
    """The task of a config; raises ValueError if low_res_size does not divide the image side.

    Errors of the network name its settings by their paths in the config.
    """
    diffusion = config.diffusion
    schedule = SCHEDULES[diffusion.schedule](diffusion)
    arguments = dict(config.model, num_classes=num_classes)
    if config.network != "mlp" and isinstance(schedule, DiscreteSchedule):
        arguments["noise_input"] = "timestep"
    form = schedule, tuple(shape), num_classes
    if not kind(config).draws:
        return ClassifierExperiment(_network(config, arguments), *form)
    if diffusion.low_res_size and shape[0] % diffusion.low_res_size:
        raise ValueError(
            f"config.diffusion.low_res_size={diffusion.low_res_size} for images of {shape}: need "
            "a divisor of their side"
        )
    heads = (2 if diffusion.prediction == "x_and_eps" else 1) + diffusion.learned_variance
    return Experiment(
        _network(config, dict(arguments, out_channels=heads * shape[-1])),
        *form,
        prediction=diffusion.prediction,
        learned_variance=diffusion.learned_variance,
        label_input=config.model.get("label_input", "with_null"),
        low_res_size=diffusion.low_res_size,
        t_eps=diffusion.t_eps,
    )


def _network(config: ConfigDict, arguments: dict[str, Any]) -> Any:
    with by_path("model", config.model):
        return NETWORKS[config.network](**arguments)
