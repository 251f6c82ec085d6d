"""Has a support vector machine trained on the real images label samples of a trained model.

    python -m launch.judge --workdir=runs/digits --w=0,1,3 --min_accuracy=0.97,0.99,0.99

Prints accuracy and spread within the classes at each w, and exits with 1 if the samples fall
short: an accuracy below --min_accuracy, or a spread that does not fall as w grows.
"""

import sys

from absl import flags

import cfg_jax
from cfg_jax import judge
from launch.program import numbers, run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
_W = flags.DEFINE_string("w", "0,1,3", "Guidance weights, ascending.")
_MIN_ACCURACY = flags.DEFINE_string("min_accuracy", "0.97,0.99,0.99", "Least accuracy at each w.")
_SAMPLES = flags.DEFINE_integer("samples_per_label", 50, "Samples a class at each w.", 2)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise.", 0, 2**32 - 1)
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps T; the config's if unset.", 2)


def main(argv: list[str]) -> int:
    del argv
    weights = numbers("w", _W.value)
    least = numbers("min_accuracy", _MIN_ACCURACY.value)
    if len(least) != len(weights) or weights != sorted(set(weights)):
        raise ValueError(
            f"--w={_W.value} --min_accuracy={_MIN_ACCURACY.value}: need ascending weights and one "
            "accuracy for each"
        )
    model = cfg_jax.load(_WORKDIR.value)
    verdicts = judge.judge(
        model,
        weights,
        samples_per_label=_SAMPLES.value,
        seed=_SEED.value,
        num_steps=_NUM_STEPS.value,
    )
    print(judge.table(verdicts))
    shortfalls = judge.failures(verdicts, dict(zip(weights, least, strict=True)))
    for shortfall in shortfalls:
        print("falls short:", shortfall, file=sys.stderr)
    return 1 if shortfalls else 0


if __name__ == "__main__":
    run(main)
