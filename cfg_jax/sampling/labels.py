"""Labels given by class name."""

import difflib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cfg_jax.core.types import ArrayLike

Labels = ArrayLike | str | Sequence[str | int] | None
"""Labels as a user gives them: numbers, names, or one of either."""

NO_LABEL = "no label"
"""Name of the null label."""


def numbered(labels: Any, names: Sequence[str]) -> Any:
    """`labels` with every name replaced by its index in `names`; numbers are left as they are.

    "no label" is len(names), the null label. Raises ValueError for a name that is missing or that
    several classes have.
    """
    if isinstance(labels, str):
        return _index(labels, names)
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "UTO":
        labels = labels.tolist()
    if isinstance(labels, list | tuple) and any(isinstance(label, str) for label in labels):
        return [_index(label, names) if isinstance(label, str) else label for label in labels]
    return labels


def batch_of(labels: Any, names: Sequence[str]) -> Any:
    """`numbered` labels of a batch; one number or name is a batch of one."""
    found = numbered(labels, names)
    single = isinstance(found, int | np.integer | np.ndarray | jax.Array) and np.ndim(found) == 0
    return [found] if single else found


def named(labels: ArrayLike, names: Sequence[str]) -> np.ndarray:
    """The names of numbers in 0..len(names): an array of text with the shape of `labels`."""
    return np.asarray([*names, NO_LABEL])[np.asarray(labels)]


def _index(name: str, names: Sequence[str]) -> int:
    found = [label for label, other in enumerate([*names, NO_LABEL]) if other == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"label {str(name)!r} names the classes {found}: give a number")
    every = [*names, NO_LABEL]
    near = difflib.get_close_matches(name, every, n=3)
    shown = every if len(", ".join(every)) <= 100 else [*every[:3], "...", *every[-2:]]
    advice = f"did you mean {' or '.join(map(repr, near))}" if near else f"need {', '.join(shown)}"
    raise ValueError(
        f"label {str(name)!r} is not a class: {advice}; classes also have the numbers "
        f"0..{len(names) - 1}"
    )
