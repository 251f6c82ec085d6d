"""Draws guided samples from a trained model, at several guidance weights side by side.

    cfg-jax sample --workdir=runs/digits --w=0,1,3 --labels=all --num_steps=256

Writes an .npz and a PNG strip: rows are labels, columns are w, and a row has the same noise.
--labels takes class names too, as --labels=cat,dog.

--w and --classifier_w are paired. This example compares classifier-free guidance with classifier
guidance of the unconditional branch. --classifier_form=adm, with --upsampler_workdir, is ADM-G.

    cfg-jax sample --workdir=runs/digits --w=0,1,3,-1,-1,-1 \\
        --classifier_workdir=runs/digits_classifier --classifier_w=0,0,0,1,2,4

With --num_samples, all devices draw samples of one weight into files of --shard_size each. The same
command resumes. --batch_size and the number of devices change samples by rounding only.

    cfg-jax sample --workdir=runs/imagenet64 --w=0.1 --num_samples=50000 --out=samples
"""

from absl import flags

from . import flags as sampling
from .program import numbers, run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write to; <workdir>/samples if unset.")
_LABELS = flags.DEFINE_string(
    "labels", "all", "Comma-separated names or numbers of the strip's labels, or all."
)
_SAMPLES = flags.DEFINE_integer("samples_per_label", 1, "Rows of the strip per label.", 1)
_UPSAMPLER = flags.DEFINE_string("upsampler_workdir", None, "Folder of an upsampler's run.")
_UPSAMPLER_STEPS = flags.DEFINE_integer(
    "upsampler_num_steps", None, "Sampling steps T of the upsampler; its config's if unset.", 2
)
_UPSAMPLER_BATCH = flags.DEFINE_integer(
    "upsampler_batch_size", None, "Images upsampled at a time; --batch_size if unset.", 1
)
_SHARD_SIZE = flags.DEFINE_integer("shard_size", 1000, "Samples per file for --num_samples.", 1)
flags.FLAGS.set_default("w", "0,1,3")

_OF_FILES = ["label_plan", "shard_size"]
_OF_UPSAMPLER = ["upsampler_workdir", "upsampler_num_steps", "upsampler_batch_size"]


def check() -> None:
    """Raises ValueError for flags that cannot be read or conflict."""
    many = sampling.NUM_SAMPLES.value is not None
    for name in ["labels", "samples_per_label", *_OF_UPSAMPLER] if many else _OF_FILES:
        if flags.FLAGS[name].present:
            is_refused = "conflicts with --num_samples: leave one of them out"
            is_lacking = "needs --num_samples: give that too, or leave it out"
            raise ValueError(f"--{name} {is_refused if many else is_lacking}")
    sampling.check()
    for name in ("w", "classifier_w") if many else ():
        if len(numbers(name)) > 1:
            given = flags.FLAGS[name].value
            raise ValueError(f"--{name}={given}: give one weight with --num_samples")
    if many and _OUT.value is None:
        raise ValueError("--num_samples needs --out: give the folder to write samples to")


def _labels(drawn) -> list[int | str]:
    """--labels; a text is the name of a class if there is one, else a number."""
    if _LABELS.value == "all":
        return list(range(drawn.null_label))
    given = [text.strip() for text in _LABELS.value.split(",")]
    return [
        int(text) if text.isdecimal() and text not in drawn.label_names else text for text in given
    ]


def main(argv: list[str]) -> None:
    del argv
    from cfg_jax.io import files
    from cfg_jax.sampling import model

    out = files.folder(_OUT.value or f"{_WORKDIR.value}/samples")
    files.check_writable(out, "--out")
    settings, request = sampling.settings(), sampling.request()
    drawn = model.load_model(_WORKDIR.value, sampling.CHECKPOINT.value)
    many = sampling.NUM_SAMPLES.value is not None
    (_write_files if many else _write_strip)(drawn, out, settings, request)
    sampling.report_first_samples(drawn)


def _write_files(drawn, out, settings, request) -> None:
    """Writes --num_samples samples of one weight to files."""
    from cfg_jax.sampling import shards

    (w,), (classifier_w,) = numbers("w"), sampling.classifier_weights()
    wanted = sampling.samples(drawn, settings, w, classifier_w, request["classifier"])
    sizes = {"batch_size": request["batch_size"], "shard_size": _SHARD_SIZE.value}
    paths = shards.sample_to_files(wanted, out, **sizes)
    print(f"{sampling.NUM_SAMPLES.value} samples in {len(paths)} files of {out}")


def _write_strip(drawn, out, settings, request) -> None:
    """Writes a strip of a few samples of each label at all weights."""
    from cfg_jax.runtime import processes
    from cfg_jax.sampling import model, strips

    upsampler = None
    if _UPSAMPLER.value:
        upsampler = strips.Upsampler(
            model.load_model(_UPSAMPLER.value),
            strips.SamplingSettings(num_steps=_UPSAMPLER_STEPS.value),
            _UPSAMPLER_BATCH.value or sampling.BATCH_SIZE.value,
        )
    if not processes.is_first():  # one process draws the few samples of a strip
        return
    weights = numbers("w"), sampling.classifier_weights()
    request |= {"settings": settings, "samples_per_label": _SAMPLES.value}
    strip = strips.Strip(drawn, _labels(drawn), *weights, **request)
    for path in strips.write_guidance_strip(strip, out, upsampler):
        print(path)


if __name__ == "__main__":
    run(main, check=check)
