"""What are samples compared with?

The moments of a split of a data set, computed through a feature network once and kept, or those in
a file of ours, of ADM or of pytorch-fid; and for precision and recall the features themselves, of
as many as 10,000 images.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from cfg_jax import data
from cfg_jax.features import FeatureNetwork
from cfg_jax.metrics import Moments


class Reference(NamedTuple):
    """Moments of real images, and what they are.

    name: of the data set with its split, "digits train", or of the file.
    sha256: of what they depend on: network, data and number of images; of a file that does not
      say, of the numbers in it.
    count: images; None where a file is silent.
    pool, spatial: mean and covariance; spatial is None where there are none.
    rows: pool features [M, D] for precision and recall; None if not asked for.
    """

    name: str
    sha256: str
    count: int | None
    pool: Moments
    spatial: Moments | None
    rows: np.ndarray | None


def data_reference(
    network: FeatureNetwork,
    source: data.Source,
    folder: str | Path,
    *,
    with_rows: bool = False,
    batch_size: int = 256,
) -> Reference:
    """The reference of an opened split; computed on first use, kept in `folder`, resumable.

    Args:
      network: to see the images through.
      source: of images.
      folder: where references are kept, e.g. `<workdir>/evaluations`.
      with_rows: also the features, for precision and recall.
      batch_size: images at a time.
    """
    raise NotImplementedError


def file_reference(
    network: FeatureNetwork, path: str | Path, *, with_rows: bool = False, batch_size: int = 256
) -> Reference:
    """The reference in an `.npz` of ours, of ADM or of pytorch-fid.

    Args:
      with_rows: also the features, computed from the images `arr_0` that ADM's files hold.

    Raises:
      ValueError: what `load_statistics` refuses, moments of another network or width, no images
        where rows are asked for.
    """
    raise NotImplementedError
