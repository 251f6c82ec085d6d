"""Trained models and the guided samples they draw.

    model = cfg_jax.load("runs/digits")
    images = model.sample(0, labels=jnp.arange(10), w=2.0, num_steps=64)

A `Model` holds EMA parameters, their config and a compiled sampler; it needs no training data.
"""

# Annotations stay text, so that help() and tooltips show them as they are written here.
from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cfg_jax.core.arguments import flag, text_of, whole
from cfg_jax.core.plans import Plan
from cfg_jax.core.telemetry import Telemetry, summarise
from cfg_jax.core.types import ArrayLike, Key
from cfg_jax.io import images
from cfg_jax.runtime import devices
from cfg_jax.sampling import checks, keywords
from cfg_jax.sampling.labels import Labels, batch_of, named
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.predict import TrainedPredict
from cfg_jax.sampling.program import check, check_labels, make_sampler, request
from cfg_jax.sampling.settings import SamplingSettings


class Model(TrainedPredict):
    """EMA parameters bound to a guided sampler, which is compiled once per shape and grid.

    Attributes in addition to those of `TrainedPredict`:
      first_sample_seconds: seconds of the first `sample` call, with compilation; None before it.

    Examples:
      >>> network = cfg_jax.MLP(out_channels=2, num_classes=3, channels=8, num_blocks=1)
      >>> inputs = jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
      >>> params = network.init(jax.random.key(0), *inputs)["params"]
      >>> model = cfg_jax.Model.from_params(network, params, shape=(2,), sampling={"num_steps": 4})
      >>> model
      Model(step=0, network=MLP, params=2130, shape=(2,), num_classes=3)
      >>> model.sample_x(0, labels=[0, 1, 2], w=2.0).shape
      (3, 2)
    """

    def __init__(self, config: ConfigDict, params: Any, **data):
        super().__init__(config, params, **data)
        self.first_sample_seconds: float | None = None
        self._compiled = functools.cache(functools.partial(make_sampler, self.experiment))

    def with_params(self, params: Any, step: int) -> Model:
        """This model with other parameters; the copy shares the compiled programs."""
        other = copy.copy(self)
        other.__dict__.pop("_loaded", None)
        other.params, other.step = devices.replicate(params), step
        return other

    def sharing(self, other: Model) -> Model:
        """This model with the compiled programs of `other`, a model of the same network."""
        model = copy.copy(self)
        model._compiled = other._compiled
        return model

    @keywords.checked
    def sample(
        self,
        key: Key | int,
        labels: Labels = None,
        *,
        w: ArrayLike = 0.0,
        num_steps: int | None = None,
        solver: str | Plan | Callable[..., Any] | None = None,
        grid: str | None = None,
        eta: float | None = None,
        churn: float | None = None,
        schedule: str | None = None,
        interval: tuple[float, ...] | None = None,
        rule: str | None = None,
        against: str | int | None = None,
        logvar_interp: float | None = None,
        clip_x: bool | None = None,
        threshold: float | None = None,
        dtype: str | None = None,
        respacing: str | None = None,
        classifier: NoisyClassifier | None = None,
        classifier_w: ArrayLike = 0.0,
        classifier_form: str = "eps",
        noise_temperature: float = 1.0,
        score_temperature: float = 1.0,
        low_res: ArrayLike | None = None,
        weaker: Model | None = None,
        telemetry: bool = False,
    ) -> Any:
        """Guided samples, uint8 images [B, H, W, C]: Ho & Salimans 2022, Algorithm 2, or a solver.

        Sample i depends only on its key, label and weights. A program is compiled for each new B,
        number of calls, clip_x, threshold, dtype, rule, number of labels in against, weaker
        network, classifier network and classifier_form, and for no other change; with the solvers
        "ancestral" and "ddim" without noise also for each grid.

        Args:
          key: a seed in 0..2^32 - 1, or a key: [] (sample i uses fold_in(key, i)) or [B]; consumed.
          labels: [B] integers in 0..num_classes or names, as ["cat", "dog"]; num_classes and
            "no label" mean no label. One number or name is a batch of one.
          classifier: noisy classifier of the same data for classifier guidance.
          low_res: [B, h, w, C] in [-1, 1], input images of an upsampler.
          weaker: weaker model of the same data, for autoguidance in place of the null label.
          telemetry: whether to return (images, `Telemetry`), measurements of guidance in every
            call; both branches are then evaluated in calls with w != 0 only. Its log_prob and
            log_weight are NaN for another solver than "ancestral".

        The other arguments are the fields of `SamplingSettings`, which explains them; None stands
        for the value in the model's config.

        Raises ValueError, before compiling anything, if the model does not draw images or `check`
        rejects an argument, and TypeError for an unknown one. Raises FloatingPointError if the
        samples are not finite.
        """
        given = dict(locals())  # a copy, since a debugger adds names to the dict itself
        del given["self"]
        self._check_images()
        drawn = self.sample_x(**given)
        return (images.to_images(drawn[0]), drawn[1]) if telemetry else images.to_images(drawn)

    @keywords.shared(sample)
    def sample_x(
        self, key: Key | int, labels: Labels = None, *, telemetry: bool = False, **arguments
    ) -> Any:
        """`sample` as floats x [B, ...] in [-1, 1], for data of any shape; the same arguments."""
        settings, inputs = keywords.split(arguments)
        draw = self.telemetry if flag("telemetry", telemetry) else self.draw
        return draw(key, settings, labels=labels, **inputs)

    @keywords.shared(sample, without=("telemetry",))
    def trajectory(
        self, key: Key | int, labels: Labels = None, *, calls: int = 8, **arguments
    ) -> np.ndarray:
        """Estimates x_hat at `calls` evenly spaced network calls: uint8 [calls, B, H, W, C].

        The last is the result of `sample`. Other arguments as for `sample`. `images.save_gif`
        writes it as an animation. Raises ValueError if the sampler makes fewer calls.
        """
        self._check_images("model.draw(key, SamplingSettings(), labels=..., record='trajectory')")
        settings, inputs = keywords.split(arguments)
        total = self.check(settings, labels, **inputs).num_calls(self.experiment)
        whole("calls", calls, 1, total)
        _, estimates = self.draw(key, settings, labels=labels, record="trajectory", **inputs)
        return images.to_images(np.moveaxis(estimates[:, shown_calls(total, calls)], 1, 0))

    def show(
        self, samples: ArrayLike, labels: Labels = None, *, columns: int = 10
    ) -> images.Picture:
        """A picture of samples, which a notebook displays where it is the last value of a cell.

        Images are in rows of `columns`, below the names of their labels if there are any. Points
        are a scatter plot, with a colour per label.

        Args:
          samples: uint8 or floats in [-1, 1], [B, H, W, C] as of `sample`, [calls, B, H, W, C] as
            of `trajectory`, one image [H, W, C], or points [B, 2].
          labels: [B] numbers or names.

        Raises ValueError for samples of another shape, or unless there is one label per sample.
        """
        samples, rank = np.asarray(samples), len(self.shape)
        if samples.ndim - rank not in (0, 1, 2) or samples.shape[-rank:] != self.shape:
            raise ValueError(
                f"samples of shape {samples.shape}: this model draws [B, ...] of {self.shape}"
            )
        samples = samples[None] if samples.ndim == rank else samples
        names: list[str] = []
        if labels is not None:
            found = check_labels(self.experiment, batch_of(labels, self.label_names))
            names = named(found, self.label_names).tolist()
        if rank == 1:
            return images.scatter_by_name(samples, names)
        shown = images.shown(samples)
        if shown.ndim == 4:
            return images.sheet(shown, names, columns=columns)
        every = names * len(shown) if names else []
        return images.sheet(shown.reshape(-1, *self.shape), every, columns=shown.shape[1])

    def _check_images(self, instead: str = "model.sample_x") -> None:
        if len(self.shape) != 3:
            raise ValueError(f"samples of shape {self.shape} are not images: call {instead}")

    def telemetry(
        self, key: Key | int, settings: SamplingSettings, **inputs: Any
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

    def draw(
        self,
        key: Key | int,
        settings: SamplingSettings,
        *,
        labels: Labels,
        record: str = "",
        **inputs: Any,
    ) -> Any:
        """Guided samples x as in `sample_x`, with the settings as one value.

        With `record`, "telemetry" or "trajectory", returns (x, arrays [B, T, ...] of all calls).
        """
        labels = batch_of(labels, self.label_names)
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
        labels: Labels = None,
        *,
        classifier: NoisyClassifier | None = None,
        low_res: ArrayLike | None = None,
        weaker: Model | None = None,
    ) -> SamplingSettings:
        """Returns the settings with this model's defaults, after every check that needs no device.

        Takes the arguments of `sample`; labels and low_res are only checked if labels are given.
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
        labels = batch_of(labels, self.label_names)
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

    def _check_weaker(self, weaker: Model) -> None:
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
        self, filled: SamplingSettings, labels: ArrayLike | None, weaker: Model | None
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
        """The grid points of `sample`, with the solver and grid of config.sampling by default.

        They are the T log-SNRs of its calls for a solver of one call per step without churn.

        Raises ValueError if both are given, or if the schedule does not have the grid.
        """
        wanted = SamplingSettings(num_steps=num_steps, respacing=respacing)
        return self.filled(wanted).logsnrs(self.experiment)


def shown_calls(total: int, calls: int) -> np.ndarray:
    """Indices of `calls` evenly spaced calls of `total`, the last one included."""
    if calls == 1:
        return np.array([total - 1])
    return np.linspace(0, total - 1, calls).round().astype(int)
