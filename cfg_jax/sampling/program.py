"""The compiled program that draws guided samples, and its inputs.

    spec, shared, batch = request(task, settings, key, labels)
    x = make_sampler(task, spec)({"params": params, **shared}, batch)

`check` and `request` are pure functions of host values. They check before they derive a key, so a
rejected request compiles nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.config.build import STEPS, ClassifierExperiment, Experiment
from cfg_jax.core import guidance
from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import data, is_concrete, real, text_of
from cfg_jax.core.guiding import branches, guide
from cfg_jax.core.plans import Plan
from cfg_jax.core.rules import dynamic_threshold, rule_of
from cfg_jax.core.samplers import Call, ancestral_step, sample
from cfg_jax.core.telemetry import measure
from cfg_jax.core.types import Array, ArrayLike, Denoiser, Guided, Key, chosen
from cfg_jax.core.weighting import Weights
from cfg_jax.runtime import devices
from cfg_jax.sampling import checks
from cfg_jax.sampling.against import NULL, RANDOM, arrays
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.settings import SamplingSettings


class Spec(NamedTuple):
    """Static part of a request: a new value compiles a new program.

    grid: the T log-SNRs of a step rule; () for a plan, which is data.
    step: step rule, "ancestral", "ddim" or a function; "plan" for a plan.
    clip_x, form: clipping and classifier form of `SamplingSettings`.
    classifier: network of the guiding classifier, or None.
    threshold: quantile of `dynamic_threshold` in place of clipping; 0 for none.
    rule: rule of guidance whose weights per call are data; "" for one weight and the plain rule.
    against: second branch, "null", "random", or "labels", which are data.
    weaker: network of the weaker model of autoguidance, or None.
    dtype: type inside both networks; "" for the types that they were trained with.
    record: arrays of every call that are returned too, a key of `RECORDS`; "" for none.
    """

    grid: tuple[float, ...]
    step: str | Callable[..., Any]
    clip_x: bool
    classifier: ClassifierExperiment | None = None
    form: str = "eps"
    threshold: float = 0.0
    rule: str = ""
    against: str = NULL
    weaker: Experiment | None = None
    dtype: str = ""
    record: str = ""


RECORDS: dict[str, Callable[[Call], Any]] = {
    "telemetry": measure,
    "trajectory": lambda call: call.x_hat,
}


def check(
    task: Experiment,
    settings: SamplingSettings,
    labels: ArrayLike,
    *,
    classifier: NoisyClassifier | None = None,
    low_res: ArrayLike | None = None,
    weaker: Any = None,
) -> None:
    """Checks a request with filled settings, without a key.

    `weaker` is a `Model`. Raises ValueError if `checks.check` rejects the settings, if
    labels are not integers [B] in 0..null_label, if a weight has the wrong shape, or if low_res is
    missing, has the wrong shape or is not used by the network.
    """
    guided = {"guided_by_classifier": classifier is not None, "weaker": weaker is not None}
    checks.check(settings, task, **guided)
    labels = check_labels(task, labels)
    settings.weights(task, labels.size)
    if np.shape(settings.classifier_w) not in [(), labels.shape]:
        raise ValueError(
            f"classifier_w={text_of(settings.classifier_w)}: need a finite number, or one per "
            f"sample, [{labels.size}]"
        )
    check_low_res(task, low_res, labels.size)


def check_labels(task: Experiment, labels: ArrayLike) -> np.ndarray:
    """Labels as an array; ValueError unless integers [B] in 0..null_label, named or numbered."""
    if labels is None:
        raise ValueError("labels is missing: give one number or name per sample, such as [0, 1]")
    found = real("labels", labels, "integers [B], or names, such as [0, 1]")
    labels = np.asarray(found)
    if labels.ndim == 0:
        raise ValueError(f"labels={labels}: need integers [B], a list with one label per sample")
    if labels.size == 0:
        raise ValueError("labels is empty: give one number or name per sample, such as [0, 1]")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels={text_of(labels.tolist())} of shape {labels.shape} and type {labels.dtype}: "
            "need integers [B]"
        )
    highest = task.null_label - (task.label_input == "without_null")
    if wrong := sorted({int(label) for label in labels if not 0 <= label <= highest}):
        null = f", or {highest} for no label" if highest == task.null_label else ""
        some = f"label{'s' if len(wrong) > 1 else ''} {', '.join(map(str, wrong[:3]))}"
        more = f" and {len(wrong) - 3} others" if len(wrong) > 3 else ""
        raise ValueError(f"{some}{more}: need 0..{task.null_label - 1}{null}")
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
    key: Key | int,
    labels: ArrayLike,
    *,
    classifier: NoisyClassifier | None = None,
    low_res: ArrayLike | None = None,
    weaker: Any = None,
    record: str = "",
) -> tuple[Spec, dict[str, Any], dict[str, Array | np.ndarray]]:
    """Splits a request into (spec, arrays shared by all samples, arrays [B, ...]).

    The shared arrays exclude the parameters. `record` is that of `Spec`. Raises ValueError if
    `check` rejects the request, if `key` is no seed and no key of the right shape, or if there is
    no second branch for telemetry.
    """
    check(task, settings, labels, classifier=classifier, low_res=low_res, weaker=weaker)
    labels = np.asarray(labels, np.int32)
    # see `check`
    assert settings.solver is not None and settings.rule is not None
    assert isinstance(settings.against, str)  # see `filled`
    assert settings.dtype is not None
    plan, weights = settings.plan(task), settings.weights(task, labels.size)
    by_rule = () if plan is not None else settings.logsnrs(task)
    step = "plan" if isinstance(settings.solver, Plan) or plan is not None else settings.solver
    spec = Spec(by_rule, step, bool(settings.clip_x))
    shared = settings.traced()
    batch: dict[str, Array | np.ndarray] = {"labels": labels, "w": weights.w.T}
    if plan is not None:
        shared["plan"] = plan
    spec = spec._replace(threshold=float(settings.threshold or 0.0), dtype=settings.dtype)
    if record == "telemetry" and not settings.has_branch(task, weaker is not None):
        raise ValueError(
            "telemetry of a network without a null label: give a weaker model, or against='random'"
        )
    if plan is not None or not settings.is_plain or weaker is not None or record == "telemetry":
        spec = spec._replace(rule=settings.rule)
        shared |= {"guided": weights.guided, "starts": weights.starts}
        spec = spec._replace(against=settings.against)
        if settings.against not in (NULL, RANDOM):
            spec = spec._replace(against="labels")
            shared["others"], shared["blend"] = arrays(settings.against, task.null_label)
    spec = spec._replace(record=record)
    if weaker is not None:
        spec = spec._replace(weaker=weaker.experiment)
        shared["weaker"] = weaker.params
    if low_res is not None:
        batch["low_res"] = np.asarray(low_res, np.float32)
    if classifier is not None:
        spec = spec._replace(classifier=classifier.experiment, form=settings.classifier_form)
        shared["classifier"] = classifier.params
        weight = np.asarray(settings.classifier_w, np.float32)
        batch["classifier_w"] = np.broadcast_to(weight, labels.shape)
    batch["keys"] = keys_lib.per_example(keys_lib.key_of(key), labels.size)
    return spec, shared, batch


def make_sampler(task: Experiment, spec: Spec):
    """Returns (shared with params, batch) -> x: the sampler over all devices."""
    return devices.pmap_batch(make_draw(task, spec))


def make_draw(task: Experiment, spec: Spec):
    """Returns (shared with params, batch) -> x: the sampler on one device.

    If the spec records something, the result is (x, arrays [B, T, ...]).
    """
    task = task.with_dtype(spec.dtype)
    if spec.weaker is not None:
        spec = spec._replace(weaker=spec.weaker.with_dtype(spec.dtype))

    def draw(shared, batch):
        by_classifier, step, clip_x = _classifier_rule(spec, shared, batch)

        def transform(denoiser: Denoiser) -> Denoiser:
            return guidance.tempered(by_classifier(denoiser), shared["score_temperature"])

        options: dict[str, Any] = {"clip_x": clip_x}
        if spec.threshold:
            options["clip_x"] = dynamic_threshold(spec.threshold)
        if spec.step in STEPS:
            options |= {name: shared[name] for name in ("logvar_interp", "noise_temperature")}
        if spec.step != "plan":
            options["step"] = step
        if spec.rule:
            denoiser: Any = _guided(task, spec, shared, batch).then(transform)
        else:
            denoiser, options["per_step"] = _plain(task, shared, batch, transform), batch["w"].T
        if spec.record:
            options["record"] = RECORDS[spec.record]
        drawn = sample(
            batch["keys"],
            denoiser,
            (batch["labels"].shape[0], *task.shape),
            shared["plan"] if spec.step == "plan" else jnp.asarray(spec.grid, jnp.float32),
            **options,
        )
        if not spec.record:
            return drawn
        x, recorded = drawn
        return x, jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), recorded)

    return draw


def _plain(task: Experiment, shared: Any, batch: Any, transform: Callable) -> Callable:
    """w of a call -> a Denoiser with classifier-free guidance."""
    predict = task.sampled(shared["params"], batch.get("low_res"))

    def denoiser(w: Array) -> Denoiser:
        free = guidance.classifier_free_guidance(
            predict,
            batch["labels"],
            w if task.label_input == "with_null" else 0,
            null_label=task.null_label,
        )
        return transform(free)

    return denoiser


def _guided(task: Experiment, spec: Spec, shared: Any, batch: Any) -> Guided:
    """Guidance with a weight per call and a rule; one branch where there is nothing to guide by."""
    predict = task.sampled(shared["params"], batch.get("low_res"))
    labels = batch["labels"]
    if spec.weaker is not None:
        every = branches(predict, labels, pair=_pair(task, spec, shared, batch))
    elif spec.against == RANDOM:
        keys = keys_lib.stream(batch["keys"], "another label")
        every = branches(predict, labels, independent=(keys, task.null_label))
    elif spec.against == "labels":
        others = [jnp.broadcast_to(label, labels.shape) for label in shared["others"]]
        every = branches(predict, labels, others=others, blend=shared["blend"])
    elif task.label_input == "with_null":
        every = branches(predict, labels, null_label=task.null_label)
    else:
        return Guided(
            lambda z, logsnr, row, state: (predict(z, logsnr, labels), state), (), lambda shape: ()
        )
    weights = Weights(batch["w"].T, shared["guided"], shared["starts"])
    return guide(every, weights, rule_of(spec.rule), watch=spec.record == "telemetry")


def _pair(task: Experiment, spec: Spec, shared: Any, batch: Any) -> Callable:
    """(z, logsnr, labels) -> outputs of the model and the weaker one, in one call if alike."""
    low_res = batch.get("low_res")
    if spec.weaker == task:
        both = jax.tree.map(lambda *each: jnp.stack(each), shared["params"], shared["weaker"])

        def pair(z, logsnr, labels):
            call = jax.vmap(lambda params: task.sampled(params, low_res)(z, logsnr, labels))
            return tuple(jax.tree.map(lambda a, i=i: a[i], call(both)) for i in range(2))

        return pair
    assert spec.weaker is not None
    strong, weak = (
        each.sampled(params, low_res)
        for each, params in ((task, shared["params"]), (spec.weaker, shared["weaker"]))
    )
    return lambda *arguments: (strong(*arguments), weak(*arguments))


def _classifier_rule(
    spec: Spec, shared: dict[str, Any], batch: dict[str, Array]
) -> tuple[Callable[[Denoiser], Denoiser], Callable[..., Array], bool]:
    """Returns (Denoiser -> Denoiser, step rule, whether `sample` clips x_hat)."""
    step = spec.step if callable(spec.step) else STEPS.get(spec.step, ancestral_step)
    clip_x = spec.clip_x
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
