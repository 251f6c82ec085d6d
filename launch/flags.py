"""The flags of a request for samples, the same in every program that draws some.

A program that imports this module has them. `check` is for `program.run`: it refuses values that
cannot be used without a library, before JAX is imported.
"""

from absl import flags

from launch.program import numbers, one_number, whole_numbers

W = flags.DEFINE_string("w", "0", "Guidance weights w; 0 is conditional, -1 unconditional.")
NUM_STEPS = flags.DEFINE_string(
    "num_steps", None, "Number of sampling steps T, at least 2; the config's if unset."
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
    'Timesteps of a discrete schedule, instead of --num_steps: "ddim25" or "90,60,60,20,20".',
)
NOISE_TEMPERATURE = flags.DEFINE_string(
    "noise_temperature", "1", "Factor of the noise of ancestral steps, 0 or more."
)
SCORE_TEMPERATURE = flags.DEFINE_string(
    "score_temperature", "1", "Divisor of the guided eps_hat, above 0."
)
CLASSIFIER_WORKDIR = flags.DEFINE_string(
    "classifier_workdir", None, "Folder of the run of a noisy classifier, which guides as well."
)
CLASSIFIER_W = flags.DEFINE_string(
    "classifier_w",
    None,
    "Classifier guidance weight; one value, or one per --w. w + 1 where --w is -1.",
)
CLASSIFIER_FORM = flags.DEFINE_enum(
    "classifier_form",
    "eps",
    ["eps", "adm"],
    "Classifier guidance of eps_hat, or ADM's: of the mean (ancestral) or the score (ddim).",
)
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Training step; the newest if unset.")
SEED = flags.DEFINE_integer("seed", 0, "Random seed of the sampling noise.", 0, 2**32 - 1)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 256, "Number of samples drawn at a time.", lower_bound=1
)
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Number of samples; writes .npz shards in launch.sample."
)
LABEL_PLAN = flags.DEFINE_enum(
    "label_plan",
    "balanced",
    ["balanced", "random"],
    "Labels of --num_samples: each class in turn, or random from the seed.",
)


def num_steps() -> int | None:
    """--num_steps, None where it is unset; ValueError for several values."""
    return int(one_number("num_steps")) if NUM_STEPS.value else None


def check() -> None:
    """Raises ValueError for a sampling flag whose value cannot be read, or that lacks another."""
    if not numbers("w"):
        raise ValueError("--w is empty: give one guidance weight or more")
    for name in ("classifier_w", "noise_temperature", "score_temperature"):
        numbers(name)
    if any(count < 2 for count in whole_numbers("num_steps")):
        raise ValueError(f"--num_steps={NUM_STEPS.value}: need 2 steps or more")
    if (CLASSIFIER_WORKDIR.value is None) != (CLASSIFIER_W.value is None):
        raise ValueError(
            f"--classifier_workdir={CLASSIFIER_WORKDIR.value or ''} "
            f"--classifier_w={CLASSIFIER_W.value or ''}: give both, or neither"
        )


def settings(*, lists: bool = False):
    """The `SamplingSettings` that the flags ask for, without the two weights.

    Args:
      lists: whether the program makes one request for each value of --num_steps and of the
        temperatures, which are left out then.

    Raises:
      ValueError: several values of a flag where a request has one.
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
    """--classifier_w, or one weight of 0."""
    return numbers("classifier_w") or [0.0]


def load_classifier():
    """The noisy classifier in --classifier_workdir, or None."""
    from cfg_jax.sampling.model import load_classifier

    return load_classifier(CLASSIFIER_WORKDIR.value) if CLASSIFIER_WORKDIR.value else None


def request() -> dict:
    """Seed, batch size and classifier: arguments of whatever draws samples."""
    return {
        "seed": SEED.value,
        "batch_size": BATCH_SIZE.value,
        "classifier": load_classifier(),
    }


def samples(model, common, w: float, classifier_w: float, classifier):
    """The `Samples` that the flags ask for at one pair of weights."""
    from cfg_jax.sampling.samples import Samples

    settings = common.replace(w=w, classifier_w=classifier_w)
    numbered = NUM_SAMPLES.value, LABEL_PLAN.value, SEED.value
    return Samples(model, *numbered, settings, classifier)


def report_first_samples(model) -> None:
    """Prints how long the first samples took; nothing where this process drew none."""
    if model.first_sample_seconds is not None:
        print(f"first samples, with compiling: {model.first_sample_seconds:.1f} s")
