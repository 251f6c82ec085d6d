"""How is a trained model used?

    model = cfg_jax.load("runs/digits")
    images = model.sample(jax.random.key(0), labels=jnp.arange(10), w=2.0, num_steps=64)

EMA parameters, the config they were trained with, and a guided sampler compiled once for each
shape and number of steps. No optimizer, no training code, no data.
"""

import copy
import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cfg_jax import configuration, experiment, images, parallel
from cfg_jax import keys as keys_lib
from cfg_jax.guidance import classifier_free_guidance, weight_per_step
from cfg_jax.samplers import sample
from cfg_jax.schedules import CosineSchedule, logsnr_grid
from cfg_jax.types import Array, Key


class Model:
    """Averaged parameters bound to a guided sampler.

    Attributes:
      config: what it was trained with.
      params: the exponential moving average of the parameters.
      step: the training step it was saved at.
      shape: of one sample, (H, W, C) or (D,).
      label_names: one per class; labels are their indices.
      null_label: num_classes, the label that stands for none.
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
        self.params = parallel.replicate(params)
        self.step = step
        self.shape = tuple(shape)
        self.label_names = tuple(label_names)
        self.null_label = len(self.label_names)
        self._experiment = experiment.assemble(config, self.shape, self.null_label)
        self._compiled = functools.cache(functools.partial(_make_sampler, self._experiment))

    def with_params(self, params: Any, step: int) -> "Model":
        """The same model with other parameters; it shares what is compiled."""
        other = copy.copy(self)
        other.params, other.step = parallel.replicate(params), step
        return other

    @property
    def schedule(self) -> CosineSchedule:
        """u -> logsnr that it was trained with; `logsnr_grid(model.schedule, T)` samples it."""
        return self._experiment.schedule

    def predict(self, z: Array, logsnr: Array, labels: Array) -> Array:
        """The network as a Predict, for guidance and samplers of one's own.

        Under `jax.jit` the parameters become constants of the program; pass them as arguments
        with `model.bind(params)` where that matters.
        """
        return self.bind(self.params)(z, logsnr, labels)

    def bind(self, params: Any):
        """A Predict of this network with other parameters of the same structure."""
        return self._experiment.predict(params)

    def sample(self, key: Key, **arguments) -> np.ndarray:
        """Guided samples as uint8 images [B, H, W, C]; arguments as for `sample_x`.

        Raises:
          ValueError: also for a model of points, whose samples are `sample_x`'s.
        """
        if len(self.shape) != 3:
            raise ValueError(f"samples of shape {self.shape} are no images: call model.sample_x")
        return images.to_images(self.sample_x(key, **arguments))

    def sample_x(
        self,
        key: Key,
        *,
        labels: Array,
        w: Array | float = 0.0,
        num_steps: int | None = None,
        step: str | None = None,
        logvar_interp: float | None = None,
        clip_x: bool | None = None,
    ) -> np.ndarray:
        """Guided samples x [B, ...], float32: Ho & Salimans 2022, Algorithm 2.

        Sample i depends on its key, label and w alone. Only a new B, num_steps, step or clip_x
        compiles; changing any other argument does not.

        Args:
          key: [] (sample i gets fold_in(key, i)) or [B]; consumed.
          labels: [B] integers in 0..num_classes; num_classes is "no label".
          w: guidance weight: scalar, [B] per sample, [T] or [T, 1] per step, or [T, B]; a vector
            is per sample where T equals B. 0 is the conditional model, -1 the unconditional one.
          num_steps: T, network calls on 2B examples each.
          step: "ancestral" or "ddim".
          logvar_interp: the paper's v in [0, 1], for ancestral steps.
          clip_x: clip x_hat to [-1, 1] after guidance.

        Arguments left out are taken from config.sampling.

        Raises:
          ValueError: labels out of range or not integers, w not finite or of another shape, and
            what `logsnr_grid` and `per_example` refuse.
          FloatingPointError: the samples are not finite.
        """
        defaults = self.config.sampling
        num_steps = defaults.num_steps if num_steps is None else int(num_steps)
        step = defaults.step if step is None else step
        clip_x = defaults.clip_x if clip_x is None else bool(clip_x)
        logvar_interp = defaults.logvar_interp if logvar_interp is None else logvar_interp
        labels = self._checked_labels(labels)
        if step not in experiment.STEPS:
            raise ValueError(f"step={step!r}: choose one of {', '.join(experiment.STEPS)}")
        if not 0 <= logvar_interp <= 1:
            raise ValueError(f"logvar_interp={logvar_interp}: need a number in [0, 1]")
        if not np.isfinite(w).all():
            raise ValueError(f"w={w}: need finite guidance weights")
        sampler = self._compiled(num_steps, step, clip_x)
        batch = {
            "keys": keys_lib.per_example(key, labels.size),
            "labels": labels,
            "w": np.asarray(weight_per_step(w, num_steps, labels.size)).T,
        }
        x = np.asarray(sampler((self.params, jnp.float32(logvar_interp)), batch))
        if not np.isfinite(x).all():
            raise FloatingPointError(f"the model of step {self.step} gave samples not finite")
        return x

    def _checked_labels(self, labels: Array) -> np.ndarray:
        labels = np.asarray(labels)
        if labels.ndim != 1 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"labels of shape {labels.shape} and type {labels.dtype}: need integers [B]"
            )
        if labels.min() < 0 or labels.max() > self.null_label:
            raise ValueError(
                f"labels from {labels.min()} to {labels.max()}: need 0..{self.null_label - 1}, "
                f"or {self.null_label} for no label"
            )
        return labels.astype(np.int32)


def _make_sampler(exp: experiment.Experiment, num_steps: int, step: str, clip_x: bool):
    """((params, logvar_interp), batch) -> x: Algorithm 2 over all devices."""
    logsnrs = logsnr_grid(exp.schedule, num_steps)

    def draw(shared, batch):
        params, logvar_interp = shared
        denoiser = classifier_free_guidance(
            exp.predict(params),
            batch["labels"],
            batch["w"].T,
            null_label=exp.null_label,
            logsnrs=logsnrs,
        )
        options = {"logvar_interp": logvar_interp} if step == "ancestral" else {}
        return sample(
            batch["keys"],
            denoiser,
            (batch["labels"].shape[0], *exp.shape),
            logsnrs,
            step=experiment.STEPS[step],
            clip_x=clip_x,
            **options,
        )

    return parallel.pmap_batch(draw)


def load(workdir: str | Path, step: int | None = None) -> Model:
    """The model trained in `workdir`, on the devices that are here.

    Args:
      workdir: the --workdir of a training run.
      step: of the checkpoint; None for the newest that can be read.

    Raises:
      ValueError: no checkpoint there, none of that step, or not one of ours.
    """
    from cfg_jax import checkpoint

    loaded = checkpoint.load_ema(Path(workdir) / "checkpoints", step)
    data = loaded.meta["data"]
    return Model(
        configuration.from_json(loaded.config),
        loaded.ema,
        step=loaded.step,
        shape=tuple(data["shape"]),
        label_names=tuple(data["label_names"]),
    )
