"""Which images and labels does step k see? Data sets by name, and batches of them.

`open_source` gives random access to one split of a data set, `stack` examples of it as one batch,
`batches` its shuffled, endless sequence of batches, `iterate` reads that sequence ahead in the
background, `prepare` writes a data set to disk, `label_names` knows its classes without it. This
package alone knows tfds and grain; arrays leave it as NumPy.
"""

from cfg_jax.data.batching import batches, iterate, stack
from cfg_jax.data.opening import label_names, open_source
from cfg_jax.data.preparation import DATASETS, prepare
from cfg_jax.data.sources import Source

__all__ = [
    "DATASETS",
    "Source",
    "batches",
    "iterate",
    "label_names",
    "open_source",
    "prepare",
    "stack",
]
