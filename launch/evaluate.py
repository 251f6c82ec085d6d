"""Evaluates a trained model on a split of its data.

    cfg-jax evaluate --workdir=runs/digits --metrics=fid,is --num_samples=5000 --w=0,1
    cfg-jax evaluate --workdir=runs/digits --likelihood --split=test --num_steps=256
    cfg-jax evaluate --workdir=runs/digits_classifier --accuracy --split=test

Needs exactly one of --metrics, --likelihood and --accuracy:

    --metrics       compares generated samples with the training split, once per --w. Results are
                    saved in <workdir>/evaluations, and an interrupted command resumes.
    --likelihood    prints the variational bound of a diffusion model in bits per dimension.
    --accuracy      prints the accuracy of a noisy classifier at several log-SNRs.

Metrics are called FID, sFID and IS only with --inception. Otherwise their titles name the feature
network; for digits it is by default a small classifier, trained on first use.
"""

from absl import flags

from . import features
from . import flags as sampling
from .program import numbers, run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
_LIKELIHOOD = flags.DEFINE_bool(
    "likelihood", False, "Print the variational bound of a diffusion model in bits per dimension."
)
_ACCURACY = flags.DEFINE_bool(
    "accuracy", False, "Print the accuracy of a noisy classifier at each of --logsnrs."
)
_SAVE_IMAGES = flags.DEFINE_bool(
    "save_images",
    False,
    "Also write the samples of --metrics as images_*.npz in <workdir>/evaluations.",
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
flags.FLAGS.set_default("num_samples", 50_000)


def check() -> None:
    """Raises ValueError for flags that cannot be read or conflict."""
    if sum([bool(features.METRICS.value), _LIKELIHOOD.value, _ACCURACY.value]) != 1:
        raise ValueError("need one measurement: give --metrics, --likelihood or --accuracy")
    sampling.check()
    numbers("logsnrs")


def main(argv: list[str]) -> None:
    del argv
    if features.METRICS.value:
        _compare_samples()
    else:
        _measure_examples()


def _compare_samples() -> None:
    """Evaluates and prints one result per guidance weight."""
    from cfg_jax import evaluation
    from cfg_jax.io import files
    from cfg_jax.sampling.model import load_model
    from cfg_jax.sampling.strips import columns

    pairs = columns(numbers("w"), sampling.classifier_weights())
    settings, classifier = sampling.settings(), sampling.load_classifier()
    model = load_model(_WORKDIR.value, sampling.CHECKPOINT.value)
    cells = [sampling.samples(model, settings, *pair, classifier) for pair in pairs]
    for cell in cells:
        evaluation.check_request(cell, features.METRICS.value)
    network, reference = features.network_and_reference(model, _WORKDIR.value)
    for cell in cells:
        result = evaluation.evaluate(
            cell,
            network,
            reference,
            folder=files.folder(_WORKDIR.value) / "evaluations",
            metrics=features.METRICS.value,
            batch_size=sampling.BATCH_SIZE.value,
            save_images=_SAVE_IMAGES.value,
        )
        print(evaluation.report(result), end="\n\n", flush=True)
    sampling.report_first_samples(model)


def _measure_examples() -> None:
    """Prints the --likelihood of a diffusion model or the --accuracy of a classifier."""
    from cfg_jax.core.schedules import logsnr_grid
    from cfg_jax.evaluation import likelihood
    from cfg_jax.sampling.model import load_classifier, load_model

    load = load_model if _LIKELIHOOD.value else load_classifier
    trained = load(_WORKDIR.value, sampling.CHECKPOINT.value)
    source = likelihood.open_data(trained, features.SPLIT.value or "test")
    options = {
        "seed": sampling.SEED.value,
        "batch_size": sampling.BATCH_SIZE.value,
        "num_examples": _NUM_EXAMPLES.value,
    }
    if _LIKELIHOOD.value:
        options |= {
            "num_steps": sampling.num_steps(),
            "logsnr_max": _LOGSNR_MAX.value,
            "logvar_interp": sampling.LOGVAR_INTERP.value,
        }
        print(likelihood.likelihood(trained, source, **options).report())
        return
    levels = numbers("logsnrs") or logsnr_grid(trained.experiment.schedule, 11).tolist()
    print(f"{'logsnr':>8}{'accuracy':>10}")
    for logsnr, fraction in likelihood.accuracy(trained, source, levels, **options).items():
        print(f"{logsnr:8.2f}{fraction:10.3f}")


if __name__ == "__main__":
    run(main, check=check)
