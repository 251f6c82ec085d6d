"""Draws guided samples of a trained model, at several guidance weights side by side.

    python -m launch.sample --workdir=runs/digits --w=0,1,3 --labels=all --num_steps=256

Writes an .npz and a PNG strip: rows are labels, columns are w, the same noise along a row.
"""

from pathlib import Path

from absl import flags

import cfg_jax
from cfg_jax import generate
from launch.program import numbers, run

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
_OUT = flags.DEFINE_string("out", None, "Folder to write to; <workdir>/samples if unset.")


def main(argv: list[str]) -> None:
    del argv
    weights = numbers("w", _W.value)
    labels = None if _LABELS.value == "all" else numbers("labels", _LABELS.value)
    if labels is not None and not all(label.is_integer() for label in labels):
        raise ValueError(f"--labels={_LABELS.value}: need whole numbers, or all")
    model = cfg_jax.load(_WORKDIR.value, _CHECKPOINT.value)
    chosen = range(model.null_label) if labels is None else [int(label) for label in labels]
    for path in generate.write_guidance_strip(
        model,
        (Path(_OUT.value) if _OUT.value else Path(_WORKDIR.value) / "samples").expanduser(),
        _SEED.value,
        chosen,
        weights,
        samples_per_label=_SAMPLES.value,
        batch_size=_BATCH_SIZE.value,
        num_steps=_NUM_STEPS.value,
        step=_STEP.value,
        logvar_interp=_LOGVAR_INTERP.value,
    ):
        print(path)


if __name__ == "__main__":
    run(main)
