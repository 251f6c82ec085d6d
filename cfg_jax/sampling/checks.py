"""Checks of sampling settings: ranges, and what a network and its training allow.

    check(settings.filled(config.sampling, label_names), task, guided_by_classifier=False)

They raise ValueError on the host, before anything is compiled.
"""

import numpy as np
from absl import logging

from cfg_jax.config.build import DTYPES, Experiment
from cfg_jax.core import grids, plans
from cfg_jax.core.arguments import choice, finite, flag, number, text_of
from cfg_jax.core.guidance import only_trained_w
from cfg_jax.core.rules import rule_of
from cfg_jax.core.weighting import schedule_of, weights
from cfg_jax.sampling import against
from cfg_jax.sampling.settings import CLASSIFIER_FORMS, SamplingSettings


def check(
    settings: SamplingSettings,
    task: Experiment,
    *,
    guided_by_classifier: bool,
    weaker: bool = False,
) -> None:
    """Checks filled settings of a request, on the host.

    Raises ValueError if a field is out of range or of a different type, if w is not 0 and there is
    no second branch, if classifier_w is not 0 or classifier_form not the default without a
    classifier, or if the schedule lacks the grid.
    """
    if not settings.has_own_solver:
        choice("solver", settings.solver, plans.SOLVERS)
    if not isinstance(settings.grid, str):
        raise ValueError(
            f"grid={text_of(settings.grid)}: need a name, {' or '.join(grids.GRIDS)}; for log-SNRs "
            "of your own, solver=cfg_jax.plan(logsnrs, 'unipc_2')"
        )
    choice("grid", settings.grid, grids.GRIDS)
    choice("classifier_form", settings.classifier_form, CLASSIFIER_FORMS)
    schedule_of(settings.schedule or "")
    rule_of(settings.rule or "")
    flag("clip_x", settings.clip_x)
    if settings.dtype != "":
        choice("dtype", settings.dtype, DTYPES)
    _check_numbers(settings)
    _check_threshold(settings)
    _check_against(settings, task, weaker)
    _check_noise(settings, task)
    _check_weights(settings, task, guided_by_classifier, weaker)
    settings.logsnrs(task)
    settings.plan(task)
    _check_interval(settings, task)


def _check_interval(settings: SamplingSettings, task: Experiment) -> None:
    """Raises ValueError for an interval that is none, or in which no call is guided."""
    if settings.interval is None or len(np.atleast_1d(settings.interval)) == 0:
        return
    inside = weights(settings.calls(task), 1.0, interval=settings.interval)
    if not inside.guided.any():
        raise ValueError(
            f"interval={text_of(settings.interval)}: none of the {len(inside.guided)} calls is "
            "inside; the grid goes from "
            f"{settings.logsnrs(task)[0]:g} to {settings.logsnrs(task)[-1]:g} in log-SNR"
        )


def _check_noise(settings: SamplingSettings, task: Experiment) -> None:
    """Raises ValueError for noise that the solver does not draw."""
    own = settings.eta or settings.churn or settings.solver == "pcg"
    if isinstance(settings.solver, plans.Plan):
        return
    if callable(settings.solver) and (settings.noise_temperature != 1 or settings.logvar_interp):
        raise ValueError(
            f"noise_temperature={settings.noise_temperature}, "
            f"logvar_interp={settings.logvar_interp} with a step rule of one's own, which is not "
            "passed any: use 1 and 0, and functools.partial for its options"
        )
    if not (own or settings.solver == "ancestral") and settings.noise_temperature != 1:
        raise ValueError(
            f"noise_temperature={settings.noise_temperature} with solver={settings.solver!r}, "
            "which draws no noise: use solver='ancestral', or score_temperature"
        )
    if own and task.learned_variance:
        noise = f"eta={settings.eta}, churn={settings.churn}"
        raise ValueError(
            f"solver={settings.solver!r}, {noise} with a network that learns the variance of "
            "ancestral steps: use solver='ancestral', or a solver without noise"
        )


