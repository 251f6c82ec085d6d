"""Draws the effect of guidance on three Gaussians: figure 2 of Ho & Salimans 2022.

    cfg-jax mixture --out=runs/mixture.png --w=0,0.5,1,2,4

The upper row shows the guided densities, computed on a grid. The lower row shows samples of the
ancestral sampler with the exact denoiser. Nothing is trained.
"""

import math

from absl import flags

from cfg_jax.io import files, images
from cfg_jax.study import mixture_figure

from .program import run
from .values import numbers

_OUT = flags.DEFINE_string("out", "runs/mixture.png", "PNG file to write.")
_W = flags.DEFINE_string("w", "0,0.5,1,2,4", "Comma-separated guidance weights w.")
_STD = flags.DEFINE_float("std", 0.5, "Standard deviation of each class; class means have norm 1.")
_COUNT = flags.DEFINE_integer("count", 1000, "Number of samples per class and w.", lower_bound=1)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 256, "Number of sampling steps T.", lower_bound=2)
_SEED = flags.DEFINE_integer("seed", 0, "Random seed of the sampling noise.", 0, 2**32 - 1)


def main(argv: list[str]) -> None:
    del argv
    weights = numbers("w")
    if not weights:
        raise ValueError("--w is empty: give one guidance weight or more")
    if not (math.isfinite(_STD.value) and _STD.value > 0):
        raise ValueError(f"--std={_STD.value}: give a number above 0")
    files.check_file_writable(_OUT.value, "--out", ".png")
    path = files.folder(_OUT.value)
    mixture = mixture_figure.three_gaussians(_STD.value)
    samples = mixture_figure.guided_samples(
        mixture, weights, count=_COUNT.value, num_steps=_NUM_STEPS.value, seed=_SEED.value
    )
    images.save_png(path, mixture_figure.figure(mixture, weights, samples))
    print(path)


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    run(main)
