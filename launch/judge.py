"""Has a support vector machine trained on the real images label samples of a trained model.

    python -m launch.judge --workdir=runs/digits --w=0,1,3 --min_accuracy=0.97,0.99,0.99

Prints accuracy and spread within the classes at each w, and exits with 1 if the samples fall
short: an accuracy below --min_accuracy, or a spread that does not fall as w grows. With a noisy
classifier that guides the unconditional branch:

    python -m launch.judge --workdir=runs/digits --w=-1 --min_accuracy=0.7,0.9,0.9 \\
        --classifier_workdir=runs/digits_classifier --classifier_w=1,2,4
"""

import sys

from absl import flags

from cfg_jax.sampling import model, strips
from cfg_jax.study import svm_judge
from launch.program import guiding_classifier, numbers, run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
_W = flags.DEFINE_string("w", "0,1,3", "Guidance weights, ascending.")
_MIN_ACCURACY = flags.DEFINE_string("min_accuracy", "0.97,0.99,0.99", "Least accuracy at each w.")
_CLASSIFIER = flags.DEFINE_string("classifier_workdir", None, "Folder of a classifier's run.")
_CLASSIFIER_W = flags.DEFINE_string(
    "classifier_w", None, "Its weights: one, or one for each --w; w + 1 where --w is -1."
)
_SAMPLES = flags.DEFINE_integer("samples_per_label", 50, "Samples a class at each w.", 2)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise.", 0, 2**32 - 1)
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps T; the config's if unset.", 2)


def main(argv: list[str]) -> int:
    del argv
    weights = numbers("w", _W.value)
    least = numbers("min_accuracy", _MIN_ACCURACY.value)
    classifier, by = guiding_classifier(_CLASSIFIER.value, _CLASSIFIER_W.value, weights)
    columns = strips.columns(weights, by)
    if len(least) != len(columns) or columns != sorted(set(columns)):
        raise ValueError(
            f"--w={_W.value} --min_accuracy={_MIN_ACCURACY.value}: need ascending weights and one "
            "accuracy for each"
        )
    verdicts = svm_judge.judge(
        model.load_model(_WORKDIR.value),
        weights,
        classifier_weights=by,
        classifier=classifier,
        samples_per_label=_SAMPLES.value,
        seed=_SEED.value,
        num_steps=_NUM_STEPS.value,
    )
    print(svm_judge.table(verdicts))
    shortfalls = svm_judge.failures(verdicts, dict(zip(columns, least, strict=True)))
    for shortfall in shortfalls:
        print("falls short:", shortfall, file=sys.stderr)
    return 1 if shortfalls else 0


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    run(main)
