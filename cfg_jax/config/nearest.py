"""Fields that a misspelt one may have meant."""

import difflib
import heapq
from collections.abc import Iterable

_NEAREST = 3  # fields named beside an unknown one
_CLOSE = 0.7  # "workdri" and "workdir" have 0.86


def nearest(field: str, fields: Iterable[str]) -> list[str]:
    """The _NEAREST of `fields` most like `field`, best first; `lr` is like `learning_rate`."""
    return heapq.nlargest(
        _NEAREST, fields, key=lambda other: _likeness(field, other) + _alike(field, other)
    )


def close(field: str, fields: Iterable[str]) -> list[str]:
    """As `nearest`, without those that are hardly alike."""
    return nearest(field, [other for other in fields if _likeness(field, other) >= _CLOSE])


def _likeness(field: str, other: str) -> float:
    """Likeness of two names in [0, 1], with or without their sections; initials count as alike."""
    last, leaf = field.rpartition(".")[2], other.rpartition(".")[2]
    initials = "".join(word[:1] for word in leaf.split("_"))
    return max(_alike(last, leaf), _alike(field, leaf), float(last == initials))


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
