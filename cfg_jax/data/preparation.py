"""Preparation of TFDS data sets as array_record. Only this needs TensorFlow, in most builders."""

import importlib.util
import os
from collections.abc import Callable

import tensorflow_datasets as tfds

from cfg_jax.data.digits import Digits, Digits28
from cfg_jax.data.emoji import Emoji
from cfg_jax.data.metadata import checked_metadata
from cfg_jax.data.packaged import Packaged, prepare_packaged
from cfg_jax.data.sources import OWN
from cfg_jax.io.files import check_name
from cfg_jax.io.text import extra, one_line

DATASETS = (
    "folder",
    "npz",
    "digits",
    "digits28",
    "emoji",
    "mixture",
    "cifar10",
    "imagenet_resized/64x64",
    "imagenet2012",
)

PACKAGED: dict[str, Callable[..., Packaged]] = {
    "digits": Digits,
    "digits28": Digits28,
    "emoji": Emoji,
}
"""Data sets made of what Python packages ship."""

WITHOUT_TFDS = ("folder", "npz", "mixture")
"""Data sets that need no preparation."""

_WITH_TENSORFLOW = ("cifar10", "imagenet_resized", "imagenet2012")
_NEEDS_TENSORFLOW = f"needs TensorFlow to be prepared: run {extra('tf')}"
_MANUAL_FILES = {"imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")}


def prepare(name: str, data_dir: str | None = None, manual_dir: str | None = None) -> str:
    """Downloads the TFDS data set `name` and writes it under `data_dir` as array_record.

    `name` and `data_dir` are as for `open_source`. `manual_dir` holds files that must be downloaded
    by hand; None is the TFDS default, `data_dir`/downloads/manual.

    Returns the directory of the data set; existing data is left unchanged. Raises ValueError if the
    name is unknown, if existing data has a different format, if a library or file is missing, or if
    the disk or network fails.
    """
    data_dir = expand_user(data_dir)
    if name in WITHOUT_TFDS:
        raise ValueError(
            f"{name} is read or drawn when it is opened: there is nothing to prepare, only to check"
        )
    if dataset := PACKAGED.get(name):
        return str(prepare_packaged(dataset, data_dir).data_path)
    builder = find_builder(name, data_dir)
    if not builder.is_prepared():
        _check_requirements(builder, data_dir, manual_dir)
        config = tfds.download.DownloadConfig(manual_dir=manual_dir)
        try:
            builder.download_and_prepare(download_config=config, file_format="array_record")
        except ImportError as error:
            raise ValueError(f"data set {name!r} {_missing_library(str(error))}") from error
        except (OSError, AssertionError, RuntimeError) as error:
            raise ValueError(
                f"{builder.data_path} cannot be prepared: {one_line(error)}"
            ) from error
    check_format(builder, data_dir)
    return str(builder.data_path)


def expand_user(data_dir: str | None) -> str | None:
    """`data_dir` with ~ expanded, which array_record, unlike TFDS, does not do.

    Raises ValueError as `files.check_name`.
    """
    return None if data_dir is None else os.path.expanduser(check_name(data_dir))


def find_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The TFDS builder of `name`, prepared or not; a one-line ValueError if there is none."""
    if name.startswith(OWN):
        raise ValueError(
            f"data {name!r} was passed to train(..., source=...): pass that source again, in "
            "Python, as it cannot be opened by name"
        )
    with checked_metadata(name, data_dir):
        try:
            return tfds.builder(name, data_dir=data_dir)
        except tfds.core.DatasetNotFoundError as error:
            problem = (
                f"is unknown: give one of {', '.join(DATASETS)}, or any TFDS image data set with "
                "labels"
            )
            cause: Exception = error
        except ImportError as error:
            problem, cause = _missing_library(str(error)), error
    raise ValueError(f"data set {name!r} {problem}") from cause


def prepare_command(builder: tfds.core.DatasetBuilder, data_dir: str | None) -> str:
    """The command that prepares the builder's data set in `data_dir`, and its requirements."""
    dataset = builder.name + (f"/{builder.builder_config.name}" if builder.builder_config else "")
    command = f"cfg-jax prepare --dataset={dataset}"
    if data_dir is not None:
        command += f" --data_dir={os.fspath(data_dir)}"
    needs = f"after {extra('tf')}, as preparing needs TensorFlow"
    if files := _MANUAL_FILES.get(builder.name):
        command += " --manual_dir=DIR"
        needs += f", with {' and '.join(files)} from image-net.org in DIR"
    return f"run `{command}` ({needs})"


def check_format(builder: tfds.core.DatasetBuilder, data_dir: str | None) -> None:
    """Raises ValueError unless the prepared data set can be read as array_record."""
    formats = sorted(file_format.value for file_format in builder.info.available_file_formats())
    if "array_record" not in formats:
        elsewhere = os.path.join(data_dir or "~", "array_record")
        raise ValueError(
            f"{builder.data_path} holds {' and '.join(formats) or 'no known format'}, but only"
            f" array_record can be read: {prepare_command(builder, elsewhere)}"
        )


def _missing_library(reason: str) -> str:
    # TFDS does not declare importlib_resources; the tf extra has both.
    if "'tensorflow'" in reason or "'importlib_resources'" in reason:
        return _NEEDS_TENSORFLOW
    return f"needs a library that is not installed: {one_line(reason)}"


def _check_requirements(builder, data_dir: str | None, manual_dir: str | None) -> None:
    """Raises ValueError, before hours of downloading, if a library or a file is missing."""
    if builder.name in _WITH_TENSORFLOW and not importlib.util.find_spec("tensorflow"):
        raise ValueError(f"data set {builder.name!r} {_NEEDS_TENSORFLOW}")
    folder = tfds.core.Path(
        expand_user(manual_dir)
        or os.path.join(data_dir or tfds.core.constants.DATA_DIR, "downloads", "manual")
    )
    files = _MANUAL_FILES.get(builder.name, ())
    if absent := [file for file in files if not (folder / file).exists()]:
        raise ValueError(
            f"{' and '.join(absent)} missing in {folder}: download from image-net.org and give the"
            " folder as manual_dir"
        )
