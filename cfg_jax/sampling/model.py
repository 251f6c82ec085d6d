"""Trained models, and the guided samples that they draw.

    model = cfg_jax.load("runs/digits")
    images = model.sample(jax.random.key(0), labels=jnp.arange(10), w=2.0, num_steps=64)

EMA parameters, their config and a compiled sampler; no optimizer, no training code, no data.
"""

import copy
import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cfg_jax.config import build
from cfg_jax.config.validate import from_json
from cfg_jax.core.types import Array, Key, eps_of
from cfg_jax.io import images
from cfg_jax.io.files import folder
from cfg_jax.runtime import devices, processes
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.program import check, make_sampler, request
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.sampling.trained import Trained


class Model(Trained):
    """Averaged parameters bound to a guided sampler, compiled once for each shape and grid.

    Attributes, beside those of `Trained`:
      null_label: num_classes, the label that stands for none.
      first_sample_seconds: duration of the first call of `sample_x`, with compiling or reading what
        an earlier program compiled; None before it.
    """

    def __init__(self, config: ConfigDict, params: Any, **data):
        super().__init__(config, params, **data)
        self.null_label = len(self.label_names)
        self.first_sample_seconds: float | None = None
        self._compiled = functools.cache(functools.partial(make_sampler, self.experiment))

    def with_params(self, params: Any, step: int) -> "Model":
        """The same model with other parameters; it shares what is compiled."""
        other = copy.copy(self)
        other.__dict__.pop("_loaded", None)
        other.params, other.step = devices.replicate(params), step
        return other

    def sharing(self, other: "Model") -> "Model":
        """The same model with what is compiled for another one of its network."""
        model = copy.copy(self)
        model._compiled = other._compiled
        return model

    @property
    def schedule(self) -> build.Schedule:
        """u -> logsnr that it was trained with; `logsnr_grid(model.schedule, T)` samples it."""
        return self.experiment.schedule

    def predict(
        self, z: Array, logsnr: Array, labels: Array, low_res: Array | None = None
    ) -> Array:
        """The network as a Predict, for guidance and samplers of one's own.

        Under `jax.jit` the parameters become constants of the program; `model.bind(params)` takes
        them as arguments. An upsampler's low_res is [B, h, w, C].
        """
        return eps_of(self.bind(self.params, low_res)(z, logsnr, labels))

    def bind(self, params: Any, low_res: Array | None = None):
        """A Predict with other parameters; gives a `Prediction` where the variance is learned."""
        return self.experiment.predict(params, low_res=low_res)

    @property
    def has_null_label(self) -> bool:
        """Whether classifier-free guidance is possible: the network knows the null label."""
        return self.experiment.label_input == "with_null"

    @property
    def low_res_shape(self) -> tuple[int, int, int] | None:
        """Of the images that an upsampler enlarges; None for another network."""
        side = self.experiment.low_res_size
        return (side, side, self.shape[-1]) if side else None

    def sample(self, key: Key, **arguments) -> np.ndarray:
        """`sample_x` as uint8 images [B, H, W, C]; ValueError for a model of points."""
        if len(self.shape) != 3:
            raise ValueError(f"samples of shape {self.shape} are no images: call model.sample_x")
        return images.to_images(self.sample_x(key, **arguments))

    def sample_x(
        self,
        key: Key,
        *,
        labels: Array,
        classifier: NoisyClassifier | None = None,
        low_res: Array | None = None,
        **settings,
    ) -> np.ndarray:
        """Guided samples x [B, ...], float32: Ho & Salimans 2022, Algorithm 2.

        Sample i depends on its key, label and weights alone. Only a new B, grid, step, clip_x or
        classifier (with its form) compiles; changing any other argument does not.

        Args:
          key: [] (sample i gets fold_in(key, i)) or [B]; consumed.
          labels: [B] integers in 0..num_classes; num_classes is "no label".
          classifier: of noisy images of the same data, whose gradient guides as well.
          low_res: [B, h, w, C] in [-1, 1], to be enlarged by an upsampler.
          **settings: fields of `SamplingSettings`: w, num_steps, step, logvar_interp, clip_x,
            respacing, classifier_w, classifier_form, noise_temperature, score_temperature; those
            left out are taken from config.sampling.

        Raises:
          ValueError: what `check` refuses, before anything is compiled.
          FloatingPointError: the samples are not finite.
        """
        given = {"labels": labels, "classifier": classifier, "low_res": low_res}
        return self.draw(key, SamplingSettings(**settings), **given)

    def draw(self, key: Key, settings: SamplingSettings, *, labels: Array, **rest) -> np.ndarray:
        """`sample_x` with the settings as one value."""
        settings = self.check(settings, labels, **rest)
        spec, shared, batch = request(self.experiment, settings, key, labels, **rest)
        begun = time.monotonic()
        x = np.asarray(self._compiled(spec)({"params": self.params, **shared}, batch))
        if self.first_sample_seconds is None:
            self.first_sample_seconds = time.monotonic() - begun
        if not np.isfinite(x).all():
            raise FloatingPointError(f"the model of step {self.step} gave samples not finite")
        return x

    def check(
        self,
        settings: SamplingSettings,
        labels: Array | None = None,
        *,
        classifier: NoisyClassifier | None = None,
        low_res: Array | None = None,
    ) -> SamplingSettings:
        """The settings with this model's defaults, after every check that needs no device.

        Arguments as for `sample_x`; without labels the settings and the classifier are checked.

        Raises:
          ValueError: a setting out of range, labels out of range or not integers, weights of
            another shape, a classifier of other data, a low_res image that does not fit.
        """
        filled = settings.filled(self.config.sampling)
        if labels is None:
            filled.check(self.experiment, guided_by_classifier=classifier is not None)
        else:
            check(self.experiment, filled, labels, classifier=classifier, low_res=low_res)
        if classifier is not None:
            classifier.check_guides(self.shape, self.label_names, () if labels is None else labels)
        return filled

    def grid(self, num_steps: int | None = None, respacing: str | None = None) -> tuple[float, ...]:
        """The log-SNRs that `sample_x` visits, T of them; config.sampling's where both are None.

        ValueError where both are given, or for a grid that the schedule does not have.
        """
        wanted = SamplingSettings(num_steps=num_steps, respacing=respacing)
        return wanted.filled(self.config.sampling).grid(self.experiment)


