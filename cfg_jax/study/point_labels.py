"""Labels beside the points of a figure, where they overlap nothing.

A label takes the first place around its point that hides no other label and no point, and of those
the one that hides least of the curves. A label without such a place is left out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cfg_jax.study.svg import INK

_AROUND = [(x, y) for x in (1, -1, 0) for y in (-1, 1, 0) if x or y]
_DISTANCES = (4.0, 8.0, 12.0)  # points from the middle of a marker to the label
_SAMPLES = 24  # of the line between two points


class Label(NamedTuple):
    """A text in a colour for the point (x, y); labels of a lower rank are placed first."""

    text: str
    x: float
    y: float
    color: str = INK
    rank: int = 0


def place(axes: Any, labels: Sequence[Label], size: float = 8.0) -> None:
    """Writes labels into axes whose lines are drawn."""
    figure = axes.figure
    figure.draw_without_rendering()  # so that the transforms are those of the final layout
    scale = figure.dpi / 72
    curves, taken = [], []
    for line in axes.lines:
        points = axes.transData.transform(line.get_xydata())
        curves.append(points if line.get_linestyle() == "None" else _between(points))
        edge = line.get_markersize() / 2 * scale
        taken += [np.concatenate([point - edge, point + edge]) for point in points]
    for bars in axes.collections:
        curves += [_between(axes.transData.transform(bar)) for bar in bars.get_segments()]
    drawn = np.concatenate(curves)
    for label in sorted(labels, key=lambda label: label.rank):
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            (0, 0),
            textcoords="offset points",
            fontsize=size,
            color=label.color,
            ha="center",
            va="center",
            in_layout=False,
        )
        extent = text.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2
        middle = axes.transData.transform((label.x, label.y))
        offset = _free_offset(middle, half, scale, np.array(taken), drawn, axes.bbox.extents)
        if offset is None:
            text.remove()
            continue
        text.set_position(offset / scale)
        taken.append(np.concatenate([middle + offset - half, middle + offset + half]))


def _between(line: np.ndarray) -> np.ndarray:
    """Points along a line [n, 2], those between its own included."""
    if len(line) < 2:
        return line
    places = np.linspace(0, len(line) - 1, _SAMPLES * (len(line) - 1) + 1)
    return np.stack([np.interp(places, np.arange(len(line)), each) for each in line.T], axis=1)


def _free_offset(middle, half, scale, taken, curves, frame) -> np.ndarray | None:
    """Offset in pixels at which a label of half this size hides least, or None."""
    best, fewest = None, None
    for distance in _DISTANCES:
        for direction in _AROUND:
            offset = np.array(direction) * (half + distance * scale)
            low, high = middle + offset - half, middle + offset + half
            outside = (low < frame[:2]).any() or (high > frame[2:]).any()
            if outside or ((low < taken[:, 2:]) & (high > taken[:, :2])).all(axis=1).any():
                continue
            hidden = int(((curves > low) & (curves < high)).all(axis=1).sum())
            if fewest is None or hidden < fewest:
                best, fewest = offset, hidden
    return best
