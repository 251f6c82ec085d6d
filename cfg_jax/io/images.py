"""Pictures of samples: grids and captioned strips of images, animations, PNG files.

images = round(127.5 (x + 1)),   x = images / 127.5 - 1,   x in [-1, 1], images uint8
"""

import base64
import dataclasses
import io
from collections.abc import Collection
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cfg_jax.io.files import check_suffix, folder, whole_file
from cfg_jax.io.plots import in_legend as in_legend
from cfg_jax.io.plots import rendered as rendered
from cfg_jax.io.plots import scatter as scatter
from cfg_jax.io.plots import scatter_by_name as scatter_by_name
from cfg_jax.io.reading import opened
from cfg_jax.io.text import one_line, short

Picture = Image.Image

SMALLEST_SIDE = 64


def to_images(x: np.ndarray) -> np.ndarray:
    """round(127.5 (x + 1)), clipped to 0..255: uint8 with the shape of x.

    Raises ValueError unless x has floats without NaN.

    Examples:
      >>> cfg_jax.images.to_images(np.array([-1.0, 0.0, 1.0, 9.0])).tolist()
      [0, 128, 255, 255]
    """
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating) or np.isnan(x).any():
        found = "NaN" if x.dtype.kind == "f" else x.dtype
        raise ValueError(f"x has {found}: need floats in [-1, 1]")
    return np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)


def shown(samples: np.ndarray) -> np.ndarray:
    """uint8 images as they are, floats in [-1, 1] by `to_images`, which clips what is beyond.

    Raises ValueError for another type, and for 8-bit levels as floats: none below 0, some above 2.

    Examples:
      >>> cfg_jax.images.shown(np.array([-1.2, 0.0])).tolist()
      [0, 128]
    """
    samples = np.asarray(samples)
    if samples.dtype == np.uint8:
        return samples
    floats = samples.dtype.kind == "f"
    if not floats or (samples.min(initial=0) >= 0 and samples.max(initial=0) > 2):
        range_of = f" from {samples.min():g} to {samples.max():g}" if floats else ""
        raise ValueError(
            f"samples of type {samples.dtype}{range_of}: need uint8, or floats in [-1, 1]; for "
            "8-bit levels, samples.astype(np.uint8)"
        )
    return to_images(samples)


def to_x(images: Any) -> Any:
    """images / 127.5 - 1: NumPy or JAX arrays to float32 in [-1, 1], ends included.

    Raises ValueError unless images has integers.

    Examples:
      >>> cfg_jax.images.to_x(np.array([0, 255], np.uint8)).tolist()
      [-1.0, 1.0]
    """
    kind = getattr(images, "dtype", None)
    if kind is None or kind.kind not in "ui":
        found = kind or type(images).__name__
        raise ValueError(f"images of type {found}: need an array of integers 0..255")
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def grid(images: np.ndarray, *, gap: int = 2) -> np.ndarray:
    """One uint8 image [height, width, 3] from [rows, columns, H, W, C], with white gaps in pixels.

    Images [columns, H, W, C] are one row. Images below 64 pixels are enlarged by an integer factor,
    so pixels stay square. Raises ValueError for other images.

    Examples:
      >>> images = np.zeros((2, 5, 8, 8, 1), np.uint8)  # enlarged to 64 pixels
      >>> cfg_jax.images.grid(images).shape
      (136, 340, 3)
    """
    images = np.asarray(images)
    images = images[None] if images.ndim == 4 else images
    if (
        images.dtype != np.uint8
        or images.ndim != 5
        or not images.size
        or images.shape[4] not in (1, 3)
    ):
        raise ValueError(
            f"images of shape {images.shape} and type {images.dtype}: need uint8 "
            "[rows, columns, H, W, C] or [columns, H, W, C], C = 1 or 3"
        )
    _check_count("gap", gap, 0)
    factor = -(-SMALLEST_SIDE // images.shape[2])
    images = images.repeat(factor, axis=2).repeat(factor, axis=3)
    images = np.broadcast_to(images, (*images.shape[:-1], 3))
    padding = [(0, 0), (0, 0), (gap, gap), (gap, gap), (0, 0)]
    padded = np.pad(images, padding, constant_values=255)
    rows, columns, height, width, _ = padded.shape
    return padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)


