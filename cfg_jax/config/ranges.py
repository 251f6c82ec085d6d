"""Allowed values of a config field: a test of a value, and the text of an error message.

Numbers must be finite in float32, the type in which the programs compute. A bool is no number.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Range(NamedTuple):
    """`holds(value)` is whether a value is allowed; `allowed` completes "need ...".

    names: the allowed values, if they are names.
    """

    holds: Callable[[Any], bool]
    allowed: str
    names: tuple[str, ...] = ()


def _is_number(value: Any) -> bool:
    """Whether value is a number that float32 holds; True and False are none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= _MOST


def _is_several(values: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(values, tuple | list) and all(map(holds, values))


def integer(least: int, most: int) -> Range:
    """Integers from least to most, both included."""

    def holds(value: Any) -> bool:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and least <= value <= most

    return Range(holds, f"an integer from {least} to {most}")


def number(holds: Callable[[Any], bool], allowed: str) -> Range:
    """Numbers of float32 for which `holds` is true."""
    return Range(lambda value: _is_number(value) and holds(value), f"a number {allowed}")


def one_of(values: Sequence[Any]) -> Range:
    """The values, and no others that compare equal, such as True and 1."""
    kinds = tuple({type(value) for value in values})
    allowed = f"one of {', '.join(map(repr, values))}"
    names = tuple(value for value in values if isinstance(value, str))
    return Range(lambda value: type(value) in kinds and value in values, allowed, names)


def some(each: Range, allowed: str) -> Range:
    """Tuples and lists of at least one value of a range."""
    return Range(lambda values: _is_several(values, each.holds) and len(values) > 0, allowed)


def any_number_of(each: Range, allowed: str) -> Range:
    """Tuples and lists of values of a range, also empty."""
    return Range(lambda values: _is_several(values, each.holds), allowed)


def name(what: str) -> Range:
    """Texts that are not empty."""
    return Range(lambda value: isinstance(value, str) and value != "", f"the name of {what}")


_MOST = float(np.finfo(np.float32).max)

ANY_NUMBER = number(lambda value: True, "that float32 holds")
NOT_NEGATIVE = number(lambda value: value >= 0, "of at least 0")
POSITIVE = number(lambda value: bool(np.float32(value) > 0), "above 0, also in float32")
FRACTION = number(lambda value: 0 <= value <= 1, "in [0, 1]")
POSITIVE_FRACTION = number(lambda value: 0 < value <= 1, "in (0, 1]")
# A decay that float32 rounds to 1 makes Adam divide by zero.
BELOW_ONE = number(
    lambda value: 0 <= value and bool(np.float32(value) < 1), "in [0, 1), in float32 too"
)
TEXT = Range(lambda value: isinstance(value, str), "a text")
FLAG = Range(lambda value: isinstance(value, bool), "True or False")
COUNT = integer(1, 2**31 - 1)
COUNT_OR_ZERO = integer(0, 2**31 - 1)
SIDE = integer(1, 2**14)
SIDE_OR_ZERO = integer(0, 2**14)
