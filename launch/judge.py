"""Judges samples of a trained model by a support vector machine trained on the real images.

    cfg-jax judge --workdir=runs/digits --w=0,1,3 --min_accuracy=0.97,0.99,0.99

Prints accuracy and spread within the classes at each w. Exits with 1 if an accuracy is below
--min_accuracy or the spread does not fall as w grows. With classifier guidance of the unconditional
model:

    cfg-jax judge --workdir=runs/digits --w=-1 --min_accuracy=0.7,0.9,0.9 \\
        --classifier_workdir=runs/digits_classifier --classifier_w=1,2,4
"""

import sys

from absl import flags

from . import flags as sampling
from .program import run
from .values import adapt, numbers, refuse

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a training run; required.", required=True
)
_MIN_ACCURACY = flags.DEFINE_string(
    "min_accuracy",
    None,
    "Comma-separated minimum accuracies in [0, 1], one per --w; no minimum if unset.",
)
_SAMPLES = flags.DEFINE_integer(
    "samples_per_label", 50, "Number of samples per class at each w.", 2
)
adapt("w", "0,1,3")
_WITHOUT_EFFECT = ("num_samples", "label_plan")


def check() -> None:
    """Raises ValueError for flags that cannot be read or have no effect."""
    refuse(_WITHOUT_EFFECT, "has no effect on judge: give --samples_per_label")
    sampling.check()
    numbers("min_accuracy")


def main(argv: list[str]) -> int:
    del argv
    from cfg_jax.sampling import loading, strips
    from cfg_jax.study import svm_judge

    weights, by = numbers("w"), sampling.classifier_weights()
    columns = strips.columns(weights, by)
    least = numbers("min_accuracy") or [0.0] * len(columns)
    if len(least) != len(columns) or columns != sorted(set(columns)):
        raise ValueError(
            f"--w={sampling.W.value} --min_accuracy={_MIN_ACCURACY.value or ''}: give ascending "
            "weights, and one accuracy for each or none"
        )
    judged = loading.load_model(_WORKDIR.value, sampling.CHECKPOINT.value)
    request = {"settings": sampling.settings(), "samples_per_label": _SAMPLES.value}
    request |= sampling.request()
    strip = strips.Strip(judged, range(judged.null_label), weights, by, **request)
    verdicts = svm_judge.judge(strip)
    print(svm_judge.table(verdicts))
    shortfalls = svm_judge.failures(verdicts, least)
    for shortfall in shortfalls:
        print("falls short:", shortfall, file=sys.stderr)
    return 1 if shortfalls else 0


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    run(main, check=check, hidden=_WITHOUT_EFFECT)
