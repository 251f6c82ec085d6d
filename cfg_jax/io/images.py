"""Pictures of samples: grids and captioned strips of images, scatter plots of points, PNG files.

images = round(127.5 (x + 1)),   x = images / 127.5 - 1,   x in [-1, 1], images uint8
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cfg_jax.io.files import whole_file

Picture = Image.Image

SMALLEST_SIDE = 64


def to_images(x: np.ndarray) -> np.ndarray:
    """round(127.5 (x + 1)), clipped to 0..255: uint8 with the shape of x."""
    return np.clip(np.rint((np.asarray(x) + 1) * 127.5), 0, 255).astype(np.uint8)


def to_x(images: Any) -> Any:
    """images / 127.5 - 1: NumPy or JAX arrays to float32 in [-1, 1], ends included."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def grid(images: np.ndarray, *, gap: int = 2) -> np.ndarray:
    """One uint8 image [height, width, 3] from [rows, columns, H, W, C], with white gaps in pixels.

    Images below 64 pixels are enlarged by an integer factor, so pixels stay square.
    """
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
    """`grid` with captions left of rows and above columns; column captions may have two lines."""
    picture = Image.fromarray(grid(images))
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
            axes.plot(*points[row, column].T, ".", markersize=2, label=label)
    axes.legend(loc="upper right", markerscale=4, fontsize="small")
    return rendered(figure)


def _show_dollars(figure) -> None:
    """Shows "$" in the names of a figure as it is; tick labels keep their formulas."""
    for axes in figure.axes:
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label]
        legend = axes.get_legend()
        for text in texts + (legend.get_texts() if legend else []):
            text.set_parse_math(False)


def rendered(figure) -> Picture:
    """Renders a matplotlib figure as a picture, without a display; names are no formulas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    _show_dollars(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def read_picture(path: Path) -> Picture:
    """Reads a picture into memory."""
    with Image.open(path) as opened:
        return opened.copy()


def save_png(path: Path, picture: Picture) -> None:
    """Writes `picture` as PNG, atomically."""
    with whole_file(path) as file:
        picture.save(file, format="PNG")
