"""Measures a trained model on a split of its data.

    python -m launch.evaluate --workdir=runs/digits --likelihood --split=test --logsnr_max=10 \\
        --num_steps=256
    python -m launch.evaluate --workdir=runs/digits_classifier --accuracy --split=test

--likelihood prints the variational bound of a diffusion model in bits per dimension, --accuracy how
often a noisy classifier is right at some log-SNRs.
"""

from absl import flags

import cfg_jax
from cfg_jax import evaluate
from cfg_jax.model import load_classifier, load_model
from launch.program import numbers, run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
_LIKELIHOOD = flags.DEFINE_bool("likelihood", False, "Bits per dimension of a diffusion model.")
_ACCURACY = flags.DEFINE_bool("accuracy", False, "Of a noisy classifier.")
_SPLIT = flags.DEFINE_string("split", "test", "Of the data set it was trained on.")
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps T; the config's if unset.", 2)
_LOGSNR_MAX = flags.DEFINE_float(
    "logsnr_max", None, "Where --likelihood's grid ends; the schedule's end if unset."
)
_LOGVAR_INTERP = flags.DEFINE_float("logvar_interp", None, "The paper's v, in [0, 1].", 0, 1)
_LOGSNRS = flags.DEFINE_string(
    "logsnrs", None, "For --accuracy; eleven of the schedule's from noise to data if unset."
)
_NUM_EXAMPLES = flags.DEFINE_integer("num_examples", None, "The first so many; all if unset.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Examples at a time.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise.", 0, 2**32 - 1)
_CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Training step; the newest if unset.")


def main(argv: list[str]) -> None:
    del argv
    if _LIKELIHOOD.value == _ACCURACY.value:
        raise ValueError("say what to measure: one of --likelihood and --accuracy")
    load = load_model if _LIKELIHOOD.value else load_classifier
    trained = load(_WORKDIR.value, _CHECKPOINT.value)
    source = evaluate.open_data(trained, _SPLIT.value)
    options = {
        "seed": _SEED.value,
        "batch_size": _BATCH_SIZE.value,
        "num_examples": _NUM_EXAMPLES.value,
    }
    if _LIKELIHOOD.value:
        _print_likelihood(
            evaluate.likelihood(
                trained,
                source,
                num_steps=_NUM_STEPS.value,
                logsnr_max=_LOGSNR_MAX.value,
                logvar_interp=_LOGVAR_INTERP.value,
                **options,
            )
        )
        return
    if _LOGSNRS.value:
        levels = numbers("logsnrs", _LOGSNRS.value)
    else:
        schedule = trained.experiment.schedule
        levels = cfg_jax.logsnr_grid(schedule, 11).tolist()
    print(f"{'logsnr':>8}{'accuracy':>10}")
    for logsnr, share in evaluate.accuracy(trained, source, levels, **options).items():
        print(f"{logsnr:8.2f}{share:10.3f}")


def _print_likelihood(found: evaluate.Likelihood) -> None:
    for part in ("prior", "diffusion", "decoder"):
        print(f"{part:10}{getattr(found, part):9.4f}")
    print(
        f"{'total':10}{found.total:9.4f} +- {found.standard_error:.4f} bits/dim, "
        f"{found.num_examples} examples, T = {found.num_steps}"
    )


if __name__ == "__main__":
    run(main)
