"""Flags of a request for samples, shared by the programs that draw some."""

from absl import flags

from .program import numbers, one_number, whole_numbers

W = flags.DEFINE_string(
    "w", "0", "Comma-separated guidance weights w; 0 is conditional, -1 unconditional."
)
NUM_STEPS = flags.DEFINE_string(
    "num_steps", None, "Sampling steps T, 2 or more; a list in sweep; the config's if unset."
)
STEP = flags.DEFINE_enum("step", None, ["ancestral", "ddim"], "Step rule; the config's if unset.")
LOGVAR_INTERP = flags.DEFINE_float(
    "logvar_interp",
    None,
    "Interpolation v between the two variances of an ancestral step; the config's if unset.",
    lower_bound=0,
    upper_bound=1,
)
CLIP_X = flags.DEFINE_bool("clip_x", None, "Clip x_hat to [-1, 1]; the config's if unset.")
RESPACING = flags.DEFINE_string(
    "respacing",
    None,
    'Timesteps of a discrete schedule, such as "ddim25" or "90,60,60,20,20"; replaces --num_steps.',
)
NOISE_TEMPERATURE = flags.DEFINE_string(
    "noise_temperature", "1", "Factor, at least 0, of the noise in ancestral steps."
)
SCORE_TEMPERATURE = flags.DEFINE_string(
    "score_temperature", "1", "Divisor, above 0, of the guided eps_hat."
)
CLASSIFIER_WORKDIR = flags.DEFINE_string(
    "classifier_workdir", None, "Folder of a noisy classifier's run for classifier guidance."
)
CLASSIFIER_W = flags.DEFINE_string(
    "classifier_w",
    None,
    "Classifier guidance weight; one value, or one per --w. At --w=-1, w + 1 matches w at --w=0.",
)
CLASSIFIER_FORM = flags.DEFINE_enum(
    "classifier_form",
    "eps",
    ["eps", "adm"],
    "Classifier guidance of eps_hat (eps), or of the mean in ancestral steps and the score in ddim "
    "steps (adm).",
)
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Training step to load; the newest if unset.")
SEED = flags.DEFINE_integer("seed", 0, "Random seed of the sampling noise.", 0, 2**32 - 1)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 256, "Number of samples or examples computed at a time.", lower_bound=1
)
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Total number of samples; sample then writes .npz shards to --out."
)
LABEL_PLAN = flags.DEFINE_enum(
    "label_plan",
    "balanced",
    ["balanced", "random"],
    "Labels of the --num_samples samples: each class in turn, or random from --seed.",
)


def num_steps() -> int | None:
    """--num_steps, or None if unset; ValueError for several values."""
    return int(one_number("num_steps")) if NUM_STEPS.value else None


def check() -> None:
    """Raises ValueError for a sampling flag that is unreadable or needs another flag."""
    if not numbers("w"):
        raise ValueError("--w is empty: give one guidance weight or more")
    for name in ("classifier_w", "noise_temperature", "score_temperature"):
        numbers(name)
    if any(count < 2 for count in whole_numbers("num_steps")):
        raise ValueError(f"--num_steps={NUM_STEPS.value}: give 2 steps or more")
    if (CLASSIFIER_WORKDIR.value is None) != (CLASSIFIER_W.value is None):
        raise ValueError(
            f"--classifier_workdir={CLASSIFIER_WORKDIR.value or ''} "
            f"--classifier_w={CLASSIFIER_W.value or ''}: give both, or neither"
        )


def settings(*, lists: bool = False):
    """The `SamplingSettings` requested by the flags, without the two weights.

    With `lists`, --num_steps and the temperatures may have several values and are omitted.
    Otherwise several values raise ValueError.
    """
    from cfg_jax.sampling.settings import SamplingSettings

    common = SamplingSettings(
        step=STEP.value,
        logvar_interp=LOGVAR_INTERP.value,
        clip_x=CLIP_X.value,
        respacing=RESPACING.value,
        classifier_form=CLASSIFIER_FORM.value,
    )
    if lists:
        return common
    return common.replace(
        num_steps=num_steps(),
        noise_temperature=one_number("noise_temperature"),
        score_temperature=one_number("score_temperature"),
    )


def classifier_weights() -> list[float]:
    """--classifier_w, or [0.0] if unset."""
    return numbers("classifier_w") or [0.0]


def load_classifier():
    """The noisy classifier in --classifier_workdir, or None."""
    from cfg_jax.sampling.model import load_classifier

    return load_classifier(CLASSIFIER_WORKDIR.value) if CLASSIFIER_WORKDIR.value else None


def request() -> dict:
    """Seed, batch size and classifier, as keyword arguments for drawing samples."""
    return {
        "seed": SEED.value,
        "batch_size": BATCH_SIZE.value,
        "classifier": load_classifier(),
    }


def samples(model, common, w: float, classifier_w: float, classifier):
    """The `Samples` requested by the flags at one pair of weights."""
    from cfg_jax.sampling.samples import Samples

    settings = common.replace(w=w, classifier_w=classifier_w)
    numbered = NUM_SAMPLES.value, LABEL_PLAN.value, SEED.value
    return Samples(model, *numbered, settings, classifier)


def report_first_samples(model) -> None:
    """Prints the duration of the first samples, if this process drew any."""
    if model.first_sample_seconds is not None:
        print(f"first samples, including compilation: {model.first_sample_seconds:.1f} s")
