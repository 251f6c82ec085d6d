"""Evaluates a trained model, or images of any program.

    cfg-jax evaluate --workdir=runs/digits --metrics=fid,is --num_samples=5000 --w=0,1
    cfg-jax evaluate --workdir=runs/digits --metrics=fid,is --samples=others.npz
    cfg-jax evaluate --workdir=runs/digits --likelihood --split=test --num_steps=256
    cfg-jax evaluate --workdir=runs/digits_classifier --accuracy --split=test

Needs exactly one of --metrics, --likelihood and --accuracy:

    --metrics       compares generated samples with the training split, once per --w. Results are
                    saved in <workdir>/evaluations, and an interrupted command resumes.
    --likelihood    prints the variational bound of a diffusion model in bits per dimension.
    --accuracy      prints the accuracy of a noisy classifier at several log-SNRs.

Metrics are called FID, sFID and IS only with --inception. Otherwise their titles name the feature
network, by default a small classifier of the same data, trained on first use.

--samples compares the images of a folder or .npz with the data of --workdir. --workdir is not
needed with --reference and --inception; results are then in evaluations beside the images.
"""

from pathlib import Path

from absl import flags

from . import examples, features, given, solver
from . import flags as sampling
from .program import run
from .values import adapt, numbers, refuse

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a training run; not needed with --samples and --reference."
)
_SAVE_IMAGES = flags.DEFINE_bool(
    "save_images",
    False,
    "Also write the samples of --metrics as images_*.npz in <workdir>/evaluations.",
)

adapt("num_samples", 50_000)
adapt("split", also="If unset, the training split, and test for --likelihood and --accuracy.")

_DRAWN = (
    *("w", "clip_x", "respacing", "noise_temperature", "score_temperature", *solver.FLAGS),
    *("classifier_workdir", "classifier_w", "classifier_form", "num_samples", "label_plan"),
    "save_images",
)
_OF_GRID = ("num_steps", "logvar_interp", "seed", "checkpoint")
_OF_SAMPLES = (*_DRAWN, "inception", "features_workdir", "reference", "samples")
_WITHOUT_EFFECT = {
    "metrics": ("logsnr_max", "logsnrs", "num_examples"),
    "likelihood": (*_OF_SAMPLES, "logsnrs"),
    "accuracy": (*_OF_SAMPLES, "num_steps", "logvar_interp", "logsnr_max"),
}


def check() -> None:
    """Raises ValueError for flags that cannot be read or conflict."""
    wanted = [kind for kind in _WITHOUT_EFFECT if flags.FLAGS[kind].value]
    if len(wanted) != 1:
        raise ValueError("need one measurement: give --metrics, --likelihood or --accuracy")
    refuse(_WITHOUT_EFFECT[wanted[0]], f"has no effect on --{wanted[0]}: leave it out")
    given.check(_WORKDIR.value, (*_DRAWN, *_OF_GRID))
    sampling.check()
    numbers("logsnrs")


def main(argv: list[str]) -> None:
    del argv
    if not features.METRICS.value:
        examples.measure(_WORKDIR.value)
    elif given.SAMPLES.value:
        images, model, folder = given.load(_WORKDIR.value)
        _evaluate([images], model, folder)
    else:
        _compare_samples()


def _compare_samples() -> None:
    """Evaluates and prints one result per guidance weight."""
    from cfg_jax.io import files
    from cfg_jax.sampling.loading import load_model
    from cfg_jax.sampling.strips import columns

    pairs = columns(numbers("w"), sampling.classifier_weights())
    settings = sampling.settings()
    models = sampling.load_classifier(), solver.load_weaker()
    model = load_model(_WORKDIR.value, sampling.CHECKPOINT.value)
    cells = [sampling.samples(model, settings, *pair, *models) for pair in pairs]
    _evaluate(cells, model, files.folder(_WORKDIR.value))
    sampling.report_first_samples(model)


def _evaluate(cells: list, model, folder: Path) -> None:
    """Evaluates and prints every cell; `<folder>/evaluations` keeps the results."""
    from cfg_jax import evaluation

    for cell in cells:
        evaluation.check_request(cell, features.METRICS.value)
    network, reference = features.network_and_reference(model, folder)
    for cell in cells:
        result = evaluation.evaluate(
            cell,
            network,
            reference,
            folder=folder / "evaluations",
            metrics=features.METRICS.value,
            batch_size=sampling.BATCH_SIZE.value,
            save_images=_SAVE_IMAGES.value,
        )
        print(evaluation.report(result), end="\n\n", flush=True)


if __name__ == "__main__":
    run(main, check=check)
