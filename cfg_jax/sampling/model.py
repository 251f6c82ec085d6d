"""How is a trained model used?

    model = cfg_jax.load("runs/digits")
    images = model.sample(jax.random.key(0), labels=jnp.arange(10), w=2.0, num_steps=64)

EMA parameters, the config they were trained with, and a guided sampler compiled once for each
shape, number of steps and classifier. No optimizer, no training code, no data.
"""

import copy
import functools
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cfg_jax.config import build
from cfg_jax.config.validate import from_json
from cfg_jax.core import keys as keys_lib
from cfg_jax.core.guidance import weight_per_step
from cfg_jax.core.schedules import logsnr_grid
from cfg_jax.core.types import Array, Key, eps_of
from cfg_jax.io import images
from cfg_jax.io.files import folder
from cfg_jax.runtime import devices, processes
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.program import CLASSIFIER_FORMS, Plan, make_sampler
from cfg_jax.sampling.trained import Trained


class Model(Trained):
    """Averaged parameters bound to a guided sampler.

    Attributes, beside those of `Trained`:
      null_label: num_classes, the label that stands for none.
      first_sample_seconds: that the first call of `sample_x` took, with compiling or reading what
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
        other.params, other.step = devices.replicate(params), step
        return other

    @property
    def schedule(self) -> build.Schedule:
        """u -> logsnr that it was trained with; `logsnr_grid(model.schedule, T)` samples it."""
        return self.experiment.schedule

    def predict(
        self, z: Array, logsnr: Array, labels: Array, low_res: Array | None = None
    ) -> Array:
        """The network as a Predict, for guidance and samplers of one's own.

        Under `jax.jit` the parameters become constants of the program; pass them as arguments
        with `model.bind(params)` where that matters. An upsampler's low_res is [B, h, w, C].
        """
        return eps_of(self.bind(self.params, low_res)(z, logsnr, labels))

    def bind(self, params: Any, low_res: Array | None = None):
        """A Predict of this network with other parameters of the same structure.

        It gives a `Prediction` where the variance is learned.
        """
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
        respacing: str | None = None,
        classifier: NoisyClassifier | None = None,
        classifier_w: Array | float = 0.0,
        classifier_form: str = "eps",
        noise_temperature: float = 1.0,
        score_temperature: float = 1.0,
        low_res: Array | None = None,
    ) -> np.ndarray:
        """Guided samples x [B, ...], float32: Ho & Salimans 2022, Algorithm 2.

        Sample i depends on its key, label and weights alone. Only a new B, grid, step, clip_x or
        classifier (with its form) compiles; changing any other argument does not.

        Args:
          key: [] (sample i gets fold_in(key, i)) or [B]; consumed.
          labels: [B] integers in 0..num_classes; num_classes is "no label".
          w: guidance weight: scalar, [B] per sample, [T] or [T, 1] per step, or [T, B]; a vector
            is per sample where T equals B. 0 is the conditional model, -1 the unconditional one.
          num_steps: T, network calls on 2B examples each.
          step: "ancestral" or "ddim".
          logvar_interp: the paper's v in [0, 1], for ancestral steps; a network that learned its
            variance uses that instead.
          clip_x: clip x_hat to [-1, 1] after guidance.
          respacing: timesteps of a discrete schedule, "ddim25" or "90,60,60,20,20", instead of
            num_steps of them evenly.
          classifier: of noisy images of the same data, whose gradient guides as well.
          classifier_w: its weight, scalar or [B]; w on a conditional model is w + 1 on the
            unconditional one.
          classifier_form: "eps" (Ho & Salimans 2022, section 3.1) or "adm", the mean shift for
            ancestral steps and the score shift after clipping for DDIM (Dhariwal & Nichol 2021,
            algorithms 1 and 2).
          noise_temperature: factor of the noise of ancestral steps, 0 or more.
          score_temperature: the guided eps_hat is divided by it, above 0 (the same, appendix G).
          low_res: [B, h, w, C] in [-1, 1], what an upsampler enlarges.

        Arguments left out are taken from config.sampling.

        Raises:
          ValueError: labels out of range or not integers, weights not finite or of another shape,
            a temperature out of range, a classifier of other data, and what `logsnr_grid` and
            `per_example` refuse.
          FloatingPointError: the samples are not finite.
        """
        defaults = self.config.sampling
        step = defaults.step if step is None else step
        clip_x = defaults.clip_x if clip_x is None else bool(clip_x)
        logvar_interp = defaults.logvar_interp if logvar_interp is None else logvar_interp
        labels = self._checked_labels(labels)
        numbers = _checked_numbers(step, logvar_interp, noise_temperature, score_temperature)
        grid = self.grid(num_steps, respacing)
        batch = {
            "keys": keys_lib.per_example(key, labels.size),
            "labels": labels,
            "w": self._checked_w(w, len(grid), labels.size),
            **self._checked_low_res(low_res, labels.size),
        }
        plan = Plan(grid, step, clip_x)
        shared = {"params": self.params, **numbers}
        if classifier is not None:
            classifier.check_guides(self.shape, self.label_names, labels)
            plan = plan._replace(classifier=classifier.experiment, form=classifier_form)
            shared["classifier"] = classifier.params
            batch["classifier_w"] = _checked_classifier_w(
                classifier_w, classifier_form, labels.size
            )
        return self._drawn(plan, shared, batch)

    def _drawn(self, plan: Plan, shared: dict[str, Any], batch: dict[str, Any]) -> np.ndarray:
        begun = time.monotonic()
        x = np.asarray(self._compiled(plan)(shared, batch))
        if self.first_sample_seconds is None:
            self.first_sample_seconds = time.monotonic() - begun
        if not np.isfinite(x).all():
            raise FloatingPointError(f"the model of step {self.step} gave samples not finite")
        return x

    def grid(self, num_steps: int | None = None, respacing: str | None = None) -> tuple[float, ...]:
        """The log-SNRs that `sample_x` visits, T of them: as asked, else the config's.

        Raises:
          ValueError: both given, or respacing of a schedule without timesteps.
        """
        defaults = self.config.sampling
        if num_steps is None and respacing is None:
            num_steps, respacing = defaults.num_steps, defaults.respacing
        if not respacing:
            return tuple(logsnr_grid(self.schedule, int(num_steps or defaults.num_steps)).tolist())
        if num_steps is not None and num_steps != defaults.num_steps:
            raise ValueError(f"num_steps={num_steps} and respacing={respacing!r}: give one of them")
        if not hasattr(self.schedule, "respaced"):
            raise ValueError(
                f"respacing={respacing!r}: this model's schedule is continuous, it has no "
                "timesteps; give num_steps"
            )
        return tuple(self.schedule.respaced(respacing).tolist())

    def _checked_w(self, w: Array | float, num_steps: int, batch_size: int) -> np.ndarray:
        """w [B, T]."""
        if not np.isfinite(w).all():
            raise ValueError(f"w={w}: need finite guidance weights")
        if not self.has_null_label and np.any(w):
            raise ValueError(
                f"w={w}: this network has no null label to guide with; leave w at 0, and guide it "
                "with a classifier"
            )
        return np.asarray(weight_per_step(w, num_steps, batch_size)).T

    def _checked_low_res(self, low_res: Array | None, batch_size: int) -> dict[str, np.ndarray]:
        if self.low_res_shape is None and low_res is None:
            return {}
        if self.low_res_shape is None:
            raise ValueError("low_res given to a model that is no upsampler: leave it out")
        wanted = (batch_size, *self.low_res_shape)
        if low_res is None or np.shape(low_res) != wanted:
            found = "none" if low_res is None else f"shape {np.shape(low_res)}"
            raise ValueError(f"low_res is {found}: this upsampler needs images of shape {wanted}")
        return {"low_res": np.asarray(low_res, np.float32)}

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


def _checked_numbers(
    step: str, logvar_interp: float, noise: float, score: float
) -> dict[str, Array]:
    """The sampler's numbers and temperatures as arrays."""
    if step not in build.STEPS:
        raise ValueError(f"step={step!r}: choose one of {', '.join(build.STEPS)}")
    if not 0 <= logvar_interp <= 1:
        raise ValueError(f"logvar_interp={logvar_interp}: need a number in [0, 1]")
    if not (np.ndim(noise) == np.ndim(score) == 0 and 0 <= noise < np.inf and 0 < score < np.inf):
        raise ValueError(
            f"noise_temperature={noise}, score_temperature={score}: need finite numbers, the first "
            "0 or more, the second above 0; 1 leaves samples as they are"
        )
    if step == "ddim" and noise != 1:
        raise ValueError(
            f"noise_temperature={noise} with step='ddim', which draws no noise: use 'ancestral', "
            "or score_temperature"
        )
    return {
        "logvar_interp": jnp.float32(logvar_interp),
        "noise_temperature": jnp.float32(noise),
        "score_temperature": jnp.float32(score),
    }


