"""Draws guided samples from a trained model, at several guidance weights side by side.

    cfg-jax sample --workdir=runs/digits --w=0,1,3 --labels=all --num_steps=256

Writes one .npz and one PNG: a row per label, a column per w, with the same noise along a row.

--w and --classifier_w are lists of equal length, or one has length 1. This example compares
classifier-free guidance (columns 1 to 3) with classifier guidance of the unconditional model
(columns 4 to 6):

    cfg-jax sample --workdir=runs/digits --w=0,1,3,-1,-1,-1 \\
        --classifier_workdir=runs/digits_classifier --classifier_w=0,0,0,1,2,4

--classifier_form=adm is ADM-G (Dhariwal & Nichol 2021); --upsampler_workdir adds its upsampler.

With --num_samples, all devices draw samples at one w and write .npz files of --shard_size samples:

    cfg-jax sample --workdir=runs/imagenet64 --w=0.1 --num_samples=50000 --out=samples

After an interruption, run the same command to continue. --batch_size and the number of devices
change samples by rounding only.
"""

from absl import flags

from . import flags as sampling
from . import upsampler
from .program import run
from .values import adapt, numbers, refuse

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a training run; required.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Folder to write to; <workdir>/samples if unset.")
_LABELS = flags.DEFINE_string(
    "labels",
    "all",
    "Comma-separated class names, or indices from 0, or all; not with --num_samples. The number of "
    "classes K as an index means no label; all is 0 to K - 1, without it.",
)
_SAMPLES = flags.DEFINE_integer(
    "samples_per_label",
    1,
    "Number of samples per label at each w, each in a row of its own; not with --num_samples.",
    1,
)
_SHARD_SIZE = flags.DEFINE_integer(
    "shard_size", 1000, "Number of samples per .npz file; only with --num_samples.", 1
)
_TELEMETRY = flags.DEFINE_bool(
    "telemetry",
    False,
    "Also measure guidance in every call and write a plot and an .npz; not with --num_samples.",
)
adapt("w", "0,1,3")
adapt(
    "num_samples",
    also="Writes them to --out as .npz files; if unset, a few samples become one picture.",
)


def check() -> None:
    """Raises ValueError for flags that cannot be read or conflict."""
    many = sampling.NUM_SAMPLES.value is not None
    if many:
        conflicting = ["labels", "samples_per_label", "telemetry", *upsampler.FLAGS]
        refuse(conflicting, "conflicts with --num_samples: leave one of them out")
    else:
        refuse(["label_plan", "shard_size"], "needs --num_samples: give that too, or leave it out")
    if not upsampler.WORKDIR.value:
        refuse(upsampler.FLAGS, "needs --upsampler_workdir: give that too, or leave it out")
    sampling.check()
    for name in ("w", "classifier_w") if many else ():
        if len(numbers(name)) > 1:
            if not flags.FLAGS[name].present:
                raise ValueError("--num_samples draws at one weight: give it, as --w=1")
            given = flags.FLAGS[name].value
            raise ValueError(f"--{name}={given}: give one weight with --num_samples")
    if many and _OUT.value is None:
        raise ValueError("--num_samples needs --out: give the folder to write samples to")


def _labels(drawn) -> list[int | str]:
    """--labels; a text is the name of a class if there is one, else a number."""
    if _LABELS.value == "all":
        return list(range(drawn.null_label))
    known, given = drawn.label_names, [text.strip() for text in _LABELS.value.split(",")]
    return [int(name) if name.isdecimal() and name not in known else name for name in given]


def main(argv: list[str]) -> None:
    del argv
    from cfg_jax.io import files
    from cfg_jax.sampling import loading

    out = files.folder(_OUT.value or f"{_WORKDIR.value}/samples")
    files.check_writable(out, "--out")
    settings, request = sampling.settings(), sampling.request()
    drawn = loading.load_model(_WORKDIR.value, sampling.CHECKPOINT.value)
    many = sampling.NUM_SAMPLES.value is not None
    (_write_files if many else _write_strip)(drawn, out, settings, request)
    sampling.report_first_samples(drawn)


def _write_files(drawn, out, settings, request) -> None:
    """Writes --num_samples samples of one weight to files."""
    from cfg_jax.sampling import shards

    (w,), (classifier_w,) = numbers("w"), sampling.classifier_weights()
    models = request["classifier"], request["weaker"]
    wanted = sampling.samples(drawn, settings, w, classifier_w, *models)
    sizes = {"batch_size": request["batch_size"], "shard_size": _SHARD_SIZE.value}
    paths = shards.sample_to_files(wanted, out, **sizes)
    print(f"{sampling.NUM_SAMPLES.value} samples in {len(paths)} files of {out}")


def _write_strip(drawn, out, settings, request) -> None:
    """Writes a strip of a few samples of each label at all weights."""
    from cfg_jax.runtime import processes
    from cfg_jax.sampling import strips

    enlarge = upsampler.load()
    if not processes.is_first():  # one process draws the few samples of a strip
        return
    weaker = request["weaker"] is not None
    if _TELEMETRY.value and not drawn.filled(settings).has_branch(drawn.experiment, weaker):
        raise ValueError(
            "--telemetry of a network without a null label: give --weaker_workdir or "
            "--against=random"
        )
    weights = numbers("w"), sampling.classifier_weights()
    request |= {"settings": settings, "samples_per_label": _SAMPLES.value}
    strip = strips.Strip(drawn, _labels(drawn), *weights, **request)
    archive, picture = strips.write_guidance_strip(strip, out, enlarge)
    print(archive, picture, sep="\n")
    if _TELEMETRY.value:
        from cfg_jax.study import files

        print(*files.write_telemetry(strip.telemetry(), archive), sep="\n")


if __name__ == "__main__":
    run(main, check=check)
