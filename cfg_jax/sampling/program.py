"""Which program draws guided samples?

One function of (parameters, batch), compiled for a plan: the grid, the step rule, the classifier
and the form of its guidance. What a person may ask for is checked by `model`.
"""

from typing import NamedTuple

import jax.numpy as jnp

from cfg_jax.config import build
from cfg_jax.core.guidance import (
    classifier_free_guidance,
    classifier_guidance,
    clipped,
    mean_shift,
    tempered,
)
from cfg_jax.core.samplers import sample
from cfg_jax.runtime import devices
from cfg_jax.sampling.noisy_classifier import chosen

CLASSIFIER_FORMS = ("eps", "adm")


class Plan(NamedTuple):
    """What a sampler is compiled for."""

    grid: tuple[float, ...]
    step: str
    clip_x: bool
    classifier: build.ClassifierExperiment | None = None
    form: str = "eps"


def make_sampler(exp: build.Experiment, plan: Plan):
    """(shared parameters, batch) -> x: Algorithm 2 over all devices."""
    return devices.pmap_batch(make_draw(exp, plan))


def make_draw(exp: build.Experiment, plan: Plan):
    """(shared parameters, batch) -> x: Algorithm 2 on one device."""
    logsnrs = jnp.asarray(plan.grid, jnp.float32)

    def draw(shared, batch):
        denoiser = classifier_free_guidance(
            exp.predict(shared["params"], low_res=batch.get("low_res")),
            batch["labels"],
            batch["w"].T if exp.label_input == "with_null" else 0,
            null_label=exp.null_label,
            logsnrs=logsnrs,
        )
        step, clip_x = build.STEPS[plan.step], plan.clip_x
        if plan.classifier is not None:
            log_probs = plan.classifier.log_probs(shared["classifier"])

            def log_prob(z, logsnr):
                return chosen(log_probs(z, logsnr), batch["labels"])

            weight = batch["classifier_w"]
            if plan.form == "adm" and plan.step == "ancestral":
                step = mean_shift(log_prob, weight)
            else:
                if plan.form == "adm" and clip_x:
                    denoiser, clip_x = clipped(denoiser), False
                denoiser = classifier_guidance(denoiser, log_prob, weight)
        return sample(
            batch["keys"],
            tempered(denoiser, shared["score_temperature"]),
            (batch["labels"].shape[0], *exp.shape),
            logsnrs,
            step=step,
            clip_x=clip_x,
            logvar_interp=shared["logvar_interp"],
            noise_temperature=shared["noise_temperature"],
        )

    return draw
