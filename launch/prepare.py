"""Prepares a data set on disk, in the format that `cfg_jax.data` reads.

    cfg-jax prepare --dataset=cifar10 --data_dir=~/tensorflow_datasets

Most TFDS data sets need `pip install -e '.[tf]'`; imagenet2012 also needs the tar files of
ILSVRC2012 in --manual_dir. Training and sampling never prepare these data sets.
"""

from absl import flags

from cfg_jax.data import prepare

from .program import run

_DATASET = flags.DEFINE_string(
    "dataset", None, "Name of a TFDS data set, such as cifar10.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of data sets to write to; the TFDS default if unset."
)
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir",
    None,
    "Folder of files downloaded by hand; <data_dir>/downloads/manual if unset.",
)


def main(argv: list[str]) -> None:
    del argv
    print(prepare(_DATASET.value, _DATA_DIR.value, _MANUAL_DIR.value))


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    run(main)
