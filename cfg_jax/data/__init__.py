"""Data sets by name, and batches of them as NumPy arrays.

`open_source` opens one split for random access, `stack` makes a batch of some examples, `batches`
is the endless sequence of shuffled batches, `iterate` reads it ahead in the background,
`check_source` looks for examples of one's own that cannot be trained on, `prepare` writes a data
set to disk, `check` reads all of it once, `label_names` needs no data, `class_counts` reads only
labels. Only this package imports
tfds and grain.
"""

from cfg_jax.data.batching import batches, iterate, stack
from cfg_jax.data.checking import check_source
from cfg_jax.data.examining import some
from cfg_jax.data.opening import check, label_names, open_source
from cfg_jax.data.preparation import DATASETS, prepare
from cfg_jax.data.sources import OWN, Source, class_counts

__all__ = [
    "DATASETS",
    "OWN",
    "Source",
    "batches",
    "check",
    "check_source",
    "class_counts",
    "iterate",
    "label_names",
    "open_source",
    "prepare",
    "some",
    "stack",
]
