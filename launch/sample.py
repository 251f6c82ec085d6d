"""Draws guided samples of a trained model, at several guidance weights side by side.

    python -m launch.sample --workdir=runs/digits --w=0,1,3 --labels=all --num_steps=256

Writes an .npz and a PNG strip: rows are labels, columns are w, the same noise along a row.

A noisy classifier guides as well, or instead: --w and --classifier_w are paired, so that this puts
classifier-free guidance beside classifier guidance of the unconditional branch,

    python -m launch.sample --workdir=runs/digits --w=0,1,3,-1,-1,-1 \\
        --classifier_workdir=runs/digits_classifier --classifier_w=0,0,0,1,2,4

and ADM-G with its upsampler is

    python -m launch.sample --workdir=runs/adm64 --w=0 --labels=0,207,979 \\
        --classifier_workdir=runs/adm64_classifier --classifier_w=1 --classifier_form=adm \\
        --upsampler_workdir=runs/adm64_256 --upsampler_batch_size=4

Very many samples of one weight, for others to measure, go into files of --shard_size each,

    python -m launch.sample --workdir=runs/imagenet64 --w=0.1 --num_samples=50000 --out=samples

over all devices of all processes. Killed at any moment and started again it goes on, and ends with
the same samples; another --batch_size or number of devices changes them by rounding only.
"""

from absl import flags

from cfg_jax import evaluation
from cfg_jax.io import files
from cfg_jax.runtime import processes
from cfg_jax.sampling import model, shards, strips
from launch.program import guiding_classifier, numbers, run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
_W = flags.DEFINE_string("w", "0,1,3", "Guidance weights; 0 is conditional, -1 unconditional.")
_LABELS = flags.DEFINE_string("labels", "all", "Class indices with commas between, or all.")
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps T; the config's if unset.", 2)
_STEP = flags.DEFINE_enum("step", None, ["ancestral", "ddim"], "Step rule; the config's if unset.")
_LOGVAR_INTERP = flags.DEFINE_float("logvar_interp", None, "The paper's v, in [0, 1].")
_SAMPLES = flags.DEFINE_integer("samples_per_label", 1, "Rows for each label.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Samples at a time.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise.", 0, 2**32 - 1)
_CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Training step; the newest if unset.")
_RESPACING = flags.DEFINE_string(
    "respacing", None, 'Of a discrete schedule, instead of --num_steps: "ddim25", "90,60,60,20,20".'
)
_CLASSIFIER = flags.DEFINE_string("classifier_workdir", None, "Folder of a classifier's run.")
_CLASSIFIER_W = flags.DEFINE_string(
    "classifier_w", None, "Its weights: one, or one for each --w; w + 1 where --w is -1."
)
_CLASSIFIER_FORM = flags.DEFINE_enum(
    "classifier_form", "eps", ["eps", "adm"], "Guide eps_hat, or as ADM: the mean or the score."
)
_UPSAMPLER = flags.DEFINE_string("upsampler_workdir", None, "Folder of an upsampler's run.")
_UPSAMPLER_STEPS = flags.DEFINE_integer(
    "upsampler_num_steps", None, "Its steps T; its config's if unset.", 2
)
_UPSAMPLER_BATCH = flags.DEFINE_integer(
    "upsampler_batch_size", None, "Images that it enlarges at a time; --batch_size if unset.", 1
)
_OUT = flags.DEFINE_string("out", None, "Folder to write to; <workdir>/samples if unset.")

_NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "So many, in files in --out.")
_LABEL_PLAN = flags.DEFINE_enum(
    "label_plan", "balanced", evaluation.LABEL_PLANS, "Of --num_samples: in turn, or random."
)
_SHARD_SIZE = flags.DEFINE_integer("shard_size", 1000, "Of --num_samples: in a file.", 1)
_OF_A_STRIP = (
    "labels",
    "samples_per_label",
    "upsampler_workdir",
    "upsampler_num_steps",
    "upsampler_batch_size",
)
_OF_FILES = ("label_plan", "shard_size")


