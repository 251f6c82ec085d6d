"""How are samples drawn at several guidance weights, and put side by side?

Rows are labels, columns are weights, of classifier-free guidance and of a classifier; a row starts
from the same noise in every column and draws the same noise at every step, so that what changes
along it is the guidance alone.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from cfg_jax.config.validate import to_json
from cfg_jax.core import keys as keys_lib
from cfg_jax.core.types import Key
from cfg_jax.io import files, images
from cfg_jax.io.images import Picture
from cfg_jax.io.progress import track
from cfg_jax.runtime import devices
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.settings import SamplingSettings

PREVIEW_LABELS = 10


def columns(
    weights: Sequence[float], classifier_weights: Sequence[float] = (0.0,)
) -> list[tuple[float, float]]:
    """(w, classifier_w) of every column: the two lists side by side, one of length 1 repeated.

    Raises:
      ValueError: lists of unlike lengths, neither of them 1.
    """
    count = max(len(weights), len(classifier_weights))
    if {len(weights), len(classifier_weights)} - {1, count}:
        raise ValueError(
            f"{len(weights)} guidance weights with {len(classifier_weights)} of the classifier: "
            "give as many of each, or one"
        )
    repeated = (list(values) * (count // len(values)) for values in (weights, classifier_weights))
    return list(zip(*repeated, strict=True))


def guided(
    model: Model,
    seed: int,
    labels: Sequence[int],
    weights: Sequence[float],
    *,
    classifier_weights: Sequence[float] = (0.0,),
    settings: SamplingSettings = SamplingSettings(),  # noqa: B008  (a constant)
    classifier: NoisyClassifier | None = None,
    samples_per_label: int = 1,
    batch_size: int = 256,
) -> np.ndarray:
    """Samples x [labels, samples_per_label, columns, ...], float32.

    Args:
      model: to sample from.
      seed: row r of all labels and samples draws from fold_in(key(seed), r).
      labels: each 0..num_classes, the last for "no label".
      weights: guidance weights w, one for each column.
      classifier_weights: weights of the classifier, as `columns` pairs them with `weights`.
      settings: all but the two weights.
      classifier: noisy classifier that guides as well.
      samples_per_label: rows for each label.
      batch_size: samples drawn at a time; the last batch is filled up, so one shape is compiled.

    Raises:
      ValueError: what `Model.check` refuses in a column, before a key is derived.
    """
    pairs = np.asarray(columns(weights, classifier_weights), np.float32)
    for w, classifier_w in pairs.tolist():
        column = settings.replace(w=w, classifier_w=classifier_w)
        model.check(column, np.asarray(labels), classifier=classifier)
    shape = (len(labels), samples_per_label, len(pairs))
    row_keys, row_labels = _rows(seed, labels, samples_per_label)

    def draw(place):
        row, column = place // len(pairs), place % len(pairs)
        chosen = settings.replace(w=pairs[column, 0], classifier_w=pairs[column, 1])
        return model.draw(row_keys[row], chosen, labels=row_labels[row], classifier=classifier)

    x = _in_batches(draw, len(row_labels) * len(pairs), batch_size)
    return x.reshape(*shape, *model.shape)


def upsampled(
    upsampler: Model,
    seed: int,
    labels: Sequence[int],
    x: np.ndarray,
    *,
    settings: SamplingSettings = SamplingSettings(),  # noqa: B008  (a constant)
    batch_size: int = 256,
) -> np.ndarray:
    """Larger x [labels, samples, columns, H, W, C] of the x of `guided`, rounded to 8 bits before.

    The noise, too, is the same along a row. Dhariwal & Nichol 2021, section 4.4: guidance acts on
    the small images only.

    Args:
      upsampler: a model with a low_res_shape.
      seed, labels, batch_size: as for `guided`.
      x: [labels, samples, columns, h, w, C] in [-1, 1].
      settings: of the upsampler.

    Raises:
      ValueError: images that are not what the upsampler enlarges.
    """
    if upsampler.low_res_shape != x.shape[3:]:
        raise ValueError(
            f"images of {x.shape[3:]} for an upsampler of {upsampler.low_res_shape}: give the "
            "upsampler that was trained on images of that size"
        )
    small = images.to_x(images.to_images(x)).reshape(-1, *x.shape[3:])
    row_keys, row_labels = _rows(seed, labels, x.shape[1])
    # Another stream than the small images' own: their first noise has the same key otherwise.
    row_keys = keys_lib.stream(row_keys, "upsampled")

    def draw(place):
        row = place // x.shape[2]
        return upsampler.draw(row_keys[row], settings, labels=row_labels[row], low_res=small[place])

    return _in_batches(draw, len(small), batch_size).reshape(*x.shape[:3], *upsampler.shape)


def _rows(seed: int, labels: Sequence[int], samples_per_label: int) -> tuple[Key, np.ndarray]:
    """A key and a label for every row."""
    row_labels = np.repeat(np.asarray(labels, np.int32), samples_per_label)
    return keys_lib.per_example(jax.random.key(seed), row_labels.size), row_labels


def _in_batches(
    draw: Callable[[np.ndarray], np.ndarray], count: int, batch_size: int
) -> np.ndarray:
    """draw(place [B]) of the places 0..count - 1, B at a time: [count, ...]."""
    batches = track(devices.index_batches(0, count, min(batch_size, count)), "batch")
    return np.concatenate([draw(place)[:num_new] for place, num_new in batches])


def picture(
    model: Model,
    x: np.ndarray,
    labels: Sequence[int],
    weights: Sequence[float],
    classifier_weights: Sequence[float] = (0.0,),
) -> Picture:
    """Samples of `guided` as a captioned strip of images, or as a scatter plot of points."""
    names = [*model.label_names, "no label"]
    captions = [names[label] for label in labels]
    titles = [caption(*pair) for pair in columns(weights, classifier_weights)]
    if x.ndim == 6:
        strip = images.to_images(x).reshape(-1, *x.shape[2:])
        return images.captioned_grid(strip, np.repeat(captions, x.shape[1]), titles)
    return images.scatter(x.swapaxes(1, 2), captions, titles)


def caption(w: float, classifier_w: float) -> str:
    """What stands above a column."""
    return f"w = {w:g}" + (f"\nclassifier {classifier_w:g}" if classifier_w else "")


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
    *,
    classifier_weights: Sequence[float] = (0.0,),
    settings: SamplingSettings = SamplingSettings(),  # noqa: B008  (a constant)
    classifier: NoisyClassifier | None = None,
    upsampler: Model | None = None,
    upsampler_settings: SamplingSettings = SamplingSettings(),  # noqa: B008
    upsampler_batch_size: int = 256,
    samples_per_label: int = 1,
    batch_size: int = 256,
) -> tuple[Path, Path]:
    """Draws `guided` samples and writes them as `.npz` and as PNG; returns both paths.

    The `.npz` holds `images` uint8 [labels, samples_per_label, columns, H, W, C] (for points `x`,
    float32), `labels`, `w` and `classifier_w` of the columns, `label_names`, `seed`, `num_steps`
    and the model's `step`. With an upsampler `images` are the large ones, `small_images` the
    others.

    The files are named after all that they depend on, so that samples of other settings stay.

    Raises:
      ValueError: what `Model.check` refuses, a model and an upsampler that do not fit.
      OSError: a directory that cannot be written.
    """
    if upsampler is not None:
        check_cascade(model, upsampler)
        upsampler.check(upsampler_settings)
    request = {"settings": settings, "classifier": classifier, "batch_size": batch_size}
    request |= {"classifier_weights": classifier_weights, "samples_per_label": samples_per_label}
    x = guided(model, seed, labels, weights, **request)
    arrays = {"images": images.to_images(x)} if len(model.shape) == 3 else {"x": x}
    if upsampler is not None:
        larger = {"settings": upsampler_settings, "batch_size": upsampler_batch_size}
        x = upsampled(upsampler, seed, labels, x, **larger)
        arrays = {"images": images.to_images(x), "small_images": arrays["images"]}
    identity = {
        "settings": _json(model, settings),
        "classifier": classifier and [to_json(classifier.config), classifier.step],
        "upsampler": upsampler and [to_json(upsampler.config), upsampler.step],
        "upsampler_settings": upsampler and _json(upsampler, upsampler_settings),
        "labels": list(labels),
        "samples_per_label": samples_per_label,
    }
    pairs = np.asarray(columns(weights, classifier_weights))
    num_steps = identity["settings"]["num_steps"]
    archive = directory / f"{_name(model, seed, pairs, num_steps, identity)}.npz"
    described = {"label_names": np.asarray([*model.label_names, "no label"])[np.asarray(labels)]}
    described |= {"labels": np.asarray(labels), "w": pairs[:, 0], "classifier_w": pairs[:, 1]}
    described |= {"seed": seed, "num_steps": num_steps, "step": model.step}
    files.save_npz(archive, **described, **arrays)
    strip = archive.with_suffix(".png")
    images.save_png(strip, picture(model, x, labels, weights, classifier_weights))
    return archive, strip


def _json(model: Model, settings: SamplingSettings) -> dict:
    return settings.filled(model.config.sampling).to_json(model.experiment)


def check_cascade(model: Model, upsampler: Model) -> None:
    """Refuses an upsampler of other images or labels than the model's.

    Raises:
      ValueError: with what differs.
    """
    if upsampler.low_res_shape is None:
        raise ValueError("the upsampler's checkpoint is of a model without a low_res image")
    if upsampler.low_res_shape != model.shape:
        raise ValueError(
            f"the upsampler enlarges images of {upsampler.low_res_shape}, the model makes "
            f"{model.shape}: give a pair that fits"
        )
    if upsampler.label_names != model.label_names:
        raise ValueError(
            f"the upsampler knows {len(upsampler.label_names)} labels by other names than the "
            f"model's {len(model.label_names)}: give a pair trained on the same data"
        )


def _name(model: Model, seed: int, pairs: np.ndarray, num_steps: int, identity: dict) -> str:
    """What a reader wants to see, and a digest of the rest."""
    digest = zlib.crc32(json.dumps(identity, sort_keys=True).encode())
    listed = "_".join(f"{w:g}" + (f"c{by:g}" if by else "") for w, by in pairs)
    return f"step{model.step}_w{listed}_T{num_steps}_seed{seed}_{digest:08x}"