def captioned_grid(
    images: np.ndarray, row_captions: Collection[str], column_captions: Collection[str]
) -> Picture:
    """`grid` with captions left of rows and above columns; column captions may have two lines.

    Raises ValueError unless there is one caption per row and per column.

    Examples:
      >>> images = np.zeros((2, 3, 64, 64, 3), np.uint8)
      >>> cfg_jax.images.captioned_grid(images, ["cat", "dog"], ["w = 0", "w = 1", "w = 3"]).height
      160
    """
    if (len(row_captions), len(column_captions)) != np.shape(images)[:2]:
        raise ValueError(
            f"{len(row_captions)} row captions and {len(column_captions)} column captions for "
            f"images of shape {np.shape(images)}: give one per row and per column"
        )
    picture = Image.fromarray(grid(images))
    row_captions = [short(caption) for caption in row_captions]
    row_height = picture.height // images.shape[0]
    column_width = picture.width // images.shape[1]
    font = ImageFont.load_default(size=14)
    left = 12 + max(int(font.getlength(caption)) for caption in row_captions)
    lines = max(caption.count("\n") + 1 for caption in column_captions)
    top = 8 + 16 * lines
    above = font if lines == 1 else ImageFont.load_default(size=11)
    canvas = Image.new("RGB", (left + picture.width, top + picture.height), "white")
    canvas.paste(picture, (left, top))
    draw = ImageDraw.Draw(canvas)
    for i, caption in enumerate(column_captions):
        middle = left + column_width * i + column_width // 2
        draw.text((middle, top // 2), caption, "black", above, anchor="mm", align="center")
    for i, caption in enumerate(row_captions):
        draw.text((left - 6, top + row_height * i + row_height // 2), caption, "black", font, "rm")
    return canvas


def sheet(images: np.ndarray, captions: Collection[str] = (), *, columns: int = 10) -> Picture:
    """Images uint8 [B, H, W, C] in rows of `columns`, each below its caption if there are any.

    Raises ValueError for other images, unless there are B captions or none, and unless columns is
    an integer of at least 1.

    Examples:
      >>> images = np.zeros((7, 64, 64, 1), np.uint8)
      >>> cfg_jax.images.sheet(images, list("abcdefg"), columns=4).size
      (272, 176)
    """
    images = np.asarray(images)
    if images.ndim != 4 or not images.size:
        raise ValueError(f"images of shape {images.shape}: need uint8 [B, H, W, C]")
    if len(captions) not in (0, len(images)):
        raise ValueError(f"{len(captions)} captions for {len(images)} images: give one per image")
    _check_count("columns", columns, 1)
    top = 20 if len(captions) else 0
    rows = [Image.fromarray(grid(images[i : i + columns])) for i in range(0, len(images), columns)]
    height = top + rows[0].height
    canvas = Image.new("RGB", (rows[0].width, height * len(rows)), "white")
    for i, row in enumerate(rows):
        canvas.paste(row, (0, height * i + top))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    width = rows[0].width // min(columns, len(images))
    for i, caption in enumerate(captions):
        middle = width * (i % columns) + width // 2, height * (i // columns) + top // 2
        draw.text(middle, _fitting(short(caption), font, width), "black", font, "mm")
    return canvas


def _check_count(name: str, value: Any, least: int) -> None:
    """Raises ValueError unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: need an integer of at least {least}")


def _fitting(text: str, font: Any, width: int) -> str:
    """`text`, shortened until it is no wider than `width` pixels."""
    for most in range(len(text), 6, -1):
        if font.getlength(short(text, most)) <= width:
            return short(text, most)
    return text[:6]


@dataclasses.dataclass(frozen=True, eq=False)
class Animation:
    """A looping GIF, which a notebook shows where it is the last value of a cell.

    gif: content of the file.
    width: width of the pictures, in pixels.

    Examples:
      >>> moving = cfg_jax.images.animation(np.zeros((8, 2, 8, 8, 1), np.uint8))
      >>> moving.width, len(moving.gif) > 100
      (136, True)
    """

    gif: bytes = dataclasses.field(repr=False)
    width: int

    def save(self, path: str | Path) -> None:
        """Writes the GIF, atomically; ValueError for a name of another suffix than .gif."""
        with whole_file(_path(path, ".gif")) as file:
            file.write(self.gif)

    def _repr_html_(self) -> str:
        content = base64.b64encode(self.gif).decode()
        return f'<img src="data:image/gif;base64,{content}" width="{self.width}">'


def animation(frames: np.ndarray, *, seconds: float = 0.15) -> Animation:
    """Frames uint8 [n, B, H, W, C], as from `Model.trajectory`, as a looping animation.

    Every frame shows the B images in a row for `seconds`, the last one for a second. Raises
    ValueError unless frames has this form and seconds is from 0.01 to 600.

    Examples:
      >>> frames = np.random.default_rng(0).integers(0, 256, (8, 2, 8, 8, 1)).astype(np.uint8)
      >>> cfg_jax.images.animation(frames).gif[:6]
      b'GIF89a'
    """
    frames = np.asarray(frames)
    if frames.ndim != 5:
        raise ValueError(
            f"frames of shape {frames.shape}: need uint8 [n, B, H, W, C], as of `Model.trajectory`"
        )
    _check_seconds(seconds)
    pictures = [Image.fromarray(grid(frame)) for frame in frames]
    times = [int(1000 * seconds)] * (len(pictures) - 1) + [1000]
    options = {"save_all": True, "append_images": pictures[1:], "duration": times, "loop": 0}
    file = io.BytesIO()
    pictures[0].save(file, format="GIF", **options)
    return Animation(file.getvalue(), pictures[0].width)


def _check_seconds(seconds: Any) -> None:
    """Raises ValueError unless `seconds` is a time that a GIF can hold, in hundredths."""
    is_number = isinstance(seconds, Real) and not isinstance(seconds, bool)
    if not is_number or not 0.01 <= seconds <= 600:
        raise ValueError(f"seconds={seconds!r}: need a number from 0.01 to 600")


def save_gif(path: str | Path, frames: np.ndarray, *, seconds: float = 0.15) -> None:
    """Writes the `animation` of frames as a file; ValueError as there and for a path not of a GIF.

    Examples:
      >>> import tempfile, pathlib
      >>> place = pathlib.Path(tempfile.mkdtemp())
      >>> cfg_jax.images.save_gif(place / "a.gif", np.zeros((8, 2, 8, 8, 1), np.uint8))
      >>> (place / "a.gif").stat().st_size > 100
      True
    """
    path = _path(path, ".gif")
    animation(frames, seconds=seconds).save(path)


def read_picture(path: Path) -> Picture:
    """Reads a PNG of `save_png` into memory; ValueError for a damaged file.

    Examples:
      >>> import tempfile, pathlib
      >>> place = pathlib.Path(tempfile.mkdtemp())
      >>> picture = cfg_jax.images.sheet(np.zeros((1, 8, 8, 1), np.uint8))
      >>> cfg_jax.images.save_png(place / "a.png", picture)
      >>> cfg_jax.images.read_picture(place / "a.png").mode
      'RGB'
    """
    try:
        with opened(path) as file, Image.open(file, formats=["PNG"]) as picture:
            return picture.copy()
    except Exception as error:  # Pillow raises errors of many types for damaged files
        raise ValueError(
            f"{path} cannot be read ({one_line(error)}): delete it to draw it again"
        ) from error


def save_png(path: str | Path, picture: Picture | np.ndarray) -> None:
    """Writes a picture of Pillow, or one image uint8 [H, W, C], as PNG, atomically.

    Raises ValueError for another value, and for a name of another suffix; C is 1 or 3.

    Examples:
      >>> import tempfile, pathlib
      >>> place = pathlib.Path(tempfile.mkdtemp())
      >>> picture = cfg_jax.images.sheet(np.zeros((2, 8, 8, 1), np.uint8))
      >>> cfg_jax.images.save_png(place / "a.png", picture)
      >>> cfg_jax.images.read_picture(place / "a.png").size
      (136, 68)
    """
    path, content = _path(path, ".png"), png(picture)
    with whole_file(path) as file:
        file.write(content)


def png(picture: Picture | np.ndarray) -> bytes:
    """The content of a PNG file of what `save_png` writes; ValueError as there.

    Examples:
      >>> cfg_jax.images.png(np.zeros((8, 8, 3), np.uint8))[1:4]
      b'PNG'
    """
    if not isinstance(picture, Picture):
        picture = Image.fromarray(_single(picture))
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def _single(image: Any) -> np.ndarray:
    """One image as Pillow takes it: uint8 [H, W, 3] or [H, W]; ValueError for another value."""
    shape = np.shape(image) if isinstance(image, np.ndarray) else None
    if shape is None or image.dtype != np.uint8 or shape[2:] not in ((1,), (3,)) or not image.size:
        kind = f"type {type(image).__name__}" if shape is None else f"shape {shape}, {image.dtype}"
        raise ValueError(f"picture of {kind}: need a picture, as of `sheet(images)`")
    return image[..., 0] if shape[2] == 1 else image


def _path(path: Any, suffix: str) -> Path:
    """A text as the path of a file, in a bucket too; ValueError for another type or suffix."""
    if not isinstance(path, str) and not hasattr(path, "__fspath__"):
        raise ValueError(f"path of type {type(path).__name__}: give the name of the file first")
    check_suffix(path, "path", suffix)
    return folder(path) if isinstance(path, str) else path
