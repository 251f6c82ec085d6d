"""Reads this package's short attribute lists as Google-style sections.

A class docstring may list its fields as `name: text` lines below the summary, without a header.
This extension of griffe inserts the header `Attributes:`, so that they are rendered as a table.
"""

import inspect
import re

import griffe

_FIELD = re.compile(r"(\w+(?:, \w+)*): \S")


def with_header(text: str, fields: set[str]) -> str:
    """`text` with an Attributes section in place of paragraphs that list fields of the class."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    for i, paragraph in enumerate(paragraphs[1:], start=1):
        first = _FIELD.match(paragraph)
        if first and set(first[1].split(", ")) <= fields:
            lines = ["  " + line for line in paragraph.splitlines()]
            paragraphs[i] = "\n".join(["Attributes:", *lines])
    return "\n\n".join(paragraphs)


class FieldLists(griffe.Extension):
    """Applies `with_header` to every class with annotated fields."""

    def on_class_members(self, *, cls: griffe.Class, **_) -> None:
        fields = {name for name, member in cls.members.items() if member.is_attribute}
        if cls.docstring and fields:
            cls.docstring.value = with_header(cls.docstring.value, fields)
