"""Scatter plots of points, and figures of matplotlib as pictures.

    picture = scatter_by_name(points, names)

`images` has these functions too, beside those for images.
"""

from collections.abc import Collection

import numpy as np
from PIL import Image

from cfg_jax.io.text import short


def scatter(
    points: np.ndarray, row_captions: Collection[str], column_captions: Collection[str]
) -> Image.Image:
    """Plots points [rows, columns, N, 2]: a plot per column, a colour per row, equal axes.

    Points that are NaN are left out. The fewer points, the larger their dots.

    Examples:
      >>> points = np.random.default_rng(0).normal(size=(2, 3, 50, 2))
      >>> cfg_jax.images.scatter(points, ["a", "b"], ["w = 0", "w = 1", "w = 3"]).size
      (900, 320)
    """
    from matplotlib.figure import Figure

    columns = points.shape[1]
    figure = Figure(figsize=(3 * columns, 3.2), layout="constrained")
    reach = 1.05 * np.nanmax(np.abs(points))
    size = np.clip(64 / np.sqrt(points.shape[2]), 2, 8)
    for column, caption in enumerate(column_captions):
        axes = figure.add_subplot(1, columns, column + 1, aspect="equal", title=caption)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        for row, label in enumerate(row_captions):
            axes.plot(
                *points[row, column].T, ".", markersize=size, label=in_legend(short(label, 24))
            )
    axes.legend(loc="upper right", markerscale=8 / size, fontsize="small")
    return rendered(figure)


def scatter_by_name(points: np.ndarray, names: Collection[str] = ()) -> Image.Image:
    """A `scatter` plot of points [N, 2], with a colour for each of N names if there are any.

    Raises ValueError for other points, or unless there are N names or none.

    Examples:
      >>> points = np.random.default_rng(0).normal(size=(4, 2))
      >>> cfg_jax.images.scatter_by_name(points, ["a", "b", "a", "b"]).size
      (300, 320)
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2 or len(names) not in (0, len(points)):
        raise ValueError(
            f"points of shape {points.shape} with {len(names)} names: need [N, 2], and N names"
        )
    every = np.asarray(list(names) if len(names) else ["samples"] * len(points))
    rows = list(dict.fromkeys(every.tolist()))
    of_row = every == np.asarray(rows)[:, None]
    return scatter(np.where(of_row[..., None], points, np.nan)[:, None], rows, [""])


def in_legend(name: object) -> str:
    """A name as the label of a curve; matplotlib hides labels that are empty or begin with "_".

    Examples:
      >>> cfg_jax.images.in_legend("_hidden")
      ' _hidden'
    """
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


def rendered(figure) -> Image.Image:
    """Renders a matplotlib figure as a picture, without a display; `$` is not mathematics.

    Examples:
      >>> from matplotlib.figure import Figure
      >>> cfg_jax.images.rendered(Figure(figsize=(2, 1), dpi=100)).size
      (200, 100)
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    _show_names(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
