"""Keywords of the sampling methods: one signature for several methods, and errors that help.

    model.sample(0, [7], guidance_scale=7.5)
    TypeError: guidance_scale=7.5 is not an argument of sample: use w=6.5, since w is s - 1 ...

Words of diffusers and guided-diffusion are answered with ours, misspellings with the nearest name.
"""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from cfg_jax.core.arguments import text_of
from cfg_jax.sampling.settings import SamplingSettings

P = ParamSpec("P")
R = TypeVar("R")

SETTINGS = tuple(field.name for field in dataclasses.fields(SamplingSettings))

_SEED = "key, a seed such as 0 or jax.random.key(0)"
_LABELS = "labels, one number or name per sample, such as [0, 1]"
_MANY = "labels with one entry per sample, such as labels=[7] * 4"
_ARRAY = "sample for uint8 images, sample_x for floats, and show for a picture"
_CALLS = "trajectory, for the estimates of the calls, or a step rule of your own as solver"
_QUANTILE = "threshold, a quantile such as 0.995"
_TRAINED = "none, since it belongs to the trained network, see model.config"
_OTHERS = {
    "generator": _SEED,
    "rng": _SEED,
    "seed": _SEED,
    "manual_seed": _SEED,
    "class_labels": _LABELS,
    "classes": _LABELS,
    "prompt": _LABELS,
    "y": _LABELS,
    "batch_size": _MANY,
    "num_images_per_prompt": _MANY,
    "num_samples": _MANY,
    "num_inference_steps": "num_steps",
    "steps": "num_steps",
    "timestep_respacing": "respacing",
    "timesteps": "num_steps, or respacing for a schedule of timesteps",
    "scheduler": "solver",
    "sampler": "solver",
    "step": "solver",
    "use_ddim": "solver='ddim'",
    "solver_order": "solver='dpmpp_2m' or 'dpmpp_3m'",
    "use_karras_sigmas": "grid='karras'",
    "clip_sample": "clip_x",
    "clip_denoised": "clip_x",
    "thresholding": _QUANTILE,
    "dynamic_thresholding_ratio": _QUANTILE,
    "torch_dtype": "dtype='bfloat16'",
    "num_train_timesteps": _TRAINED,
    "beta_schedule": _TRAINED,
    "prediction_type": _TRAINED,
    "height": _TRAINED,
    "width": _TRAINED,
    "image_size": _TRAINED,
    "negative_prompt": "against, the label or labels to point away from",
    "guidance_rescale": "rule='rescale:phi=0.7'",
    "guidance_interval": "interval, two log-SNRs such as (-3, 6)",
    "classifier_scale": "classifier_w",
    "temperature": "noise_temperature or score_temperature",
    "latents": "cfg_jax.sample with z_init",
    "image": "low_res, for an upsampler",
    "callback": _CALLS,
    "callback_on_step_end": _CALLS,
    "output_type": _ARRAY,
    "return_dict": _ARRAY,
}
"""Words of other libraries, with what to use here."""

_LOADED = "cfg_jax.load(workdir), or cfg_jax.pretrained('digits')"
_SOLVER = "the argument solver of sample, such as solver='ddim'"
_NETWORK = "predict, a function (z, logsnr, labels) -> eps_hat"
ATTRIBUTES = {
    "save_pretrained": "save(workdir)",
    "scheduler": _SOLVER,
    "unet": _NETWORK,
    "transformer": _NETWORK,
    "forward": _NETWORK,
    "parameters": "params, nested dicts of arrays",
    "state_dict": "params, nested dicts of arrays",
    "to": "no device: parameters are placed on all of them",
}
"""Attributes of models in other libraries, with what to use here."""

_ENDS = {"from_pretrained": _LOADED, "Pipeline": _LOADED, "Scheduler": _SOLVER}


def checked(method: Callable[P, R]) -> Callable[P, R]:
    """The method, with errors for arguments that it does not have, before it runs."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        _check(method.__name__, signature, args, kwargs)
        return method(*args, **kwargs)

    return call


def shared(other: Callable, without: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """`checked` for a method whose **arguments are the keywords of `other`, but for some."""

    def decorate(method: Callable) -> Callable:
        own = inspect.signature(method)
        kept = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
        names = {*without, *(each.name for each in kept)}
        every = inspect.signature(other).parameters.values()
        kept += [each for each in every if each.name not in names]
        method.__signature__ = own.replace(parameters=kept)  # type: ignore[attr-defined]
        return checked(method)

    return decorate


def split(arguments: Mapping[str, Any]) -> tuple[SamplingSettings, dict[str, Any]]:
    """Keywords as the settings of a request and its other inputs."""
    inputs = {name: value for name, value in arguments.items() if name not in SETTINGS}
    return SamplingSettings(**{k: v for k, v in arguments.items() if k in SETTINGS}), inputs


def meant(given: str, value: str | None) -> tuple[str, float | None]:
    """Our word for a flag of another program, "" if there is none, and the value that is meant."""
    if given in _OTHERS:
        return re.split(r"\W", _OTHERS[given])[0], None
    if not _is_scale(given):
        return "", None
    with contextlib.suppress(TypeError, ValueError):
        return "w", float(value) - 1  # type: ignore[arg-type]
    return "w", None


def attribute(owner: str, name: str, words: Mapping[str, str]) -> str:
    """The text of the error for a name of another library, one of `words` too; "" for others."""
    ends = [use for end, use in _ENDS.items() if name.endswith(end)]
    use = words.get(name) or "".join(ends)
    return f"{owner} has no attribute {name!r}: use {use}" if use else ""


def _is_scale(given: str) -> bool:
    """Whether a word names the scale s = 1 + w."""
    return "scale" in given or given in ("cfg", "guidance")


def _check(name: str, signature: inspect.Signature, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError for an unknown keyword, one too many without a name, and a missing key."""
    _, *parameters = signature.parameters.values()
    known = [each.name for each in parameters]
    for given in kwargs:
        if given not in known:
            said = f"{given}={text_of(kwargs[given])} is not an argument of {name}"
            raise TypeError(f"{said}: {_instead(given, kwargs[given], known)}")
    nameless = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    if len(args) - 1 > len(nameless):
        extra = text_of(args[len(nameless) + 1])
        raise TypeError(
            f"{name} takes only {' and '.join(nameless)} by position: pass {extra} by keyword, as "
            f"w={extra}"
        )
    if len(args) == 1 and "key" not in kwargs:
        raise TypeError(f"{name} without a key: give a seed such as 0, or jax.random.key(0), first")


def _instead(given: str, value: Any, known: list[str]) -> str:
    """Advice in place of an unknown keyword."""
    if given in _OTHERS:
        return f"use {_OTHERS[given]}"
    if _is_scale(given):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return f"use {f'w={value - 1:g}' if number else 'w'}, since w is s - 1 for a scale s"
    if near := difflib.get_close_matches(given, known, n=3):
        return f"did you mean {' or '.join(near)}?"
    return f"choose among {', '.join(known)}"