def main(argv: list[str]) -> None:
    del argv
    many = _NUM_SAMPLES.value is not None
    for name in _OF_A_STRIP if many else _OF_FILES:
        if flags.FLAGS[name].present:
            raise ValueError(
                f"--{name} does not go with --num_samples: leave one of them out"
                if many
                else f"--{name} is of --num_samples: give that too, or leave it out"
            )
    if many:
        _write_files()
    else:
        _write_strip()


def _write_files() -> None:
    """--num_samples of one weight."""
    weights = numbers("w", _W.value)
    if len(weights) != 1:
        raise ValueError(f"--w={_W.value}: give one weight with --num_samples")
    if _OUT.value is None:
        raise ValueError("--num_samples without --out: say which folder the samples go to")
    classifier, by = guiding_classifier(_CLASSIFIER.value, _CLASSIFIER_W.value, weights)
    if len(by) != 1:
        raise ValueError(f"--classifier_w={_CLASSIFIER_W.value}: give one with --num_samples")
    folder = files.folder(_OUT.value)
    drawn = model.load_model(_WORKDIR.value, _CHECKPOINT.value)
    paths = shards.sample_to_files(
        drawn,
        folder,
        num_samples=_NUM_SAMPLES.value,
        label_plan=_LABEL_PLAN.value,
        seed=_SEED.value,
        sampling=evaluation.Sampling(
            w=weights[0],
            num_steps=_NUM_STEPS.value,
            step=_STEP.value,
            logvar_interp=_LOGVAR_INTERP.value,
            respacing=_RESPACING.value,
            classifier_w=by[0],
            classifier_form=_CLASSIFIER_FORM.value,
        ),
        classifier=classifier,
        batch_size=_BATCH_SIZE.value,
        shard_size=_SHARD_SIZE.value,
    )
    if drawn.first_sample_seconds is not None:  # None: this process had none left to draw
        print(f"first samples, with compiling: {drawn.first_sample_seconds:.1f} s")
    print(f"{_NUM_SAMPLES.value} samples in {len(paths)} files of {folder}")


def _write_strip() -> None:
    """A few samples of each label, at all weights."""
    weights = numbers("w", _W.value)
    labels = None if _LABELS.value == "all" else numbers("labels", _LABELS.value)
    if labels is not None and not all(label.is_integer() for label in labels):
        raise ValueError(f"--labels={_LABELS.value}: need whole numbers, or all")
    classifier, classifier_weights = guiding_classifier(
        _CLASSIFIER.value, _CLASSIFIER_W.value, weights
    )
    drawn = model.load_model(_WORKDIR.value, _CHECKPOINT.value)
    upsampler = model.load_model(_UPSAMPLER.value) if _UPSAMPLER.value else None
    if not processes.is_first():  # a strip is of a few samples: one process draws it
        return
    chosen = range(drawn.null_label) if labels is None else [int(label) for label in labels]
    for path in strips.write_guidance_strip(
        drawn,
        files.folder(_OUT.value or f"{_WORKDIR.value}/samples"),
        _SEED.value,
        chosen,
        weights,
        classifier_weights=classifier_weights,
        upsampler=upsampler,
        upsampler_options={
            "num_steps": _UPSAMPLER_STEPS.value,
            "batch_size": _UPSAMPLER_BATCH.value or _BATCH_SIZE.value,
        },
        samples_per_label=_SAMPLES.value,
        batch_size=_BATCH_SIZE.value,
        num_steps=_NUM_STEPS.value,
        step=_STEP.value,
        logvar_interp=_LOGVAR_INTERP.value,
        respacing=_RESPACING.value,
        classifier=classifier,
        classifier_form=_CLASSIFIER_FORM.value,
    ):
        print(path)
    print(f"first samples, with compiling: {drawn.first_sample_seconds:.1f} s")


if __name__ == "__main__":
    run(main)
