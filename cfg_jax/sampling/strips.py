"""Guided samples side by side: rows are labels, columns are weights.

    strip = Strip(model, labels=[0, 7], weights=[0.0, 1.0, 3.0])
    strip.picture(strip.draw())

The noise is the same in every column of a row, at every step; only the guidance differs.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cfg_jax.config.validate import to_json
from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import finite, seed_of, text_of, whole
from cfg_jax.core.telemetry import Telemetry
from cfg_jax.core.types import Key
from cfg_jax.io import files, images
from cfg_jax.io.images import Picture
from cfg_jax.io.progress import track
from cfg_jax.runtime import devices
from cfg_jax.sampling.identity import identity
from cfg_jax.sampling.labels import named
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.settings import SamplingSettings

PREVIEW_LABELS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Strip:
    """A strip: samples of some labels at several weights, rows by label and columns by weight.

    model: model to sample from.
    labels: numbers in 0..num_classes or names; num_classes means "no label".
    weights: guidance weights w, one per column.
    classifier_weights: classifier weights; `columns` pairs them with `weights`.
    settings: all settings except the two weights.
    classifier: noisy classifier for classifier guidance.
    weaker: weaker model for autoguidance, in place of the null label.
    seed: random seed; row r, counted over all labels, uses fold_in(key(seed), r).
    samples_per_label: rows per label.
    batch_size: samples per batch; the last batch is padded, so one shape is compiled.
    """

    model: Model
    labels: Sequence[int | str]
    weights: Sequence[float]
    classifier_weights: Sequence[float] = (0.0,)
    settings: SamplingSettings = SamplingSettings()
    classifier: NoisyClassifier | None = None
    seed: int = 0
    samples_per_label: int = 1
    batch_size: int = 256
    weaker: Model | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", self.model.numbered(self.labels))

    @property
    def columns(self) -> list[tuple[float, float]]:
        """(w, classifier_w) of every column."""
        return columns(self.weights, self.classifier_weights)

    @property
    def names(self) -> np.ndarray:
        """Label names, one per label."""
        return named(np.asarray(self.labels), self.model.label_names)

    @property
    def _guides(self) -> dict[str, Any]:
        return {"classifier": self.classifier, "weaker": self.weaker}

    def check(self) -> None:
        """Raises ValueError if `Model.check` rejects a column, or for a size or seed out of range.

        Derives no key.
        """
        for name in ("samples_per_label", "batch_size"):
            whole(name, getattr(self, name), 1)
        seed_of(self.seed)
        if not isinstance(self.settings, SamplingSettings):
            raise ValueError(f"settings={text_of(self.settings)}: need SamplingSettings(...)")
        for w, classifier_w in np.asarray(self.columns, np.float32).tolist():
            settings = self.settings.replace(w=w, classifier_w=classifier_w)
            self.model.check(settings, np.asarray(self.labels), **self._guides)

    def draw(self, *, progress: bool = True) -> np.ndarray:
        """Checks, then draws x [labels, samples_per_label, columns, ...], float32.

        Shows the number of finished batches if `progress` is True.
        """
        self.check()
        pairs = np.asarray(self.columns, np.float32)
        keys, labels = self.rows()

        def draw(place):
            row, (w, classifier_w) = place // len(pairs), pairs[place % len(pairs)].T
            settings = self.settings.replace(w=w, classifier_w=classifier_w)
            return self.model.draw(keys[row], settings, labels=labels[row], **self._guides)

        x = _in_batches(draw, len(labels) * len(pairs), self.batch_size, progress=progress)
        return x.reshape(-1, self.samples_per_label, len(pairs), *self.model.shape)

    def telemetry(self) -> dict[str, Telemetry]:
        """`Telemetry` of every column, by its caption, with one sample per row.

        Raises ValueError as `check`, and for a model without a second branch.
        """
        self.check()
        keys, labels = self.rows()
        found = {}
        for w, classifier_w in self.columns:
            settings = self.settings.replace(w=w, classifier_w=classifier_w)
            parts = []
            for row, count in devices.index_batches(
                0, len(labels), min(self.batch_size, len(labels))
            ):
                inputs = {"labels": labels[row], **self._guides}
                _, part = self.model.telemetry(keys[row], settings, **inputs)
                parts.append([values[..., :count] for values in part[1:]])
            arrays = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
            found[caption(w, classifier_w)] = Telemetry(part.logsnr, *arrays)
        return found

    def rows(self) -> tuple[Key, np.ndarray]:
        """Keys and labels, one per row."""
        labels = np.repeat(np.asarray(self.labels, np.int32), self.samples_per_label)
        return keys_lib.per_example(jax.random.key(self.seed), labels.size), labels

    def picture(self, x: np.ndarray) -> Picture:
        """A captioned grid of the images x, or a scatter plot of the points x."""
        titles = [caption(*pair) for pair in self.columns]
        if x.ndim == 6:
            grid = images.to_images(x).reshape(-1, *x.shape[2:])
            return images.captioned_grid(grid, np.repeat(self.names, x.shape[1]), titles)
        return images.scatter(x.swapaxes(1, 2), self.names, titles)


@dataclasses.dataclass(frozen=True, eq=False)
class Upsampler:
    """Second stage of a cascade, which enlarges the images of a strip.

    Guidance acts on the small images only: Dhariwal & Nichol 2021, section 4.4.

    model: model with a low_res_shape.
    settings: sampling settings of this stage.
    batch_size: images per batch.
    """

    model: Model
    settings: SamplingSettings = SamplingSettings()
    batch_size: int = 256

    def check(self, base: Model) -> None:
        """Raises ValueError if `base` does not match or `Model.check` rejects the settings."""
        model = self.model
        if model.low_res_shape is None:
            raise ValueError("the upsampler's model has no low_res input: give an upsampler")
        if model.low_res_shape != base.shape:
            raise ValueError(
                f"the upsampler enlarges images of {model.low_res_shape}, the model draws "
                f"{base.shape}: give a matching pair"
            )
        if model.label_names != base.label_names:
            raise ValueError(
                f"the upsampler's {len(model.label_names)} label names differ from the model's "
                f"{len(base.label_names)}: give a pair trained on the same data"
            )
        whole("batch_size", self.batch_size, 1)
        model.check(self.settings)

    def draw(self, strip: Strip, x: np.ndarray) -> np.ndarray:
        """Enlarges a strip's x, rounded to 8 bits, to [labels, samples, columns, H, W, C].

        The noise is the same along a row. Raises ValueError if `check` rejects the models.
        """
        self.check(strip.model)
        small = images.to_x(images.to_images(x).reshape(-1, *x.shape[3:]))
        keys, labels = strip.rows()
        # Otherwise the first noise would have the same key as the small images' first noise.
        keys = keys_lib.stream(keys, "upsampled")

        def draw(place):
            row = place // x.shape[2]
            return self.model.draw(
                keys[row], self.settings, labels=labels[row], low_res=small[place]
            )

        large = _in_batches(draw, len(small), self.batch_size)
        return large.reshape(*x.shape[:3], *self.model.shape)


def columns(
    weights: Sequence[float], classifier_weights: Sequence[float] = (0.0,)
) -> list[tuple[float, float]]:
    """(w, classifier_w) of every column: the two lists paired, a list of length 1 repeated.

    Raises ValueError if the lengths differ and neither is 1, or unless both are lists of numbers.
    """
    for name, values in (("weights", weights), ("classifier_weights", classifier_weights)):
        if finite(name, values, "a list of finite numbers").ndim != 1:
            raise ValueError(f"{name}={text_of(values)}: need a list of finite numbers")
    lists = (list(weights), list(classifier_weights))
    count = max(map(len, lists))
    if {*map(len, lists)} - {1, count}:
        raise ValueError(
            f"{len(weights)} guidance weights with {len(classifier_weights)} classifier weights: "
            "give equally many, or one of either"
        )
    return list(zip(*(values * (count // len(values)) for values in lists), strict=True))


def caption(w: float, classifier_w: float) -> str:
    """Heading of a column."""
    return f"w = {w:g}" + (f"\nclassifier {classifier_w:g}" if classifier_w else "")


def preview(model: Model, weights: Sequence[float], directory: Path) -> Path:
    """Saves a picture of a few samples of the first labels; the file name has the step."""
    labels = range(min(PREVIEW_LABELS, model.null_label))
    many = 1 if len(model.shape) == 3 else 200
    strip = Strip(model, labels, weights, samples_per_label=many)
    path = directory / f"step_{model.step:08d}.png"
    images.save_png(path, strip.picture(strip.draw()))
    return path


def write_guidance_strip(
    strip: Strip, directory: Path, upsampler: Upsampler | None = None
) -> tuple[Path, Path]:
    """Draws a strip and writes it as `.npz` and as PNG; returns both paths.

    The `.npz` holds `images` uint8 [labels, samples_per_label, columns, H, W, C] (for points `x`,
    float32), `labels`, `w` and `classifier_w` of the columns, `label_names`, `seed`, `num_steps`
    and the model's `step`. With an upsampler, `images` are enlarged and `small_images` are its
    inputs. File names depend on every setting, so samples of other settings are not overwritten.

    Raises ValueError if `Model.check` rejects the settings or the upsampler does not match the
    model. Raises OSError if the directory is not writable.
    """
    if upsampler is not None:
        upsampler.check(strip.model)
    x, arrays = strip.draw(), {}
    if upsampler is not None:
        arrays["small_images"] = images.to_images(x)
        x = upsampler.draw(strip, x)
    arrays |= {"images": images.to_images(x)} if x.ndim == 6 else {"x": x}
    settings = _settings(strip)
    w, classifier_w = np.asarray(strip.columns).T
    archive = directory / f"{_name(strip, settings, upsampler)}.npz"
    files.save_npz(
        archive,
        labels=np.asarray(strip.labels),
        label_names=strip.names,
        w=w,
        classifier_w=classifier_w,
        seed=strip.seed,
        num_steps=settings["num_steps"],
        step=strip.model.step,
        **arrays,
    )
    png = archive.with_suffix(".png")
    images.save_png(png, strip.picture(x))
    return archive, png


def _name(strip: Strip, settings: dict[str, Any], upsampler: Upsampler | None) -> str:
    """File name with step, weights, T, seed and a digest of the rest."""
    by, large = strip.classifier, upsampler and upsampler.model
    described = {
        "settings": settings,
        "classifier": by and [to_json(by.config), by.step],
        **({"weaker": strip.weaker.sha256} if strip.weaker else {}),
        "upsampler": large and [to_json(large.config), large.step],
        "upsampler_settings": upsampler and _settings(upsampler),
        "labels": np.asarray(strip.labels).tolist(),
        "samples_per_label": strip.samples_per_label,
    }
    digest = zlib.crc32(json.dumps(described, sort_keys=True).encode())
    listed = "_".join(f"{w:g}" + (f"c{by:g}" if by else "") for w, by in strip.columns)
    step, num_steps = strip.model.step, settings["num_steps"]
    return f"step{step}_w{listed}_T{num_steps}_seed{strip.seed}_{digest:08x}"


def _settings(stage: Strip | Upsampler) -> dict[str, Any]:
    """Filled settings as JSON values."""
    model = stage.model
    return identity(model.filled(stage.settings).to_json(model.experiment))


def _in_batches(
    draw: Callable[[np.ndarray], np.ndarray], count: int, batch_size: int, *, progress: bool = True
) -> np.ndarray:
    """Evaluates draw(place [B]) for places 0..count - 1, B at a time: [count, ...]."""
    batches = devices.index_batches(0, count, min(batch_size, count))
    batches = track(batches, "batch") if progress else iter(batches)
    return np.concatenate([draw(place)[:num_new] for place, num_new in batches])
