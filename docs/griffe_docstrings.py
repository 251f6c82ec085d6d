"""Extension of griffe for two conventions of this package, which renders fields as tables.

- A class docstring may list its fields as `name: text` lines without a header, or under the header
  "Attributes in addition to ...:"; the header `Attributes:` is inserted.
- A Linen module or NamedTuple has no `__init__`; its parameters are its annotated fields.
"""

import inspect
import re

import griffe

_FIELD = re.compile(r"(\w+(?:, \w+)*): \S")


def with_header(text: str, fields: set[str]) -> str:
    """`text` with an Attributes section in place of paragraphs that list fields of the class."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    for i, paragraph in enumerate(paragraphs[1:], start=1):
        head, _, rest = paragraph.partition("\n")
        if head.startswith("Attributes ") and head.endswith(":"):
            paragraphs[i] = f"{head[:-1]}:\n\nAttributes:\n{rest}"
        first = _FIELD.match(paragraph)
        if first and set(first[1].split(", ")) <= fields:
            lines = ["  " + line for line in paragraph.splitlines()]
            paragraphs[i] = "\n".join(["Attributes:", *lines])
    return "\n\n".join(paragraphs)


def annotated(cls: griffe.Class) -> dict[str, griffe.Attribute]:
    """Public fields of a class body in their order."""
    return {
        name: member
        for name, member in cls.members.items()
        if member.is_attribute
        and member.annotation
        and "property" not in member.labels
        and not name.startswith("_")
    }


def is_tuple(cls: griffe.Class) -> bool:
    """Whether a class is a NamedTuple."""
    return "NamedTuple" in map(str, cls.bases)


def submodules(module: griffe.Module) -> list[griffe.Module]:
    """All modules below a module."""
    own = [each for each in module.modules.values() if not each.is_alias]
    return own + [below for each in own for below in submodules(each)]


def initialiser(cls: griffe.Class, inherited: list[griffe.Class]) -> griffe.Function:
    """`__init__` with the fields of a class, and those it inherits first, as arguments."""
    members = {}
    kinds = griffe.ParameterKind
    kind = kinds.positional_or_keyword if is_tuple(cls) else kinds.keyword_only
    for each in (cls, *inherited):
        members = annotated(each) | members
    parameters = [
        griffe.Parameter(
            name,
            annotation=member.annotation,
            kind=kind,
            default=member.value,
        )
        for name, member in members.items()
    ]
    return griffe.Function("__init__", parameters=griffe.Parameters(*parameters), parent=cls)


class Docstrings(griffe.Extension):
    """Applies both conventions to every class of the package."""

    def on_class_members(self, *, cls: griffe.Class, **_) -> None:
        fields = {name for name, member in cls.members.items() if member.is_attribute}
        if cls.docstring and fields:
            cls.docstring.value = with_header(cls.docstring.value, fields)

    def on_package(self, *, pkg: griffe.Module, **_) -> None:
        for module in [pkg, *submodules(pkg)]:
            for cls in module.classes.values():
                if cls.is_alias or "__init__" in cls.members or not annotated(cls):
                    continue
                if is_tuple(cls) or cls.path.startswith("cfg_jax.models."):
                    bases = [base for base in cls.mro() if base.path.startswith("cfg_jax.models.")]
                    cls.set_member("__init__", initialiser(cls, bases))