def _checked_classifier_w(weight: Array | float, form: str, batch_size: int) -> np.ndarray:
    """classifier_w [B]."""
    if form not in CLASSIFIER_FORMS:
        raise ValueError(f"classifier_form={form!r}: choose one of {', '.join(CLASSIFIER_FORMS)}")
    if np.shape(weight) not in [(), (batch_size,)] or not np.isfinite(weight).all():
        raise ValueError(
            f"classifier_w={weight}: need a finite number, or one per sample, [{batch_size}]"
        )
    return np.broadcast_to(np.asarray(weight, np.float32), (batch_size,))


def load(workdir: str | Path, step: int | None = None) -> Model | NoisyClassifier:
    """The model trained in `workdir`, on the devices that are here; or the classifier.

    Every process of a program calls it, and reads the same step.

    Args:
      workdir: the --workdir of a training run, a folder or gs://bucket/folder.
      step: of the checkpoint; None for the newest that can be read.

    Raises:
      ValueError: no checkpoint there, none of that step, or not one of ours; or the processes read
        several, as they may while the run goes on.
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
    data = loaded.meta["data"]
    kind = NoisyClassifier if config.network == "classifier" else Model
    return kind(
        config,
        loaded.ema,
        step=loaded.step,
        shape=tuple(data["shape"]),
        label_names=tuple(data["label_names"]),
    )


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
