"""Compares the density that guidance draws with the one it is named after: docs/exactness.md.

    cfg-jax exactness --out=runs/exactness.png

Prints variances for two Gaussians, closed forms beside the exact recursion of the samplers, and
draws densities for two classes on a line, from samples with the exact denoiser.
"""

from absl import flags

from cfg_jax.io import files, images

from .program import run
from .values import numbers

_OUT = flags.DEFINE_string("out", "runs/exactness.png", "PNG file to write.")
_W = flags.DEFINE_string(
    "w", "0.5,1,2", "Comma-separated guidance weights w of the table, above 0."
)
_FIGURE_W = flags.DEFINE_float("figure_w", 1.5, "Guidance weight w of the figure.", 0, 20)
_COUNT = flags.DEFINE_integer("count", 20_000, "Number of samples per sampler.", lower_bound=2)
_SEED = flags.DEFINE_integer("seed", 0, "Random seed of the sampling noise.", 0, 2**32 - 1)


def main(argv: list[str]) -> None:
    del argv
    from cfg_jax.study import exactness

    weights = numbers("w")
    if not weights or min(weights) <= 0:
        raise ValueError(f"--w={_W.value}: give weights above 0")
    files.check_file_writable(_OUT.value, "--out", ".png")
    print(exactness.table(exactness.rows(weights)), flush=True)
    path = files.folder(_OUT.value)
    picture = exactness.figure(_FIGURE_W.value, count=_COUNT.value, seed=_SEED.value)
    images.save_png(path, picture)
    print(path)


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    run(main)
