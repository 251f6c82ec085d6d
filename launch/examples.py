"""Flags and measurements of --likelihood and --accuracy, on the examples of a split."""

from pathlib import Path

from absl import flags

from . import features
from . import flags as sampling
from .values import numbers

LIKELIHOOD = flags.DEFINE_bool(
    "likelihood", False, "Print the variational bound of a diffusion model in bits per dimension."
)
ACCURACY = flags.DEFINE_bool(
    "accuracy", False, "Print the accuracy of a noisy classifier at each of --logsnrs."
)
_LOGSNR_MAX = flags.DEFINE_float(
    "logsnr_max",
    None,
    "Largest log-SNR of the grid for --likelihood; if unset, the largest of the noise schedule.",
)
_LOGSNRS = flags.DEFINE_string(
    "logsnrs",
    None,
    "Comma-separated log-SNRs at which --accuracy is measured; if unset, 11 from noise to data.",
)
_NUM_EXAMPLES = flags.DEFINE_integer(
    "num_examples",
    None,
    "Number of examples for --likelihood and --accuracy, the first of --split; all if unset.",
    1,
)


def measure(workdir: str | Path) -> None:
    """Prints the --likelihood of a diffusion model or the --accuracy of a classifier."""
    from cfg_jax.core.schedules import logsnr_grid
    from cfg_jax.evaluation import likelihood
    from cfg_jax.sampling.loading import load_classifier, load_model

    load = load_model if LIKELIHOOD.value else load_classifier
    trained = load(workdir, sampling.CHECKPOINT.value)
    source = likelihood.open_data(trained, features.SPLIT.value or "test")
    options = {
        "seed": sampling.SEED.value,
        "batch_size": sampling.BATCH_SIZE.value,
        "num_examples": _NUM_EXAMPLES.value,
    }
    if LIKELIHOOD.value:
        options |= {
            "num_steps": sampling.num_steps(),
            "logsnr_max": _LOGSNR_MAX.value,
            "logvar_interp": sampling.LOGVAR_INTERP.value,
        }
        found = likelihood.likelihood(trained, source, **options)
        print(found.report(images=len(trained.shape) == 3))
        return
    levels = numbers("logsnrs") or logsnr_grid(trained.experiment.schedule, 11).tolist()
    found = likelihood.accuracy(trained, source, levels, **options)
    print(f"{'logsnr':>8}{'accuracy':>10}")
    for logsnr, fraction in found.items():
        print(f"{logsnr:8.2f}{fraction:10.3f}")
