"""Compares samples with their nearest training images, to find copies.

    cfg-jax neighbours --workdir=runs/digits --w=0,1,3 --num_samples=200

Prints at each w the fraction of samples that are closer to a training image than the closest tenth
and half of the held-out images are, and a verdict. A model that copies nothing has about 10% and
50%. Writes a PNG at each w, samples beside their nearest training images, from the closest to the
farthest, and distances.json, which keeps the other w of earlier commands.
"""

import json

from absl import flags

from . import features, solver
from . import flags as sampling
from .program import run
from .values import adapt, numbers, refuse

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a training run; required.", required=True
)
_HELD_OUT = flags.DEFINE_string(
    "held_out", "test", "Split of the data set that the model was not trained on."
)
_SPACE = flags.DEFINE_enum(
    "space",
    "pixels",
    ["pixels", "features"],
    "Distance of two images: root mean square over pixels, in grey levels (pixels), or between "
    "features of --inception, --features_workdir or else a small classifier of the data.",
)
_OUT = flags.DEFINE_string("out", None, "Folder to write to; <workdir>/neighbours if unset.")

adapt("num_samples", also="About 200 if unset.")
adapt("split", also="The training split if unset.")
_WITHOUT_EFFECT = ("metrics", "reference")
ABOUT = 200  # samples if --num_samples is unset, rounded up to a multiple of the classes


def check() -> None:
    """Raises ValueError for flags that cannot be read or have no effect."""
    refuse(_WITHOUT_EFFECT, "has no effect on neighbours: leave it out")
    if _SPACE.value == "pixels":
        refuse(["inception", "features_workdir"], "needs --space=features")
    sampling.check()


def main(argv: list[str]) -> None:
    del argv
    from cfg_jax.evaluation import neighbours
    from cfg_jax.io import files, images
    from cfg_jax.sampling.loading import load_model

    out = files.folder(_OUT.value or f"{_WORKDIR.value}/neighbours")
    files.check_writable(out, "--out")
    described = neighbours.read_distances(out / "distances.json")
    model = load_model(_WORKDIR.value, sampling.CHECKPOINT.value)
    cells = _cells(model)
    training, held_out = _splits(model)
    options = {"mirrored": model.config.data.random_flip, "batch_size": sampling.BATCH_SIZE.value}
    if _SPACE.value == "features":
        network = features.network(model, files.folder(_WORKDIR.value))
        options["embed"] = lambda pictures: network.function(pictures).features
    print(_heading(len(held_out)))
    for name, cell in cells.items():
        found = neighbours.neighbours(cell, training, held_out, **options)
        shares = {f"{quantile:.2f}": found.closer(quantile) for quantile in neighbours.QUANTILES}
        columns = "".join(f"{share:>12.0%}" for share in shares.values())
        print(f"{name:16}{columns}   {found.verdict()}", flush=True)
        images.save_png(out / f"{_file_name(name)}.png", neighbours.strip(found))
        described[name] = {"closer": shares, "space": _SPACE.value} | _record(cell, found)
        files.save_text(out / "distances.json", json.dumps(described, indent=1))
    print(out)


def _heading(num_held_out: int) -> str:
    """Lines above the fractions, with a warning where few held-out images make these coarse."""
    from cfg_jax.evaluation.neighbours import FEW, QUANTILES

    lines = [
        f"samples closer to a training image than the closest held-out images, in {_SPACE.value}",
        "".join([f"{'held-out images':16}", *(f"{f'closest {q:.0%}':>12}" for q in QUANTILES)]),
    ]
    if num_held_out < FEW:
        lines.insert(
            0, f"warning: {num_held_out} held-out images: fractions are coarse below {FEW}"
        )
    return "\n".join(lines)


def _cells(model) -> dict:
    """{caption: `Samples`} requested by the flags, checked."""
    from cfg_jax.sampling.strips import caption, columns

    pairs = columns(numbers("w"), sampling.classifier_weights())
    settings, models = sampling.settings(), (sampling.load_classifier(), solver.load_weaker())
    if sampling.NUM_SAMPLES.value is None:  # a multiple of the classes suits every label plan
        classes = model.null_label
        flags.FLAGS.num_samples = -(-ABOUT // classes) * classes
    cells = {
        caption(*pair).replace("\n", ", "): sampling.samples(model, settings, *pair, *models)
        for pair in pairs
    }
    if len(cells) != len(pairs):
        raise ValueError(f"--w={sampling.W.value}: give different weights")
    for cell in cells.values():
        cell.check()
    return cells


def _splits(model) -> tuple:
    """The training and the held-out split, opened."""
    from cfg_jax.evaluation.likelihood import open_data
    from cfg_jax.evaluation.neighbours import check_splits

    trained = features.SPLIT.value or model.config.data.split
    check_splits(trained, _HELD_OUT.value)
    return open_data(model, trained), open_data(model, _HELD_OUT.value)


def _record(cell, found) -> dict:
    """Distances and settings as JSON values."""
    return {
        "distance": found.nearest.distance.tolist(),
        "training_image": found.nearest.rows.tolist(),
        "held_out_distance": found.held_out.tolist(),
        "protocol": cell.protocol() | {"seed": cell.seed},
        "swept": cell.swept(),
    }


def _file_name(caption: str) -> str:
    return caption.replace(" = ", "").replace(", classifier ", "_classifier")


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    run(main, check=check, hidden=_WITHOUT_EFFECT)
