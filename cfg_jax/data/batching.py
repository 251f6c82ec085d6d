"""Which examples make up batch k?

Batch k is a pure function of (seed, k), so a run resumes from its step alone, on any number of
processes. Each epoch has every example once, in a new order; a batch may span two epochs.
"""

import functools
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from cfg_jax.data.sources import Source, checked_label

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
    """Endless; item k is this process's share of global batch k.

    With b = batch_size / process_count, item k is {"x": float32 [b, ...], "labels": int32 [b],
    "index": int32 [b]}. `index` is the position in the global batch, process_index * b + [0, b);
    random keys are derived from it. Items k of all processes, concatenated, do not depend on
    process_count.

    Args:
      source: data set, as from `open_source`; may be smaller than a batch.
      seed: random seed of order, crops and flips, in [0, 2**32).
      batch_size: number of examples over all processes, a multiple of process_count.
      random_flip: mirror each image left to right with probability 1/2, drawn in every epoch.
      min_crop: approximate minimum side of a random square crop, as a fraction in (0, 1] of the
        shorter side of the stored image; 1 for no crop. A crop is drawn in every epoch by
        the source's `random_crop`.

    Raises ValueError if an argument is out of range, if random_flip is set and examples are not
    images, or if min_crop is below 1 and examples are not square images. An item raises ValueError
    if a label is not an integer in 0..K - 1; `check_source` looks for such labels in advance.
    """
    if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}: give an integer in [0, 2**32)")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index}: give one in [0, {process_count})")
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size is {batch_size}: give a positive multiple of process_count={process_count}"
        )
    if random_flip and len(source.shape) != 3:
        raise ValueError(f"random_flip with examples {source.shape}: only images flip, give False")
    crop = _crop(source, min_crop) if min_crop != 1 else None
    examples = grain.MapDataset.source(range(len(source)) if crop else source)
    examples = examples.seed(seed).shuffle().repeat()
    if crop:
        examples = examples.random_map(crop)
    if random_flip:
        examples = examples.random_map(_flip)
    size = batch_size // process_count
    index = np.arange(process_index * size, (process_index + 1) * size, dtype=np.int32)

    def stacked(batch: Sequence[Example]) -> Example:
        return stack(batch, source.num_classes) | {"index": index}

    return examples.batch(size, batch_fn=stacked)[process_index::process_count]


def stack(examples: Sequence[Example], num_classes: int | None = None) -> Example:
    """{"x": [n, ...], "labels": int32 [n]} of n examples {"x": [...], "label": []}.

    Raises ValueError for a label that is not an integer in 0..num_classes - 1.
    """
    labels = [checked_label(example["label"], num_classes) for example in examples]
    x = np.stack([example["x"] for example in examples])
    return {"x": x, "labels": np.array(labels, np.int32)}


def iterate(
    dataset: grain.MapDataset, start: int = 0, *, num_threads: int = 2, num_prefetch: int = 8
) -> Iterator[Mapping[str, Any]]:
    """Items start, start + 1, ... of `batches`, read ahead in the background.

    `start` >= 0 is the step to resume from. `num_threads` threads read one item each and hold up to
    `num_prefetch` ready; grain's defaults, 16 and 500, starve training on a small machine.
    """
    if start < 0:
        raise ValueError(f"start is {start}: give a step of at least 0")
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_prefetch)
    return iter(dataset[start:].to_iter_dataset(options))


def _crop(source: Source, min_crop: float) -> Callable[[int, np.random.Generator], Example]:
    """A function (index, rng) -> random crop of example `index`."""
    if not 0 < min_crop < 1:
        raise ValueError(
            f"min_crop is {min_crop}: give a fraction of a side in (0, 1]; 1 disables crops"
        )
    crop = getattr(source, "random_crop", None)
    if crop is None or source.shape[0] != source.shape[1]:
        raise ValueError(
            f"min_crop is {min_crop} with examples {source.shape} of {source.name}: only"
            " square images can be cropped, give 1"
        )
    return functools.partial(crop, min_crop=min_crop)


def _flip(example: Example, rng: np.random.Generator) -> Example:
    return {**example, "x": example["x"][:, ::-1]} if rng.random() < 0.5 else example
