"""Checks of host-side arguments, which Python and NumPy would otherwise convert silently.

int(5.9) is 5, bool("False") is True and float32(None) is nan; here each is a ValueError.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.core.types import Array


def whole(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """`value` as an int; ValueError, naming the argument, unless it is an integer in the range."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={_text(value)}: need an integer {allowed}")
    return number


def finite(name: str, value: Any, allowed: str = "finite numbers") -> np.ndarray:
    """`value` as an array; ValueError, naming the argument, unless float32 holds its numbers."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    with np.errstate(over="ignore"):
        held = real and np.isfinite(np.asarray(array, np.float32)).all()
    if not held:
        raise ValueError(f"{name}={_text(value)}: need {allowed}")
    return array


def integers(name: str, value: Any) -> Array:
    """`value`, concrete or traced, as int32; ValueError for floats, which would be truncated."""
    value = value if isinstance(value, jax.Array) else np.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise ValueError(f"{name} of type {value.dtype}: need integers")
    return jnp.asarray(value, jnp.int32)


def _text(value: Any) -> str:
    """`value` on one line."""
    text = repr(value) if isinstance(value, str) else str(value)
    return " ".join(text.split())