def _check_numbers(settings: SamplingSettings) -> None:
    """Raises ValueError for a number out of range, or anything but a number."""
    smallest = float(np.finfo(np.float32).tiny)  # float32 rounds a smaller number to 0
    for name, allowed, limits in (
        ("eta", "a number of at least 0", (0,)),
        ("churn", "a number of at least 0", (0,)),
        ("logvar_interp", "a number in [0, 1]", (0, 1)),
        ("threshold", "a quantile in (0, 1], or 0 for none", (0, 1)),
        ("noise_temperature", "a finite number, 0 or more; 1 for none", (0,)),
        ("score_temperature", "a finite number above 0; 1 for none", (smallest,)),
    ):
        number(name, getattr(settings, name), allowed, *limits)


def _check_threshold(settings: SamplingSettings) -> None:
    """Raises ValueError for a threshold beside another clipping of x_hat."""
    if settings.threshold and (not settings.clip_x or settings.classifier_form == "adm"):
        raise ValueError(
            f"threshold={settings.threshold} with clip_x={settings.clip_x}, "
            f"classifier_form={settings.classifier_form!r}: need clip_x=True, for images in "
            "[-1, 1], and classifier_form='eps'"
        )


def _check_against(settings: SamplingSettings, task: Experiment, weaker: bool) -> None:
    """Raises ValueError for an `against` that the network does not know."""
    against.check(settings.against, task.null_label)
    if settings.against == against.NULL:
        return
    if weaker:
        raise ValueError(f"against={text_of(settings.against)} with a weaker model: give one")
    if task.label_input == "none":
        raise ValueError(f"against={text_of(settings.against)}: this network has no labels")
    if settings.against == against.RANDOM and not settings.interval:
        logging.log_first_n(
            logging.WARNING,
            "against='random' is near classifier-free guidance at high noise only: give an "
            "interval such as (-20, -2)",
            1,
        )


def _check_weights(
    settings: SamplingSettings, task: Experiment, guided_by_classifier: bool, weaker: bool
) -> None:
    w, by = settings.w, settings.classifier_w
    finite("w", w, "finite guidance weights")
    has_branch = settings.has_branch(task, weaker)
    if np.any(w) and not has_branch:
        random = "" if task.label_input == "none" else ", or against='random' in an interval"
        raise ValueError(
            f"w={text_of(w)}: this network has no null label; use w=0 and a classifier{random}"
        )
    finite("classifier_w", by, "a finite number, or one per sample")
    if settings.schedule == "cfgpp":
        _check_cfgpp(settings, has_branch)
    if np.any(by) and settings.solver == "pcg":
        raise ValueError(
            f"classifier_w={text_of(by)} with solver='pcg', whose DDIM steps are not guided: "
            "use another solver"
        )
    if np.any(by) and not guided_by_classifier:
        raise ValueError(f"classifier_w={text_of(by)} without a classifier: give one")
    if settings.classifier_form != CLASSIFIER_FORMS[0] and not guided_by_classifier:
        raise ValueError(
            f"classifier_form={settings.classifier_form!r} without a classifier: give one"
        )


def _check_cfgpp(settings: SamplingSettings, has_branch: bool) -> None:
    """Raises ValueError unless CFG++ is defined: a second branch, DDIM, lambda in [0, 1]."""
    lam = np.asarray(settings.w)
    if settings.solver != "ddim" or settings.eta or settings.churn or not has_branch:
        raise ValueError(
            f"schedule='cfgpp' with solver={text_of(settings.solver)}, eta={settings.eta}, "
            f"churn={settings.churn}: need solver='ddim' without noise, and a null label"
        )
    if lam.min() < 0 or lam.max() > 1:
        raise ValueError(f"w={text_of(settings.w)} with schedule='cfgpp': need w in [0, 1]")


def check_trained(
    settings: SamplingSettings, p_uncond: float, table: np.ndarray | None = None
) -> None:
    """Raises ValueError for w that weights a branch which p_uncond 0 or 1 left untrained.

    The settings are filled. `table` has the weights of all calls; None is w in every call.
    """
    if not settings.uses_null:
        if p_uncond == 1:
            raise ValueError(
                f"against={settings.against!r}: training with p_uncond=1 never showed this model a "
                "label; use against='null'"
            )
        return
    only = only_trained_w(p_uncond)
    if only is not None and np.any(np.asarray(settings.w if table is None else table) != only):
        without = "with" if p_uncond else "without"
        raise ValueError(
            f"w={text_of(settings.w)}: training with p_uncond={p_uncond:g} never showed this "
            f"model an example {without} its label; use w={only:g}"
        )
