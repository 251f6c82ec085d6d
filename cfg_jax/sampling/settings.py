"""Settings of a request for samples: guidance, grid and step rule.

    SamplingSettings(w=2.0, num_steps=64).filled(config.sampling).check(task)

Flags, keywords and configs become one value, which file names, results and manifests record. A
program is compiled for its static part; its traced part is data.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cfg_jax.config.build import STEPS, Experiment
from cfg_jax.core.arguments import finite, flag, number, text_of, whole
from cfg_jax.core.guidance import only_trained_w
from cfg_jax.core.types import ArrayLike

CLASSIFIER_FORMS = ("eps", "adm")


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """Guidance, grid and step rule of one request; None stands for the model's default.

    w: guidance weight: scalar, [B] per sample, [T] or [T, 1] per step, or [T, B]. If T = B, a
      vector is per sample. 0 is the conditional model, -1 the unconditional one.
    num_steps: T >= 2, the number of network calls; a call has 2B examples if the network has a null
      label, else B.
    step: "ancestral" or "ddim".
    logvar_interp: the paper's v in [0, 1] for ancestral steps; unused if the variance is learned.
    clip_x: whether x_hat is clipped to [-1, 1] after guidance.
    respacing: timesteps of a discrete schedule, as ADM's timestep_respacing; replaces num_steps.
      "ddim25" takes 25 timesteps at an integer stride, "90,60,60,20,20" that many evenly spaced
      timesteps from each of 5 equal sections, the cleanest first.
    classifier_w: weight of a noisy classifier, scalar or [B]. Weight w on a conditional model
      corresponds to w + 1 on the unconditional one.
    classifier_form: "eps" shifts eps_hat (Ho & Salimans 2022, section 3.1). "adm" (Dhariwal &
      Nichol 2021) shifts the mean of ancestral steps (algorithm 1), or the score after clipping in
      DDIM steps (algorithm 2).
    noise_temperature: factor on the noise of ancestral steps, 0 or more.
    score_temperature: divisor of the guided eps_hat, above 0 (Dhariwal & Nichol 2021, appendix G).
    """

    w: ArrayLike = 0.0
    num_steps: int | None = None
    step: str | None = None
    logvar_interp: float | None = None
    clip_x: bool | None = None
    respacing: str | None = None
    classifier_w: ArrayLike = 0.0
    classifier_form: str = "eps"
    noise_temperature: float = 1.0
    score_temperature: float = 1.0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SamplingSettings":
        """The settings of keyword arguments; TypeError for one that is no field."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in names:
                scale = "; a guidance scale s is w=s - 1" if "scale" in name else ""
                raise TypeError(
                    f"{name}={text_of(given[name])} is no argument{scale}: choose among labels, "
                    f"classifier, low_res, {', '.join(names)}"
                )
        return cls(**given)

    def replace(self, **changes: Any) -> "SamplingSettings":
        """Returns the settings with some fields changed."""
        return dataclasses.replace(self, **changes)

    def filled(self, defaults: Mapping[str, Any]) -> "SamplingSettings":
        """Replaces None by `defaults`, a config.sampling.

        Raises ValueError if num_steps is not an integer of at least 2, or if respacing is given
        with a num_steps other than the default.
        """
        num_steps, respacing = self.num_steps, self.respacing
        if not isinstance(respacing, str | None):
            raise ValueError(
                f"respacing={text_of(respacing)}: need a text such as '250' or 'ddim25', or None"
            )
        if num_steps is None and respacing is None:
            num_steps, respacing = defaults["num_steps"], defaults["respacing"]
        elif respacing and num_steps not in (None, defaults["num_steps"]):
            raise ValueError(f"num_steps={num_steps} and respacing={respacing!r}: give one of them")
        num_steps = defaults["num_steps"] if num_steps is None else num_steps
        names = ("step", "logvar_interp", "clip_x")
        missing = {name: defaults[name] for name in names if getattr(self, name) is None}
        return self.replace(
            num_steps=None if respacing else whole("num_steps", num_steps, 2),
            respacing=respacing or "",
            **missing,
        )

    def grid(self, task: Experiment) -> tuple[float, ...]:
        """The T log-SNRs of filled settings; raises ValueError if the schedule lacks the grid."""
        if self.respacing:
            grid = task.schedule.respaced(self.respacing)
        else:
            assert self.num_steps is not None  # see `filled`
            grid = task.schedule.grid(self.num_steps)
        return tuple(grid.tolist())

    def check(self, task: Experiment, *, guided_by_classifier: bool) -> None:
        """Checks filled settings on the host.

        Raises ValueError if a field is out of range or of a different type, if w is not 0 and the
        network has no null label, if classifier_w is not 0 or classifier_form not the default
        without a classifier, or if the schedule lacks the grid.
        """
        for name, allowed in (("step", STEPS), ("classifier_form", CLASSIFIER_FORMS)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                raise ValueError(f"{name}={text_of(value)}: choose one of {', '.join(allowed)}")
        flag("clip_x", self.clip_x)
        self._check_numbers()
        if self.step == "ddim" and self.noise_temperature != 1:
            raise ValueError(
                f"noise_temperature={self.noise_temperature} with step='ddim', which draws no "
                "noise: use step='ancestral', or score_temperature"
            )
        self._check_weights(task, guided_by_classifier)
        self.grid(task)

    def _check_numbers(self) -> None:
        """Raises ValueError for a number out of range, or anything but a number."""
        smallest = float(np.finfo(np.float32).tiny)  # float32 rounds a smaller number to 0
        for name, allowed, limits in (
            ("logvar_interp", "a number in [0, 1]", (0, 1)),
            ("noise_temperature", "a finite number, 0 or more; 1 for none", (0,)),
            ("score_temperature", "a finite number above 0; 1 for none", (smallest,)),
        ):
            number(name, getattr(self, name), allowed, *limits)

    def _check_weights(self, task: Experiment, guided_by_classifier: bool) -> None:
        w, by = self.w, self.classifier_w
        finite("w", w, "finite guidance weights")
        if task.label_input != "with_null" and np.any(w):
            raise ValueError(
                f"w={text_of(w)}: this network has no null label; use w=0 and a classifier"
            )
        finite("classifier_w", by, "a finite number, or one per sample")
        if np.any(by) and not guided_by_classifier:
            raise ValueError(f"classifier_w={text_of(by)} without a classifier: give one")
        if self.classifier_form != CLASSIFIER_FORMS[0] and not guided_by_classifier:
            raise ValueError(
                f"classifier_form={self.classifier_form!r} without a classifier: give one"
            )

    def check_trained(self, p_uncond: float) -> None:
        """Raises ValueError for w that weights a branch which p_uncond 0 or 1 left untrained."""
        only = only_trained_w(p_uncond)
        if only is not None and np.any(np.asarray(self.w) != only):
            without = "with" if p_uncond else "without"
            raise ValueError(
                f"w={text_of(self.w)}: training with p_uncond={p_uncond:g} never showed this "
                f"model an example {without} its label; use w={only:g}"
            )

    def traced(self) -> dict[str, Any]:
        """Traced scalars of the program, shared by all samples."""
        names = ("logvar_interp", "noise_temperature", "score_temperature")
        return {name: np.float32(getattr(self, name)) for name in names}

    def to_json(self, task: Experiment) -> dict[str, Any]:
        """Filled settings of one weight as JSON values; num_steps is the T of any grid.

        Integers other than num_steps become floats, so 1 and 1.0 have the same digest. Raises
        ValueError for a weight per sample or per step.
        """
        for name in ("w", "classifier_w"):
            if np.ndim(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: give one weight for all samples")
        values = dataclasses.asdict(self) | {"num_steps": len(self.grid(task))}
        values = {name: np.asarray(value).item() for name, value in values.items()}
        kept = ("num_steps", "clip_x")
        return {
            name: float(value) if isinstance(value, int) and name not in kept else value
            for name, value in values.items()
        }
