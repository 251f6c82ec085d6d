"""Measures a trained model on a split of its data.

    python -m launch.evaluate --workdir=runs/digits --metrics=fid,is,precision_recall \\
        --num_samples=5000 --w=0,1
    python -m launch.evaluate --workdir=runs/cifar10 --metrics=fid,sfid,is --w=0.1 \\
        --inception=inception.safetensors
    python -m launch.evaluate --workdir=runs/digits --likelihood --split=test --logsnr_max=10 \\
        --num_steps=256
    python -m launch.evaluate --workdir=runs/digits_classifier --accuracy --split=test

--metrics compares samples with the split that the model was trained on, one cell for each --w,
kept in <workdir>/evaluations: started again, it goes on where it was. Numbers are called FID, sFID
and IS where --inception is given; digits are compared through a small classifier, and its numbers
by its name. --likelihood prints the variational bound of a diffusion model in bits per dimension,
--accuracy how often a noisy classifier is right at some log-SNRs.
"""

from absl import flags

import cfg_jax
from cfg_jax import evaluation
from cfg_jax.evaluation import likelihood
from cfg_jax.io import files
from cfg_jax.sampling import strips
from cfg_jax.sampling.model import load_classifier, load_model
from launch import features
from launch.program import guiding_classifier, numbers, run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
_METRICS = flags.DEFINE_list("metrics", [], f"Some of {', '.join(evaluation.METRICS)}.")
_LIKELIHOOD = flags.DEFINE_bool("likelihood", False, "Bits per dimension of a diffusion model.")
_ACCURACY = flags.DEFINE_bool("accuracy", False, "Of a noisy classifier.")
_SPLIT = flags.DEFINE_string(
    "split", None, "Of the data set; if unset the training split for --metrics, else test."
)
_CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Training step; the newest if unset.")
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps T; the config's if unset.", 2)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Examples at a time.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise.", 0, 2**32 - 1)

_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 50_000, "For --metrics.")
_LABEL_PLAN = flags.DEFINE_enum(
    "label_plan", "balanced", evaluation.LABEL_PLANS, "Labels in turn, or drawn from the seed."
)
_W = flags.DEFINE_string("w", "0", "Guidance weights; 0 is conditional, -1 unconditional.")
_STEP = flags.DEFINE_enum("step", None, ["ancestral", "ddim"], "Step rule; the config's if unset.")
_LOGVAR_INTERP = flags.DEFINE_float("logvar_interp", None, "The paper's v, in [0, 1].", 0, 1)
_CLIP_X = flags.DEFINE_bool("clip_x", None, "Clip x_hat; as the config says if unset.")
_RESPACING = flags.DEFINE_string("respacing", None, "Of a discrete schedule, such as ddim25.")
_CLASSIFIER = flags.DEFINE_string("classifier_workdir", None, "Folder of a classifier's run.")
_CLASSIFIER_W = flags.DEFINE_string("classifier_w", None, "Its weights: one, or one for each --w.")
_CLASSIFIER_FORM = flags.DEFINE_enum(
    "classifier_form", "eps", ["eps", "adm"], "Guide eps_hat, or as ADM: the mean or the score."
)
_NOISE_TEMPERATURE = flags.DEFINE_float("noise_temperature", 1.0, "Factor of the steps' noise.")
_SCORE_TEMPERATURE = flags.DEFINE_float("score_temperature", 1.0, "Divides eps_hat.")
_SAVE_IMAGES = flags.DEFINE_bool("save_images", False, "Also write the samples, images_*.npz.")

_LOGSNR_MAX = flags.DEFINE_float(
    "logsnr_max", None, "Where --likelihood's grid ends; the schedule's end if unset."
)
_LOGSNRS = flags.DEFINE_string(
    "logsnrs", None, "For --accuracy; eleven of the schedule's from noise to data if unset."
)
_NUM_EXAMPLES = flags.DEFINE_integer("num_examples", None, "The first so many; all if unset.", 1)


def main(argv: list[str]) -> None:
    del argv
    asked = [bool(_METRICS.value), _LIKELIHOOD.value, _ACCURACY.value]
    if sum(asked) != 1:
        raise ValueError("say what to measure: one of --metrics, --likelihood and --accuracy")
    if _METRICS.value:
        _compare_samples()
        return
    load = load_model if _LIKELIHOOD.value else load_classifier
    trained = load(_WORKDIR.value, _CHECKPOINT.value)
    source = likelihood.open_data(trained, _SPLIT.value or "test")
    options = {
        "seed": _SEED.value,
        "batch_size": _BATCH_SIZE.value,
        "num_examples": _NUM_EXAMPLES.value,
    }
    if _LIKELIHOOD.value:
        _print_likelihood(
            likelihood.likelihood(
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
    for logsnr, share in likelihood.accuracy(trained, source, levels, **options).items():
        print(f"{logsnr:8.2f}{share:10.3f}")


def _compare_samples() -> None:
    """One cell for each guidance weight."""
    weights = numbers("w", _W.value)
    classifier, by = guiding_classifier(_CLASSIFIER.value, _CLASSIFIER_W.value, weights)
    model = load_model(_WORKDIR.value, _CHECKPOINT.value)
    evaluation.check_request(model, _METRICS.value, _NUM_SAMPLES.value, _LABEL_PLAN.value)
    network = features.feature_network(model, _WORKDIR.value)
    folder = files.folder(_WORKDIR.value) / "evaluations"
    reference = features.reference(
        model, network, folder, split=_SPLIT.value, with_rows="precision_recall" in _METRICS.value
    )
    for w, classifier_w in strips.columns(weights, by):
        result = evaluation.evaluate(
            model,
            network,
            reference,
            folder=folder,
            metrics=_METRICS.value,
            num_samples=_NUM_SAMPLES.value,
            label_plan=_LABEL_PLAN.value,
            seed=_SEED.value,
            sampling=evaluation.Sampling(
                w=w,
                num_steps=_NUM_STEPS.value,
                step=_STEP.value,
                logvar_interp=_LOGVAR_INTERP.value,
                clip_x=_CLIP_X.value,
                respacing=_RESPACING.value,
                classifier_w=classifier_w,
                classifier_form=_CLASSIFIER_FORM.value,
                noise_temperature=_NOISE_TEMPERATURE.value,
                score_temperature=_SCORE_TEMPERATURE.value,
            ),
            classifier=classifier,
            batch_size=_BATCH_SIZE.value,
            save_images=_SAVE_IMAGES.value,
        )
        print(evaluation.report(result), end="\n\n", flush=True)
    if model.first_sample_seconds is not None:  # None: every cell was there
        print(f"first samples, with compiling: {model.first_sample_seconds:.1f} s")


def _print_likelihood(found: likelihood.Likelihood) -> None:
    for part in ("prior", "diffusion", "decoder"):
        print(f"{part:10}{getattr(found, part):9.4f}")
    print(
        f"{'total':10}{found.total:9.4f} +- {found.standard_error:.4f} bits/dim, "
        f"{found.num_examples} examples, T = {found.num_steps}"
    )


if __name__ == "__main__":
    run(main)
