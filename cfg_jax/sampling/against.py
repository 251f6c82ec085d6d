"""Labels that guidance points away from: no label, a random class, or labels with weights.

    parts("null:2,7:-1")  ==  (("null", 2.0), ("7", -1.0))

The text is the setting `against`. With weights b of labels k, the second branch of guidance is
eps_other = sum_k b_k eps_k, and eps_hat = (1 + w) eps_label - w eps_other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cfg_jax.core.arguments import text_of
from cfg_jax.sampling import labels
from cfg_jax.sampling.labels import NO_LABEL

NULL, RANDOM = "null", "random"

_FORMS = f"need {NULL!r}, {RANDOM!r}, a class, or weights that sum to 1 as in 'null:2,7:-1'"


def parts(text: Any) -> tuple[tuple[str, float], ...]:
    """(label, weight) of every part of the text; the label is a number, a name, or "null".

    A class named "null" or "random", or with a comma or colon in its name, needs its number. Raises
    ValueError if the text is of another form, if a label occurs twice, or if the weights do not sum
    to 1.
    """
    found = []
    for part in text.split(",") if isinstance(text, str) else [""]:
        name, colon, weight = (each.strip() for each in part.rpartition(":"))
        if not colon:
            name, weight = weight, "1"
        name = NULL if name == NO_LABEL else name
        try:
            found.append((name, float(weight)))
        except ValueError:
            raise ValueError(f"against={text_of(text)}: {part!r} has no weight; {_FORMS}") from None
    names, total = [name for name, _ in found], sum(weight for _, weight in found)
    if "" in names or (RANDOM in names and len(names) > 1):
        raise ValueError(f"against={text_of(text)}: {_FORMS}")
    if len(set(names)) < len(names):
        raise ValueError(f"against={text_of(text)}: a label occurs twice; {_FORMS}")
    if not abs(total - 1) < 1e-6:  # also for NaN
        raise ValueError(f"against={text_of(text)}: the weights sum to {total:g}; {_FORMS}")
    return tuple(found)


def numbered(text: Any, names: Sequence[str]) -> str:
    """The text with class numbers in place of names, so that one setting has one text.

    A text that is a name and a number means the class of that name, as in --labels; an integer is
    the number of a class. Raises ValueError as `parts`, and for an unknown name.
    """
    if isinstance(text, int | np.integer) and not isinstance(text, bool):
        return str(int(text))

    def number(name: str) -> str:
        if name in (NULL, RANDOM):
            return name
        if name.isdecimal() and name not in names:
            return str(int(name))
        try:
            return str(labels.numbered(name, names))
        except ValueError as error:
            raise ValueError(f"against={text_of(text)}: {error}") from None

    found = [(number(name), weight) for name, weight in parts(text)]
    if len(found) == 1:
        return found[0][0]
    joined = ",".join(f"{name}:{repr(weight).removesuffix('.0')}" for name, weight in found)
    parts(joined)  # two names may be one class
    return joined


def check(text: Any, null_label: int) -> None:
    """Raises ValueError as `parts`, and unless labels are numbers below null_label."""
    for name, _ in parts(text):
        if name in (NULL, RANDOM):
            continue
        if not name.isdecimal():
            raise ValueError(f"against={text_of(text)}: {name!r} is no number; {_FORMS}")
        if int(name) >= null_label:
            raise ValueError(
                f"against={text_of(text)}: class {name} is not one of 0..{null_label - 1}"
            )


def uses_null(text: str) -> bool:
    """Whether no label is among the labels of the text."""
    return NULL in [name for name, _ in parts(text)]


def num_branches(text: str) -> int:
    """Number of evaluations of the network in a guided call, per sample."""
    return 1 + len(parts(text))


def arrays(text: str, null_label: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels int32 [J] and weights float32 [J] of a text from `numbered`, other than "random"."""
    found = parts(text)
    numbers = [null_label if name == NULL else int(name) for name, _ in found]
    return np.asarray(numbers, np.int32), np.asarray([b for _, b in found], np.float32)
