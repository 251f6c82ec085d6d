"""Samples of a run for the report: the same noise at several weights, drawn once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cfg_jax.evaluation.result import Result
from cfg_jax.io import images
from cfg_jax.sampling import strips
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.storage import manifest
from cfg_jax.study.curves import lowest, moved

MOST_LABELS = 10
MOST_WEIGHTS = 5


def strip_of(
    model: Model,
    weights: Sequence[float],
    sampling: SamplingSettings,
    seed: int,
    weaker: Model | None = None,
) -> strips.Strip:
    """Guided samples of the first labels at every weight.

    Ignores w, the classifier and the temperatures of `sampling`.
    """
    labels = list(range(min(MOST_LABELS, model.null_label)))
    settings = sampling.replace(w=0.0, classifier_w=0.0, classifier_form="eps")
    settings = settings.replace(noise_temperature=1.0, score_temperature=1.0)
    return strips.Strip(model, labels, weights, settings=settings, seed=seed, weaker=weaker)


def at_measured_weights(strip: strips.Strip, results: Sequence[Result]) -> strips.Strip:
    """The strip at the weights that were measured with its model.

    Of more than MOST_WEIGHTS these are the lowest, that of the lowest distance, and the highest.
    """
    model = strip.model.sha256
    own = [each for each in results if moved(each) is None and each.swept["model"] == model]
    weights = sorted({each.swept["w"] for each in own})
    if len(weights) > MOST_WEIGHTS:
        weights = sorted({weights[0], lowest(own).swept["w"], weights[-1]})
    return dataclasses.replace(strip, weights=weights)


class Tiles(NamedTuple):
    """Pictures by row and weight.

    A row is a label; points have a single row, with a scatter plot of all labels.
    names: names of the rows. captions: captions of the columns. images: uint8
    [rows, columns, H, W, 3].
    """

    names: list[str]
    captions: list[str]
    images: np.ndarray


def tiles(strip: strips.Strip, folder: Path) -> Tiles:
    """Draws a strip, once: its pictures are stored in `folder` as one PNG.

    Raises ValueError for a damaged PNG.
    """
    path = folder / f"samples_{_digest(strip)}.png"
    if not path.exists():
        images.save_png(path, _drawn(strip))
    picture = np.asarray(images.read_picture(path).convert("RGB"))
    names = list(map(str, strip.names)) if len(strip.model.shape) == 3 else ["all labels"]
    captions = [strips.caption(w, 0.0) for w in strip.weights]
    height, width = picture.shape[0] // len(names), picture.shape[1] // len(captions)
    each = picture.reshape(len(names), height, len(captions), width, 3).swapaxes(1, 2)
    return Tiles(names, captions, each)


def _drawn(strip: strips.Strip) -> np.ndarray:
    """Draws a strip as one image of its tiles, without captions."""
    x = strip.draw()
    if x.ndim == 6:
        return images.grid(images.to_images(x[:, 0]), gap=0)
    plots = [
        images.scatter(x.swapaxes(1, 2)[:, [i]], strip.names, [strips.caption(w, 0.0)])
        for i, w in enumerate(strip.weights)
    ]
    return np.concatenate([np.asarray(plot) for plot in plots], axis=1)


def _digest(strip: strips.Strip) -> str:
    model, weaker = strip.model, strip.weaker
    options = model.filled(strip.settings).to_json(model.experiment)
    weights = list(map(float, strip.weights))
    identity = [model.sha256, weights, options, strip.seed, list(strip.labels)]
    identity += [weaker.sha256] if weaker else []
    return manifest.sha256_json(identity)[:12]
