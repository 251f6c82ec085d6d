"""The compiled program that draws guided samples, and its inputs.

    spec, shared, batch = request(task, settings, key, labels)
    x = make_sampler(task, spec)({"params": params, **shared}, batch)

`check` and `request` are pure functions of host values. They check before they derive a key, so a
rejected request compiles nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cfg_jax.config.build import STEPS, ClassifierExperiment, Experiment
from cfg_jax.core import guidance
from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import data, is_concrete, real, text_of
from cfg_jax.core.samplers import sample
from cfg_jax.core.types import Array, ArrayLike, Denoiser, Key, chosen
from cfg_jax.runtime import devices
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.settings import SamplingSettings


class Spec(NamedTuple):
    """Static part of a request: a new value compiles a new program.

    grid: the T log-SNRs.
    step, clip_x, form: step rule, clipping and classifier form of `SamplingSettings`.
    classifier: network of the guiding classifier, or None.
    """

    grid: tuple[float, ...]
    step: str
    clip_x: bool
    classifier: ClassifierExperiment | None = None
    form: str = "eps"


def check(
    task: Experiment,
    settings: SamplingSettings,
    labels: ArrayLike,
    *,
    classifier: NoisyClassifier | None = None,
    low_res: ArrayLike | None = None,
) -> None:
    """Checks a request with filled settings, without a key.

    Raises ValueError if `SamplingSettings.check` rejects the settings, if labels are not integers
    [B] in 0..null_label, if a weight has the wrong shape, or if low_res is missing, has the wrong
    shape or is not used by the network.
    """
    settings.check(task, guided_by_classifier=classifier is not None)
    labels = check_labels(task, labels)
    guidance.weight_per_step(settings.w, len(settings.grid(task)), labels.size)
    if np.shape(settings.classifier_w) not in [(), labels.shape]:
        raise ValueError(
            f"classifier_w={text_of(settings.classifier_w)}: need a finite number, or one per "
            f"sample, [{labels.size}]"
        )
    check_low_res(task, low_res, labels.size)


def check_labels(task: Experiment, labels: ArrayLike) -> np.ndarray:
    """Labels as an array; ValueError unless integers [B] in 0..null_label, named or numbered."""
    found = real("labels", labels, "integers [B], or names")
    labels = np.asarray(found)
    if labels.ndim == 0:
        raise ValueError(f"labels={labels}: need integers [B], a list with one label per sample")
    if labels.ndim != 1 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels={text_of(labels.tolist())} of shape {labels.shape} and type {labels.dtype}: "
            "need integers [B]"
        )
    highest = task.null_label - (task.label_input == "without_null")
    if labels.min() < 0 or labels.max() > highest:
        null = f", or {highest} for no label" if highest == task.null_label else ""
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()}: need 0..{task.null_label - 1}{null}"
        )
    return labels


def check_low_res(task: Experiment, low_res: ArrayLike | None, batch_size: int) -> None:
    """Raises ValueError unless low_res is what the network takes: images [B, h, w, C], or None."""
    side = task.low_res_size
    if not side and low_res is not None:
        raise ValueError("low_res given to a model that is not an upsampler: omit it")
    wanted = (batch_size, side, side, task.shape[-1])
    if not side:
        return
    if low_res is None:
        raise ValueError(f"low_res is missing: this upsampler needs images of shape {wanted}")
    small = data("low_res", low_res)
    if small.shape != wanted:
        raise ValueError(
            f"low_res has shape {small.shape}: this upsampler needs images of shape {wanted}"
        )
    if not is_concrete(small):
        return
    reach = np.abs(np.asarray(small, np.float32)).max()
    if not reach <= 1 + 1e-3:
        raise ValueError(
            f"low_res has values of {reach:g}: need images in [-1, 1], as of images / 127.5 - 1"
        )


def request(
    task: Experiment,
    settings: SamplingSettings,
    key: Key,
    labels: ArrayLike,
    *,
    classifier: NoisyClassifier | None = None,
    low_res: ArrayLike | None = None,
) -> tuple[Spec, dict[str, Any], dict[str, Array | np.ndarray]]:
    """Splits a request into (spec, arrays shared by all samples, arrays [B, ...]).

    The shared arrays exclude the parameters. Raises ValueError if `check` rejects the request or
    `key` has the wrong shape.
    """
    check(task, settings, labels, classifier=classifier, low_res=low_res)
    labels = np.asarray(labels, np.int32)
    assert settings.step is not None  # see `check`
    spec = Spec(settings.grid(task), settings.step, bool(settings.clip_x))
    shared = settings.traced()
    w = guidance.weight_per_step(settings.w, len(spec.grid), labels.size)
    batch: dict[str, Array | np.ndarray] = {"labels": labels, "w": w.T}
    if low_res is not None:
        batch["low_res"] = np.asarray(low_res, np.float32)
    if classifier is not None:
        spec = spec._replace(classifier=classifier.experiment, form=settings.classifier_form)
        shared["classifier"] = classifier.params
        weight = np.asarray(settings.classifier_w, np.float32)
        batch["classifier_w"] = np.broadcast_to(weight, labels.shape)
    batch["keys"] = keys_lib.per_example(key, labels.size)
    return spec, shared, batch


def make_sampler(task: Experiment, spec: Spec):
    """Returns (shared with params, batch) -> x: Algorithm 2 over all devices."""
    return devices.pmap_batch(make_draw(task, spec))


def make_draw(task: Experiment, spec: Spec):
    """Returns (shared with params, batch) -> x: Algorithm 2 on one device."""
    logsnrs = jnp.asarray(spec.grid, jnp.float32)

    def draw(shared, batch):
        predict = task.predict(shared["params"], low_res=batch.get("low_res"))
        guide, step, clip_x = _classifier_rule(spec, shared, batch)

        def denoiser(w):
            w = w if task.label_input == "with_null" else 0
            free = guidance.classifier_free_guidance(
                predict, batch["labels"], w, null_label=task.null_label
            )
            return guidance.tempered(guide(free), shared["score_temperature"])

        return sample(
            batch["keys"],
            denoiser,
            (batch["labels"].shape[0], *task.shape),
            logsnrs,
            step=step,
            clip_x=clip_x,
            per_step=batch["w"].T,
            logvar_interp=shared["logvar_interp"],
            noise_temperature=shared["noise_temperature"],
        )

    return draw


def _classifier_rule(
    spec: Spec, shared: dict[str, Any], batch: dict[str, Array]
) -> tuple[Callable[[Denoiser], Denoiser], Callable[..., Array], bool]:
    """Returns (Denoiser -> Denoiser, step rule, whether `sample` clips x_hat)."""
    step, clip_x = STEPS[spec.step], spec.clip_x
    if spec.classifier is None:
        return lambda denoiser: denoiser, step, clip_x
    clips_first = spec.form == "adm" and clip_x
    log_probs = spec.classifier.log_probs(shared["classifier"])

    def log_prob(z, logsnr):
        return chosen(log_probs(z, logsnr), batch["labels"])

    weight = batch["classifier_w"]
    if spec.form == "adm" and spec.step == "ancestral":
        return lambda denoiser: denoiser, guidance.mean_shift(log_prob, weight), clip_x

    def guide(denoiser):
        denoiser = guidance.clipped(denoiser) if clips_first else denoiser
        return guidance.classifier_guidance(denoiser, log_prob, weight)

    return guide, step, clip_x and not clips_first
