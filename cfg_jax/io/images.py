"""Pictures of samples: grids and captioned strips of images, scatter plots of points, PNG files.

images = round(127.5 (x + 1)),   x = images / 127.5 - 1,   x in [-1, 1], images uint8
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cfg_jax.io.files import whole_file
from cfg_jax.io.reading import opened
from cfg_jax.io.text import one_line, short

Picture = Image.Image

SMALLEST_SIDE = 64


def to_images(x: np.ndarray) -> np.ndarray:
    """round(127.5 (x + 1)), clipped to 0..255: uint8 with the shape of x.

    Raises ValueError unless x has floats without NaN.
    """
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating) or np.isnan(x).any():
        found = "NaN" if x.dtype.kind == "f" else x.dtype
        raise ValueError(f"x has {found}: need floats in [-1, 1]")
    return np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)


def to_x(images: Any) -> Any:
    """images / 127.5 - 1: NumPy or JAX arrays to float32 in [-1, 1], ends included.

    Raises ValueError unless images has integers.
    """
    kind = getattr(images, "dtype", np.dtype(object)).kind
    if kind not in "ui":
        raise ValueError(
            f"images of type {type(images).__name__}: need an array of integers 0..255"
        )
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def grid(images: np.ndarray, *, gap: int = 2) -> np.ndarray:
    """One uint8 image [height, width, 3] from [rows, columns, H, W, C], with white gaps in pixels.

    Images below 64 pixels are enlarged by an integer factor, so pixels stay square. Raises
    ValueError for other images.
    """
    images = np.asarray(images)
    if (
        images.dtype != np.uint8
        or images.ndim != 5
        or not images.size
        or images.shape[4] not in (1, 3)
    ):
        raise ValueError(
            f"images of shape {images.shape} and type {images.dtype}: need uint8 "
            "[rows, columns, H, W, C], C = 1 or 3"
        )
    if isinstance(gap, bool) or not isinstance(gap, int) or gap < 0:
        raise ValueError(f"gap={gap!r}: need a number of pixels of at least 0")
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


def scatter(
    points: np.ndarray, row_captions: Collection[str], column_captions: Collection[str]
) -> Picture:
    """Plots points [rows, columns, N, 2]: a plot per column, a colour per row, equal axes."""
    from matplotlib.figure import Figure

    columns = points.shape[1]
    figure = Figure(figsize=(3 * columns, 3.2), layout="constrained")
    reach = 1.05 * np.abs(points).max()
    for column, caption in enumerate(column_captions):
        axes = figure.add_subplot(1, columns, column + 1, aspect="equal", title=caption)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        for row, label in enumerate(row_captions):
            axes.plot(*points[row, column].T, ".", markersize=2, label=in_legend(short(label, 24)))
    axes.legend(loc="upper right", markerscale=4, fontsize="small")
    return rendered(figure)


def in_legend(name: object) -> str:
    """A name as the label of a curve; matplotlib hides labels that are empty or begin with "_"."""
    text = short(name)
    return f" {text}" if text[:1] in ("", "_") else text


def _show_names(figure) -> None:
    """Shows the names of a figure as they are; tick labels keep their formulas."""
    for axes in figure.axes:
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label]
        legend = axes.get_legend()
        for text in texts + (legend.get_texts() if legend else []):
            text.set_parse_math(False)
            text.set_text("\n".join(short(line, 56) for line in text.get_text().split("\n")))


def rendered(figure) -> Picture:
    """Renders a matplotlib figure as a picture, without a display; names are no formulas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    _show_names(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def save_gif(path: str | Path, frames: np.ndarray, *, seconds: float = 0.15) -> None:
    """Writes frames uint8 [n, B, H, W, C], as from `Model.trajectory`, as a looping animation.

    Every frame shows the B images in a row; the last stays for a second. Raises ValueError unless
    frames has this form and seconds is above 0.
    """
    frames = np.asarray(frames)
    if frames.ndim != 5 or not seconds > 0:
        raise ValueError(
            f"frames of shape {frames.shape}, seconds={seconds}: need [n, B, H, W, C], above 0"
        )
    pictures = [Image.fromarray(grid(frame[None])) for frame in frames]
    times = [int(1000 * seconds)] * (len(pictures) - 1) + [1000]
    options = {"save_all": True, "append_images": pictures[1:], "duration": times, "loop": 0}
    with whole_file(Path(path)) as file:
        pictures[0].save(file, format="GIF", **options)


def read_picture(path: Path) -> Picture:
    """Reads a PNG of `save_png` into memory; ValueError for a damaged file."""
    try:
        with opened(path) as file, Image.open(file, formats=["PNG"]) as picture:
            return picture.copy()
    except Exception as error:  # Pillow raises errors of many types for damaged files
        raise ValueError(
            f"{path} cannot be read ({one_line(error)}): delete it to draw it again"
        ) from error


def save_png(path: Path, picture: Picture) -> None:
    """Writes `picture` as PNG, atomically."""
    with whole_file(path) as file:
        picture.save(file, format="PNG")
