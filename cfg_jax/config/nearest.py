"""Fields that a misspelt one may have meant."""

import difflib
import heapq
from collections.abc import Iterable

_NEAREST = 3  # fields named beside an unknown one


def nearest(field: str, fields: Iterable[str]) -> list[str]:
    """The _NEAREST of `fields` most like `field`, best first; `lr` is like `learning_rate`."""

    def likeness(other: str) -> float:
        last, leaf = field.rpartition(".")[2], other.rpartition(".")[2]
        initials = "".join(word[:1] for word in leaf.split("_"))
        alike = [_alike(last, leaf), _alike(field, leaf), float(last == initials)]
        return max(alike) + _alike(field, other)

    return heapq.nlargest(_NEAREST, fields, key=likeness)


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
