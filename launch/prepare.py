"""Prepares a data set on disk, in the format that `cfg_jax.data` reads, or checks one.

    cfg-jax prepare --dataset=cifar10 --data_dir=~/tensorflow_datasets
    cfg-jax prepare --dataset=folder --data_dir=~/pictures --check

Most TFDS data sets need `pip install -e '.[tf]'`; imagenet2012 also needs the tar files of
ILSVRC2012 in --manual_dir. Training and sampling never prepare these data sets. A folder of
pictures and an .npz (--dataset=npz) need no preparation. --check reads every example once, prints
the number of examples of each class and lists those that cannot be read; with any, the exit code
is 1.
"""

from absl import flags

from cfg_jax.data import check, prepare
from cfg_jax.data.preparation import WITHOUT_TFDS

from .program import run

_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "Name of a TFDS data set, such as cifar10; with --check also folder or npz; required.",
    required=True,
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of data sets to write to, or the folder or .npz to check; the TFDS default if unset.",
)
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir",
    None,
    "Folder of files downloaded by hand; <data_dir>/downloads/manual if unset.",
)
_CHECK = flags.DEFINE_bool("check", False, "Read every example once and list the unreadable ones.")


def main(argv: list[str]) -> int:
    del argv
    if not (_CHECK.value and _DATASET.value in WITHOUT_TFDS):
        print(prepare(_DATASET.value, _DATA_DIR.value, _MANUAL_DIR.value))
    if not _CHECK.value:
        return 0
    report = check(_DATASET.value, data_dir=_DATA_DIR.value)
    print(report)
    return 1 if report.bad else 0


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    run(main)
