"""Flags of a request for samples, shared by the programs that draw some."""

from absl import flags

from . import solver
from .values import numbers, one_number, refuse, whole_numbers

W = flags.DEFINE_string(
    "w",
    "0",
    "Comma-separated weights w of classifier-free guidance; 0 is the conditional model, -1 the "
    "unconditional model.",
)
NUM_STEPS = flags.DEFINE_string(
    "num_steps",
    None,
    "Number of network calls T, at least 1 for ancestral and ddim, 2 or more for other solvers. If "
    "unset, the value in the config of the run.",
)
LOGVAR_INTERP = flags.DEFINE_float(
    "logvar_interp",
    None,
    "Number v in [0, 1]: variance of an ancestral step from its lower (0) to its upper (1) bound, "
    "interpolated geometrically; unused by other solvers and for a learned variance. If unset, the "
    "value in the config of the run.",
    lower_bound=0,
    upper_bound=1,
)
CLIP_X = flags.DEFINE_bool(
    "clip_x",
    None,
    "Clip the estimate x_hat of the clean data to [-1, 1] at every step. If unset, the value in "
    "the config of the run.",
)
RESPACING = flags.DEFINE_string(
    "respacing",
    None,
    'Timesteps of a discrete schedule, in place of --num_steps: "ddim25" takes 25 timesteps at an '
    'integer stride, "90,60,60,20,20" takes 90, 60, ... evenly spaced timesteps from 5 equal '
    "sections, the cleanest first.",
)
NOISE_TEMPERATURE = flags.DEFINE_string(
    "noise_temperature",
    "1",
    "Factor of the noise in ancestral steps, at least 0.",
)
SCORE_TEMPERATURE = flags.DEFINE_string(
    "score_temperature",
    "1",
    "Divisor of the guided eps_hat, above 0.",
)
CLASSIFIER_WORKDIR = flags.DEFINE_string(
    "classifier_workdir",
    None,
    "Folder of the training run of a noisy classifier for guidance; needs --classifier_w.",
)
CLASSIFIER_W = flags.DEFINE_string(
    "classifier_w",
    None,
    "Comma-separated weights of classifier guidance, with --classifier_workdir: one value, or one "
    "per --w. Weight c at --w=0 corresponds to c + 1 at --w=-1.",
)
CLASSIFIER_FORM = flags.DEFINE_enum(
    "classifier_form",
    "eps",
    ["eps", "adm"],
    "Quantity that classifier guidance shifts: eps_hat (eps), or as in ADM the mean of ancestral "
    "steps and the score of ddim steps (adm).",
)
CHECKPOINT = flags.DEFINE_integer(
    "checkpoint", None, "Training step of the checkpoint to load; the newest if unset."
)
SEED = flags.DEFINE_integer("seed", 0, "Random seed of the sampling noise.", 0, 2**32 - 1)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    256,
    "Number of samples or data examples computed at a time, over all devices; changes results by "
    "rounding only.",
    lower_bound=1,
)
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples",
    None,
    "Total number of generated samples.",
)
LABEL_PLAN = flags.DEFINE_enum(
    "label_plan",
    None,
    ["balanced", "random", "data"],
    "Labels of the --num_samples samples: sample i has class i modulo the number of classes "
    "(balanced), or a class drawn from --seed, uniformly (random) or as often as the training data "
    "has it (data). If unset, data if the largest class of the training data has more than twice "
    "the images of the smallest, and balanced otherwise.",
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
    solver.check()
    if any(count < 1 for count in whole_numbers("num_steps")):
        raise ValueError(f"--num_steps={NUM_STEPS.value}: give 1 step or more")
    if not CLASSIFIER_WORKDIR.value:
        refuse(["classifier_form"], "needs --classifier_workdir: give that too, or leave it out")
    if (CLASSIFIER_WORKDIR.value is None) != (CLASSIFIER_W.value is None):
        raise ValueError(
            f"--classifier_workdir={CLASSIFIER_WORKDIR.value or ''} "
            f"--classifier_w={CLASSIFIER_W.value or ''}: give both, or neither"
        )


def settings(*, lists: bool = False):
    """The `SamplingSettings` requested by the flags, without the two weights.

    With `lists`, --num_steps, the temperatures and the flags of `solver` may have several values
    and are omitted. Otherwise several values raise ValueError.
    """
    from cfg_jax.sampling.settings import SamplingSettings

    common = SamplingSettings(
        **({} if lists else solver.fields()),
        logvar_interp=LOGVAR_INTERP.value,
        clip_x=CLIP_X.value,
        respacing=RESPACING.value,
        classifier_form=CLASSIFIER_FORM.value,
    )
    if lists:
        return common
    count = num_steps()
    return common.replace(
        num_steps=common.num_steps if count is None else count,
        noise_temperature=one_number("noise_temperature"),
        score_temperature=one_number("score_temperature"),
    )


def variants() -> list:
    """`settings` with every combination of the values of the flags of `solver`."""
    common = settings(lists=True)
    return [common.replace(**fields) for fields in solver.combinations()]


def classifier_weights() -> list[float]:
    """--classifier_w, or [0.0] if unset."""
    return numbers("classifier_w") or [0.0]


def load_classifier():
    """The noisy classifier in --classifier_workdir, or None."""
    from cfg_jax.sampling.loading import load_classifier

    return load_classifier(CLASSIFIER_WORKDIR.value) if CLASSIFIER_WORKDIR.value else None


def request() -> dict:
    """Seed, batch size and guiding models, as keyword arguments for drawing samples."""
    return {
        "seed": SEED.value,
        "batch_size": BATCH_SIZE.value,
        "classifier": load_classifier(),
        "weaker": solver.load_weaker(),
    }


def samples(model, common, w: float, classifier_w: float, classifier, weaker=None):
    """The `Samples` requested by the flags at one pair of weights."""
    from cfg_jax.sampling.samples import Samples

    settings = common.replace(w=w, classifier_w=classifier_w)
    numbered = NUM_SAMPLES.value, LABEL_PLAN.value, SEED.value
    return Samples(model, *numbered, settings, classifier, weaker)


def report_first_samples(model) -> None:
    """Prints the duration of the first samples, if this process drew any."""
    if model.first_sample_seconds is not None:
        print(f"first samples, including compilation: {model.first_sample_seconds:.1f} s")
