"""Trained models and the guided samples they draw.

    model = cfg_jax.load("runs/digits")
    images = model.sample(jax.random.key(0), labels=jnp.arange(10), w=2.0, num_steps=64)

A `Model` holds EMA parameters, their config and a compiled sampler; it needs no training data.
"""

import copy
import functools
import time
from typing import Any, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from cfg_jax.config import build
from cfg_jax.core.arguments import data, flag, is_concrete, labels_of, text_of, whole
from cfg_jax.core.diffusion import each_logsnr
from cfg_jax.core.schedules import Schedule
from cfg_jax.core.telemetry import Telemetry, summarise
from cfg_jax.core.types import Array, ArrayLike, Key, Predict, eps_of
from cfg_jax.io import images
from cfg_jax.runtime import devices
from cfg_jax.sampling import checks
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.program import check, check_labels, check_low_res, make_sampler, request
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.sampling.trained import Trained

_T = TypeVar("_T", bound=Trained)


class Model(Trained):
    """EMA parameters bound to a guided sampler, which is compiled once per shape and grid.

    Attributes in addition to those of `Trained`:
      null_label: num_classes, the label that means "no label".
      first_sample_seconds: seconds of the first `sample_x` call, with compilation; None before it.
    """

    experiment: build.Experiment

    def __init__(self, config: ConfigDict, params: Any, **data):
        super().__init__(config, params, **data)
        self.null_label = len(self.label_names)
        self.first_sample_seconds: float | None = None
        self._compiled = functools.cache(functools.partial(make_sampler, self.experiment))

    def with_params(self, params: Any, step: int) -> "Model":
        """This model with other parameters; the copy shares the compiled programs."""
        other = copy.copy(self)
        other.__dict__.pop("_loaded", None)
        other.params, other.step = devices.replicate(params), step
        return other

    def sharing(self, other: "Model") -> "Model":
        """This model with the compiled programs of `other`, a model of the same network."""
        model = copy.copy(self)
        model._compiled = other._compiled
        return model

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
        labels = labels_of(labels if not is_concrete(labels) else self._known(labels), len(z))
        check_low_res(self.experiment, low_res, len(z))
        return eps_of(self.bind(self.params, low_res)(z, each_logsnr(logsnr, z), labels))

    def _known(self, labels: ArrayLike) -> np.ndarray:
        return check_labels(self.experiment, labels)

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

    def sample(self, key: Key, *, telemetry: bool = False, **arguments) -> Any:
        """Guided samples as uint8 images [B, H, W, C]; arguments as for `sample_x`.

        With `telemetry`, returns (images, `Telemetry`): measurements of guidance in every call. It
        evaluates both branches in calls with w != 0 only.

        Raises ValueError if the model does not draw images, and as `sample_x`.
        """
        self._check_images()
        if not flag("telemetry", telemetry):
            return images.to_images(self.sample_x(key, **arguments))
        settings, inputs = self._split(arguments)
        x, found = self.telemetry(key, settings, **inputs)
        return images.to_images(x), found

    def telemetry(
        self, key: Key, settings: SamplingSettings, **inputs: Any
    ) -> tuple[np.ndarray, Telemetry]:
        """`draw` with the measurements of guidance in every call: (x [B, ...], `Telemetry`).

        log_prob and log_weight are NaN where they are not defined: for another solver than
        "ancestral", calls that are not guided, and weights that change; log_prob also for a second
        branch other than no label.
        """
        x, measured = self.draw(key, settings, record="telemetry", **inputs)
        filled = self.filled(settings)
        weights = filled.weights(self.experiment, len(x))
        calls = filled.calls(self.experiment)
        found = summarise(calls, weights.w, jax.tree.map(np.transpose, measured))
        other = filled.against != "null" or inputs.get("weaker") is not None
        if filled.solver != "ancestral" or other or not np.all(weights.guided):
            found = found._replace(log_prob=np.full_like(found.gap, np.nan))
        changes = not np.all(weights.w == weights.w[:1])
        if filled.solver != "ancestral" or not filled.is_plain or changes:
            found = found._replace(log_weight=np.full_like(found.gap, np.nan))
        return x, found

    def trajectory(self, key: Key, *, calls: int = 8, **arguments) -> np.ndarray:
        """Estimates x_hat at `calls` evenly spaced network calls: uint8 [calls, B, H, W, C].

        The last is the result of `sample`. Other arguments as for `sample_x`. `images.save_gif`
        writes it as an animation. Raises ValueError if the sampler makes fewer calls.
        """
        self._check_images()
        settings, inputs = self._split(arguments)
        total = self.check(settings, **inputs).num_calls(self.experiment)
        whole("calls", calls, 1, total)
        _, estimates = self.draw(key, settings, record="trajectory", **inputs)
        chosen = np.linspace(0, total - 1, calls).round().astype(int) if calls > 1 else [total - 1]
        return images.to_images(np.moveaxis(estimates[:, chosen], 1, 0))

    def _check_images(self) -> None:
        if len(self.shape) != 3:
            raise ValueError(f"samples of shape {self.shape} are not images: call model.sample_x")

    @staticmethod
    def _split(arguments: dict[str, Any]) -> tuple[SamplingSettings, dict[str, Any]]:
        """Arguments of `sample_x` as settings and inputs."""
        names = ("labels", "classifier", "low_res", "weaker")
        inputs = {name: arguments.pop(name) for name in names if name in arguments}
        return SamplingSettings.of(arguments), {"labels": None} | inputs

    def sample_x(
        self,
        key: Key,
        *,
        labels: ArrayLike,
        classifier: NoisyClassifier | None = None,
        low_res: ArrayLike | None = None,
        weaker: "Model | None" = None,
        **settings,
    ) -> np.ndarray:
        """Guided samples x [B, ...], float32: Ho & Salimans 2022, Algorithm 2, or a solver.

        Sample i depends only on its key, label and weights. A program is compiled for each new B,
        number of calls, clip_x, threshold, dtype, rule, number of labels in against, weaker
        network, classifier network and classifier_form, and for no other change; with the solvers
        "ancestral" and "ddim" without noise also for each grid.

        Args:
          key: [] (sample i uses fold_in(key, i)) or [B]; consumed.
          labels: [B] integers in 0..num_classes or names, as ["cat", "dog"]; num_classes and
            "no label" mean no label.
          classifier: noisy classifier of the same data for classifier guidance.
          low_res: [B, h, w, C] in [-1, 1], input images of an upsampler.
          weaker: weaker model of the same data, for autoguidance in place of the null label.
          **settings: fields of `SamplingSettings`: w, num_steps, solver, grid, eta, churn,
            schedule, interval, rule, against, logvar_interp, clip_x, threshold, dtype,
            respacing, classifier_w, classifier_form, noise_temperature, score_temperature.

        Raises ValueError, before compiling anything, if `check` rejects the arguments, and
        TypeError for an unknown one. Raises FloatingPointError if the samples are not finite.
        """
        chosen = SamplingSettings.of(settings)
        inputs: dict[str, Any] = {"classifier": classifier, "low_res": low_res, "weaker": weaker}
        return self.draw(key, chosen, labels=labels, **inputs)

    def draw(
        self,
        key: Key,
        settings: SamplingSettings,
        *,
        labels: ArrayLike,
        record: str = "",
        **inputs: Any,
    ) -> Any:
        """Guided samples as in `sample_x`, with the settings as one value.

        With `record`, "telemetry" or "trajectory", returns (x, arrays [B, T, ...] of all calls).
        """
        labels = self.numbered(labels)
        settings = self.check(settings, labels, **inputs)
        task = self.experiment
        spec, shared, batch = request(task, settings, key, labels, record=record, **inputs)
        begun = time.monotonic()
        drawn = self._compiled(spec)({"params": self.params, **shared}, batch)
        x, recorded = jax.tree.map(np.asarray, drawn if record else (drawn, None))
        if self.first_sample_seconds is None:
            self.first_sample_seconds = time.monotonic() - begun
        if not np.isfinite(x).all():
            raise FloatingPointError(
                f"samples of checkpoint {self.step} are not finite: load another checkpoint"
            )
        return (x, recorded) if record else x

    def check(
        self,
        settings: SamplingSettings,
        labels: ArrayLike | None = None,
        *,
        classifier: NoisyClassifier | None = None,
        low_res: ArrayLike | None = None,
        weaker: "Model | None" = None,
    ) -> SamplingSettings:
        """Returns the settings with this model's defaults, after every check that needs no device.

        Takes the arguments of `sample_x`; labels and low_res are only checked if labels are given.
        Raises ValueError if a setting is out of range, if labels are out of range, unknown or not
        integers, if weights or low_res have the wrong shape, if the classifier was trained on other
        data, or if w weights a branch that p_uncond 0 or 1 left untrained.
        """
        if not isinstance(settings, SamplingSettings):
            raise ValueError(f"settings={text_of(settings)}: need SamplingSettings(w=..., ...)")
        if not isinstance(classifier, NoisyClassifier | None):
            raise ValueError(
                f"classifier={text_of(classifier)}: need a NoisyClassifier, from cfg_jax.load"
            )
        if not isinstance(weaker, Model | None):
            raise ValueError(f"weaker={text_of(weaker)}: need a Model, from cfg_jax.load")
        filled = self.filled(settings)
        labels = None if labels is None else self.numbered(labels)
        guides: dict[str, Any] = {"classifier": classifier, "weaker": weaker}
        if labels is None:
            given = {"guided_by_classifier": classifier is not None, "weaker": weaker is not None}
            checks.check(filled, self.experiment, **given)
        else:
            check(self.experiment, filled, labels, low_res=low_res, **guides)
        self._check_trained(filled, labels, weaker)
        if weaker is not None:
            self._check_weaker(weaker)
        if classifier is not None:
            classifier.check_guides(self.shape, self.label_names, () if labels is None else labels)
        return filled

    def filled(self, settings: SamplingSettings) -> SamplingSettings:
        """The settings with this model's defaults; ValueError as `SamplingSettings.filled`."""
        return settings.filled(self.config.sampling, self.label_names)

    def _check_weaker(self, weaker: "Model") -> None:
        """Raises ValueError unless a weaker model was trained on the same data."""
        ours, theirs = (
            (each.shape, each.label_names, each.low_res_shape) for each in (self, weaker)
        )
        if ours != theirs:
            raise ValueError(
                f"weaker: a model of {weaker.shape} with {len(weaker.label_names)} labels cannot "
                f"guide one of {self.shape} with {len(self.label_names)}: give a run on the same "
                "data"
            )

    def _check_trained(
        self, filled: SamplingSettings, labels: ArrayLike | None, weaker: "Model | None"
    ) -> None:
        """Raises ValueError for a branch that training never showed the network."""
        p_uncond = self.config.diffusion.p_uncond
        if not self.has_null_label:
            return
        if weaker is None:
            size = 1 if np.ndim(filled.w) == 0 else None if labels is None else np.size(labels)
            table = np.asarray(filled.weights(self.experiment, size).w) if size else None
            checks.check_trained(filled, p_uncond, table)
        if labels is not None and p_uncond == 0 and np.max(labels) == self.null_label:
            raise ValueError(
                f"label {self.null_label} means no label, which this model was never trained with "
                f"(p_uncond=0): use labels in 0..{self.null_label - 1}"
            )

    def grid(self, num_steps: int | None = None, respacing: str | None = None) -> tuple[float, ...]:
        """The grid points of `sample_x`, with the solver and grid of config.sampling by default.

        They are the T log-SNRs of its calls for a solver of one call per step without churn.

        Raises ValueError if both are given, or if the schedule does not have the grid.
        """
        wanted = SamplingSettings(num_steps=num_steps, respacing=respacing)
        return self.filled(wanted).logsnrs(self.experiment)