def load(workdir: str | Path, step: int | None = None) -> Model | NoisyClassifier:
    """The model or classifier trained in `workdir`, on the devices that are here.

    Every process of a program calls it, and reads the same step.

    Args:
      workdir: the --workdir of a training run, a folder or gs://bucket/folder.
      step: of the checkpoint; None for the newest that can be read.

    Raises:
      ValueError: no checkpoint there, none of that step, or not one of ours; or the processes read
        different steps, as they may while the run goes on.
    """
    from cfg_jax.storage import checkpoint

    loaded = checkpoint.load_ema(folder(workdir) / "checkpoints", step)
    first, *others = processes.of_each(loaded.step)
    for process, other in enumerate(others, start=1):
        if other != first:
            raise ValueError(
                f"{workdir}: process {process} reads step {other}, the first one {first}: start "
                "again, or name one with --checkpoint"
            )
    config = from_json(loaded.config)
    kind = NoisyClassifier if config.network == "classifier" else Model
    known = {name: tuple(loaded.meta["data"][name]) for name in ("shape", "label_names")}
    return kind(config, loaded.ema, step=loaded.step, **known)


def load_model(workdir: str | Path, step: int | None = None) -> Model:
    """`load`, of a model that draws samples; ValueError for a classifier."""
    return _load_kind(workdir, step, Model, "a classifier: give the workdir of a diffusion model")


def load_classifier(workdir: str | Path, step: int | None = None) -> NoisyClassifier:
    """`load`, of a noisy classifier; ValueError for a model that draws samples."""
    return _load_kind(workdir, step, NoisyClassifier, "no classifier: give the workdir of one")


def _load_kind(workdir: str | Path, step: int | None, kind: type, otherwise: str):
    loaded = load(workdir, step)
    if not isinstance(loaded, kind):
        raise ValueError(f"{workdir} holds {otherwise}")
    return loaded
