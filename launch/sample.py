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

from launch import flags as sampling
from launch.program import numbers, run, whole_numbers

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
_CHECKPOINT = flags.DEFINE_integer(
    "checkpoint", None, "Training step to load; the newest if unset."
)
_OUT = flags.DEFINE_string("out", None, "Folder to write to; <workdir>/samples if unset.")

_LABELS = flags.DEFINE_string("labels", "all", "Class indices of the strip's rows, or all.")
_SAMPLES = flags.DEFINE_integer("samples_per_label", 1, "Rows of the strip per label.", 1)
_UPSAMPLER = flags.DEFINE_string("upsampler_workdir", None, "Folder of the run of an upsampler.")
_UPSAMPLER_STEPS = flags.DEFINE_integer(
    "upsampler_num_steps", None, "Sampling steps T of the upsampler; its config's if unset.", 2
)
_UPSAMPLER_BATCH = flags.DEFINE_integer(
    "upsampler_batch_size", None, "Images enlarged at a time; --batch_size if unset.", 1
)

_SHARD_SIZE = flags.DEFINE_integer(
    "shard_size", 1000, "Samples per .npz shard, with --num_samples.", 1
)

flags.FLAGS.set_default("w", "0,1,3")

_OF_A_STRIP = (
    *("labels", "samples_per_label"),
    *("upsampler_workdir", "upsampler_num_steps", "upsampler_batch_size"),
)
_OF_FILES = ("label_plan", "shard_size")


def check() -> None:
    """Refuses flags that cannot be read or do not go together."""
    many = sampling.NUM_SAMPLES.value is not None
    for name in _OF_A_STRIP if many else _OF_FILES:
        if flags.FLAGS[name].present:
            raise ValueError(
                f"--{name} does not go with --num_samples: leave one of them out"
                if many
                else f"--{name} is of --num_samples: give that too, or leave it out"
            )
    sampling.check()
    if not many:
        _labels()
    elif len(numbers("w")) != 1:
        raise ValueError(f"--w={sampling.W.value}: give one weight with --num_samples")
    elif len(sampling.classifier_weights()) != 1:
        raise ValueError(
            f"--classifier_w={sampling.CLASSIFIER_W.value}: give one with --num_samples"
        )
    elif _OUT.value is None:
        raise ValueError("--num_samples without --out: say which folder the samples go to")


def _labels() -> list[int] | None:
    """--labels, None for all of them."""
    return None if _LABELS.value == "all" else whole_numbers("labels")


def main(argv: list[str]) -> None:
    del argv
    from cfg_jax.sampling import model

    request = {"settings": sampling.settings(), "classifier": sampling.load_classifier()}
    drawn = model.load_model(_WORKDIR.value, _CHECKPOINT.value)
    if sampling.NUM_SAMPLES.value is not None:
        _write_files(drawn, **request)
    else:
        _write_strip(drawn, **request)
    if drawn.first_sample_seconds is not None:  # None: this process had none left to draw
        print(f"first samples, with compiling: {drawn.first_sample_seconds:.1f} s")


def _write_files(drawn, settings, classifier) -> None:
    """--num_samples of one weight."""
    from cfg_jax.io import files
    from cfg_jax.sampling import shards

    (w,), (classifier_w,) = numbers("w"), sampling.classifier_weights()
    folder = files.folder(_OUT.value)
    paths = shards.sample_to_files(
        drawn,
        folder,
        num_samples=sampling.NUM_SAMPLES.value,
        label_plan=sampling.LABEL_PLAN.value,
        seed=sampling.SEED.value,
        sampling=settings.replace(w=w, classifier_w=classifier_w),
        classifier=classifier,
        batch_size=sampling.BATCH_SIZE.value,
        shard_size=_SHARD_SIZE.value,
    )
    print(f"{sampling.NUM_SAMPLES.value} samples in {len(paths)} files of {folder}")


def _write_strip(drawn, settings, classifier) -> None:
    """A few samples of each label, at all weights."""
    from cfg_jax.io import files
    from cfg_jax.runtime import processes
    from cfg_jax.sampling import model, strips
    from cfg_jax.sampling.settings import SamplingSettings

    upsampler = model.load_model(_UPSAMPLER.value) if _UPSAMPLER.value else None
    if not processes.is_first():  # a strip is of a few samples: one process draws it
        return
    for path in strips.write_guidance_strip(
        drawn,
        files.folder(_OUT.value or f"{_WORKDIR.value}/samples"),
        sampling.SEED.value,
        range(drawn.null_label) if _labels() is None else _labels(),
        numbers("w"),
        classifier_weights=sampling.classifier_weights(),
        settings=settings,
        classifier=classifier,
        upsampler=upsampler,
        upsampler_settings=SamplingSettings(num_steps=_UPSAMPLER_STEPS.value),
        upsampler_batch_size=_UPSAMPLER_BATCH.value or sampling.BATCH_SIZE.value,
        samples_per_label=_SAMPLES.value,
        batch_size=sampling.BATCH_SIZE.value,
    ):
        print(path)


if __name__ == "__main__":
    run(main, check=check)
