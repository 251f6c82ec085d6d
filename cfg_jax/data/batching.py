"""Which examples make up batch k?

Batch k is a pure function of (seed, k): every epoch is complete and in a new order, epochs follow
one another without a gap, and the processes of a run hold consecutive parts of one global batch.
So a run resumes from its step alone, on any number of processes.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from cfg_jax.data.sources import Source

Example = dict[str, np.ndarray]


def batches(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    random_flip: bool = False,
    min_crop: float = 1.0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """The endless sequence of this process's parts of the global batches.

    With b = batch_size / process_count, item k is {"x": float32 [b, ...], "labels": int32 [b],
    "index": int32 [b]}. `index` is the place in the global batch, process_index * b + [0, b), to
    derive random keys from: concatenated over processes, item k is the same for any process_count.

    Args:
      source: as `open_source` gives it; a batch may be larger than the source.
      seed: of order, crops and flips, in [0, 2**32).
      batch_size: examples of all processes, a multiple of process_count.
      random_flip: mirrors each image left to right with probability 1/2, drawn in every epoch.
      min_crop: in (0, 1]; 1 leaves examples alone. Below, each is a random square of its stored
        image, drawn in every epoch, of a side that is at least about this fraction of the image's
        shorter one (`preprocessing.random_square`).

    Raises:
      ValueError: an argument outside these ranges, flips asked of examples that are no images, or
        crops of examples that are no square ones.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}: give an integer in [0, 2**32)")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index} of {process_count}: count from 0")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size is {batch_size}: give a multiple of {process_count} processes"
        )
    if random_flip and len(source.shape) != 3:
        raise ValueError(f"random_flip with examples {source.shape}: only images [H, W, C] flip")
    crop = _crop(source, min_crop) if min_crop != 1 else None
    examples = grain.MapDataset.source(range(len(source)) if crop else source)
    examples = examples.seed(seed).shuffle().repeat()
    if crop:
        examples = examples.random_map(crop)
    if random_flip:
        examples = examples.random_map(_flip)
    size = batch_size // process_count
    index = np.arange(process_index * size, (process_index + 1) * size, dtype=np.int32)
    batched = examples.batch(size, batch_fn=lambda batch: stack(batch) | {"index": index})
    return batched[process_index::process_count]


def stack(examples: Sequence[Example]) -> Example:
    """{"x": [n, ...], "labels": int32 [n]} of n examples {"x": [...], "label": []}."""
    return {
        "x": np.stack([example["x"] for example in examples]),
        "labels": np.array([example["label"] for example in examples], np.int32),
    }


def iterate(
    dataset: grain.MapDataset, start: int = 0, *, num_threads: int = 2, num_prefetch: int = 8
) -> Iterator[Mapping[str, Any]]:
    """Items start, start + 1, ... of `batches`, read ahead in the background.

    Args:
      start: first item, the step to resume from; not negative.
      num_threads: items read at the same time, each by one thread.
      num_prefetch: most items held ready. grain's own default, 16 threads and 500 items, leaves a
        small machine no time to train.
    """
    if start < 0:
        raise ValueError(f"start is {start}: give a step of at least 0")
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_prefetch)
    return iter(dataset[start:].to_iter_dataset(options))


def _crop(source: Source, min_crop: float) -> Callable[[int, np.random.Generator], Example]:
    """(index, rng) -> a random crop of the source's example."""
    if not 0 < min_crop < 1:
        raise ValueError(
            f"min_crop is {min_crop}: give the least fraction of a side, in (0, 1]; 1 crops nothing"
        )
    crop = getattr(source, "random_crop", None)
    if crop is None or source.shape[0] != source.shape[1]:
        raise ValueError(
            f"min_crop is {min_crop} with examples {source.shape} of {source.name}: only sources of"
            " square images crop, give 1"
        )
    return functools.partial(crop, min_crop=min_crop)


def _flip(example: Example, rng: np.random.Generator) -> Example:
    return {**example, "x": example["x"][:, ::-1]} if rng.random() < 0.5 else example
