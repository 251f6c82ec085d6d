"""How are samples drawn at several guidance weights, and put side by side?

Rows are labels, columns are weights; a row starts from the same noise in every column and draws
the same noise at every step, so that what changes along it is w alone.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from cfg_jax import images
from cfg_jax import keys as keys_lib
from cfg_jax.metric_log import with_progress
from cfg_jax.model import Model

PREVIEW_LABELS = 10


def guided(
    model: Model,
    seed: int,
    labels: Sequence[int],
    weights: Sequence[float],
    *,
    samples_per_label: int = 1,
    batch_size: int = 256,
    **options,
) -> np.ndarray:
    """Samples x [labels, samples_per_label, weights, ...], float32.

    Args:
      model: to sample from.
      seed: row r of all labels and samples draws from fold_in(key(seed), r).
      labels: each 0..num_classes, the last for "no label".
      weights: guidance weights w.
      samples_per_label: rows for each label.
      batch_size: samples drawn at a time; the last batch is filled up, so one shape is compiled.
      **options: of `Model.sample_x`: num_steps, step, logvar_interp, clip_x.
    """
    shape = (len(labels), samples_per_label, len(weights))
    rows = shape[0] * shape[1]
    row_keys = keys_lib.per_example(jax.random.key(seed), rows)
    place = np.arange(rows * len(weights))
    row, column = place // len(weights), place % len(weights)
    row_labels = np.repeat(np.asarray(labels, np.int32), samples_per_label)
    batch_size = min(batch_size, place.size)
    drawn = []
    starts = range(0, place.size, batch_size)
    for start in with_progress(starts, len(starts), "batch"):
        chosen = np.minimum(np.arange(start, start + batch_size), place.size - 1)
        drawn.append(
            model.sample_x(
                row_keys[row[chosen]],
                labels=row_labels[row[chosen]],
                w=np.asarray(weights, np.float32)[column[chosen]],
                **options,
            )
        )
    return np.concatenate(drawn)[: place.size].reshape(*shape, *model.shape)


def picture(
    model: Model, x: np.ndarray, labels: Sequence[int], weights: Sequence[float]
) -> Image.Image:
    """Samples of `guided` as a captioned strip of images, or as a scatter plot of points."""
    names = [*model.label_names, "no label"]
    captions = [names[label] for label in labels]
    columns = [f"w = {weight:g}" for weight in weights]
    if len(model.shape) == 3:
        strip = images.to_images(x).reshape(-1, *x.shape[2:])
        return images.captioned_grid(strip, np.repeat(captions, x.shape[1]), columns)
    return images.scatter(x.swapaxes(1, 2), captions, columns)


def preview(model: Model, weights: Sequence[float], directory: Path) -> Path:
    """A picture of a few samples of each of the first labels, named by the training step."""
    labels = range(min(PREVIEW_LABELS, len(model.label_names)))
    x = guided(model, 0, labels, weights, samples_per_label=1 if len(model.shape) == 3 else 200)
    path = directory / f"step_{model.step:08d}.png"
    images.save_png(path, picture(model, x, labels, weights))
    return path


def write_guidance_strip(
    model: Model,
    directory: Path,
    seed: int,
    labels: Sequence[int],
    weights: Sequence[float],
    **options,
) -> tuple[Path, Path]:
    """Draws `guided` samples and writes them as `.npz` and as PNG; returns both paths.

    The `.npz` holds `images` uint8 [labels, samples_per_label, weights, H, W, C] (for points `x`,
    float32), `labels`, `w`, `label_names`, `seed`, `num_steps` and the model's `step`.

    The files are named after all that they depend on, so that samples of other settings stay.

    Raises:
      ValueError: what `Model.sample_x` refuses.
      OSError: a directory that cannot be written.
    """
    x = guided(model, seed, labels, weights, **options)
    arrays = {"images": images.to_images(x)} if len(model.shape) == 3 else {"x": x}
    num_steps = options.get("num_steps") or model.config.sampling.num_steps
    archive = directory / f"{_name(model, seed, labels, weights, num_steps, options)}.npz"
    images.save_npz(
        archive,
        labels=np.asarray(labels),
        w=np.asarray(weights),
        label_names=np.asarray([*model.label_names, "no label"])[np.asarray(labels)],
        seed=seed,
        num_steps=num_steps,
        step=model.step,
        **arrays,
    )
    strip = archive.with_suffix(".png")
    images.save_png(strip, picture(model, x, labels, weights))
    return archive, strip


def _name(model, seed, labels, weights, num_steps, options) -> str:
    """What a reader wants to see, and a digest of the rest."""
    rest = {"labels": list(labels), **options}
    digest = zlib.crc32(json.dumps(rest, sort_keys=True).encode())
    listed = "_".join(f"{weight:g}" for weight in weights)
    return f"step{model.step}_w{listed}_T{num_steps}_seed{seed}_{digest:08x}"
