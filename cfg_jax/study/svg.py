"""Figures as SVG that take their colours and their font from the page around them.

A figure is drawn in INK and COLORS. On the page INK is the colour of its text, and colour i is the
variable --series-i, with one value on a light page and another on a dark one.
"""

import io
from typing import Any
from xml.etree import ElementTree

INK = "#1b1d21"
COLORS = (
    *(("#1f6fb4", "#6db3f2"), ("#b85400", "#f0a04b"), ("#2a7f3e", "#6cc784")),
    *(("#c2293a", "#ff8a93"), ("#7a4fb5", "#bda4f2"), ("#7d5a3c", "#d0ad8b")),
    *(("#b8327f", "#f08ac6"), ("#5f6670", "#a9b1bc"), ("#6b6b00", "#c9c94a")),
    ("#007580", "#4cc7d4"),
)
"""Colour of each curve as (light page, dark page); image files have the first."""

_ON_PAGE = {INK: "currentColor"} | {
    light: f"var(--series-{i})" for i, (light, _) in enumerate(COLORS)
}
_PAINTED = ("fill", "stroke", "stop-color")
_XLINK = "{http://www.w3.org/1999/xlink}"


def svg(figure: Any, name: str, label: str) -> str:
    """A matplotlib figure as an <svg> element for an HTML page.

    name: start of every id in it, different for every figure of a page. label: text for readers who
    do not see it.
    """
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(stream.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):  # a style would hold for the whole page
                parent.remove(child)
    used = _references(root)
    for element in root.iter():
        element.tag = _local(element.tag)
        given = {_local(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update(_attributes(given, name, used))
    root.attrib = {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """A name without its namespace, which HTML knows."""
    return name.rpartition("}")[2]


def _references(root: ElementTree.Element) -> set[str]:
    """Every id that an element of the figure refers to."""
    return {
        value.removeprefix("url(").rstrip(")").removeprefix("#")
        for element in root.iter()
        for key, value in element.attrib.items()
        if key == f"{_XLINK}href" or value.startswith("url(#")
    }


def _attributes(given: dict[str, str], name: str, used: set[str]) -> dict[str, str]:
    """Attributes of one element, with ids of this figure only and the colours of the page."""
    found = {}
    for key, value in given.items():
        if key == "id":
            if value in used:
                found[key] = f"{name}-{value}"
        elif key == "href" or value.startswith("url(#"):
            found[key] = value.replace("#", f"#{name}-", 1)
        elif key == "style":
            found[key] = _style(value)
        else:
            found[key] = _ON_PAGE.get(value, value) if key in _PAINTED else value
    return found


def _style(text: str) -> str:
    """Declarations of a style in the colours and the font of the page."""
    pairs = [part.split(": ", 1) for part in text.split("; ") if not part.startswith("font-family")]
    return "; ".join(
        f"{key}: {_ON_PAGE.get(value, value) if key in _PAINTED else value}" for key, value in pairs
    )
