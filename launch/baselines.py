"""Flags of the baselines of a sweep: classifier guidance and temperatures."""

from absl import flags

from . import flags as sampling
from .values import numbers

_CLASSIFIER_ON = flags.DEFINE_float(
    "classifier_on",
    0.0,
    "Guidance weight w of the model that --classifier_workdir guides: 0 (conditional) or -1 "
    "(unconditional).",
)
_OLDER_STEPS = flags.DEFINE_integer(
    "older_num_steps",
    None,
    "Number of sampling steps T of the baselines (classifier guidance and temperatures), at least "
    "2; the first of --num_steps if unset.",
    2,
)


def requested():
    """The `OlderWays` requested by the flags."""
    from cfg_jax.study import sweep

    return sweep.OlderWays(
        sampling.load_classifier(),
        numbers("classifier_w"),
        sampling.CLASSIFIER_FORM.value,
        _CLASSIFIER_ON.value,
        numbers("noise_temperature"),
        numbers("score_temperature"),
        _OLDER_STEPS.value,
    )
