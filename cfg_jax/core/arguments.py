"""Checks of arguments, which Python, NumPy and JAX would otherwise convert silently.

int(5.9) is 5, bool("False") is True and float32(None) is nan; here each is a ValueError. A traced
value has no numbers yet, so only its type and shape are checked.
"""

import inspect
import operator
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.core.names import meant
from cfg_jax.core.types import Array

INT32_MAX = 2**31 - 1


def whole(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """`value` as an int; ValueError, naming the argument, unless it is an integer in the range."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={text_of(value)}: need an integer {allowed}")
    return number


def seed_of(value: Any, name: str = "seed") -> int:
    """`value` as a random seed; ValueError unless in 0..2^32 - 1, as JAX drops higher bits."""
    return whole(name, value, 0, 2**32 - 1)


def flag(name: str, value: Any) -> bool:
    """`value` as a bool; ValueError, naming the argument, unless it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={text_of(value)}: choose True or False")
    return bool(value)


def choice(name: str, value: Any, allowed: Collection[str]) -> str:
    """`value`; ValueError, naming the argument and the choices, unless it is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        text = isinstance(value, str)
        hint = meant(name, value, allowed) if text else f", as a text: {next(iter(allowed))!r}"
        raise ValueError(f"{name}={text_of(value)}: choose one of {', '.join(allowed)}{hint}")
    return value


def real(name: str, value: Any, allowed: str = "numbers") -> Any:
    """`value` as an array, traced or not; ValueError unless it has integers or real numbers."""
    array = _array(value)
    if array is None or not (_is(array, jnp.floating) or _is(array, jnp.integer)):
        raise ValueError(f"{name}={text_of(value)}: need {allowed}")
    return array


def finite(name: str, value: Any, allowed: str = "finite numbers") -> Any:
    """`real`; also a ValueError, naming the argument, unless float32 holds the numbers."""
    array = real(name, value, allowed)
    with np.errstate(over="ignore"):
        if is_concrete(array) and not np.isfinite(np.asarray(array, np.float32)).all():
            raise ValueError(f"{name}={text_of(value)}: need {allowed}")
    return array


MOST_LOGSNR = 80
"""Beyond it float32 does not hold sigma^2, or alpha^2, with full precision."""


def log_snrs(name: str, value: Any, allowed: str = "numbers") -> Any:
    """`real` for log-SNRs; ValueError for finite ones beyond MOST_LOGSNR, as timesteps are."""
    array = real(name, value, allowed)
    if is_concrete(array):
        host = np.asarray(array, np.float64)
        if (beyond := host[(np.abs(host) > MOST_LOGSNR) & np.isfinite(host)]).size:
            raise ValueError(
                f"{name}={beyond[0]:g}: need log-SNRs from -{MOST_LOGSNR} (noise) to {MOST_LOGSNR} "
                "(data); that of timestep t is cfg_jax.linear_timesteps().logsnr(t)"
            )
    return array


def grid_of(logsnrs: Any, allowed: str) -> Any:
    """`finite` for the log-SNRs of a grid, with -inf, noise alone, as -MOST_LOGSNR."""
    array = log_snrs("logsnrs", logsnrs, allowed)
    where = np.where if isinstance(array, np.ndarray) else jnp.where
    return finite("logsnrs", where(array == -np.inf, -MOST_LOGSNR, array), allowed)


def on_host(name: str, value: Any, allowed: str) -> np.ndarray:
    """`finite` as a float64 array; also a ValueError for a traced value."""
    array = finite(name, value, allowed)
    if not is_concrete(array):
        raise ValueError(f"{name} is traced: call this outside of jax.jit, with {allowed}")
    return np.asarray(array, np.float64)


def shape_of(value: Any, allowed: str, ranks: Collection[int] = ()) -> tuple[int, ...]:
    """`value` as a shape of integers of at least 1; ValueError for others and for other ranks."""
    try:
        sizes = tuple(whole("shape", size, 1) for size in value)
    except (TypeError, ValueError):
        sizes = ()
    if not sizes or (ranks and len(sizes) not in ranks):
        raise ValueError(f"shape={text_of(value)}: need {allowed}")
    return sizes


def number(name: str, value: Any, allowed: str, least: float, most: float = np.inf) -> Any:
    """`finite` for one number, also a ValueError if it is below `least` or above `most`."""
    array = finite(name, value, allowed)
    if array.ndim or (is_concrete(array) and not least <= array <= most):
        raise ValueError(f"{name}={text_of(value)}: need {allowed}")
    return array


def integers(name: str, value: Any) -> Array:
    """`value`, concrete or traced, as int32; ValueError for floats, which would be truncated."""
    array = _array(value)
    if array is None or not _is(array, jnp.integer):
        kind = text_of(value) if array is None else f" of type {array.dtype}"
        raise ValueError(f"{name}{'=' if array is None else ''}{kind}: need integers")
    if is_concrete(array) and array.dtype.itemsize >= 4:
        host = np.asarray(array)
        if host.size and (host.min() < -INT32_MAX or host.max() > INT32_MAX):
            raise ValueError(f"{name} from {host.min()} to {host.max()}: need integers of 32 bits")
    return jnp.asarray(array, jnp.int32)


def labels_of(value: Any, batch_size: int) -> Array:
    """`integers` [B]; ValueError, naming the labels, unless there is one per example."""
    labels = integers("labels", value)
    if labels.shape != (batch_size,):
        raise ValueError(
            f"labels of shape {labels.shape} for a batch of {batch_size}: give one per example"
        )
    return labels


def null_of(value: Any) -> Any:
    """`value` as a null label; ValueError unless it is one integer of at least 0."""
    if is_concrete(value):
        return whole("null_label", value, 0, INT32_MAX)
    return integers("null_label", value)


def data(name: str, value: Any) -> Any:
    """Clean data; ValueError unless an array [B, ...] of floats, which uint8 images are not."""
    array = _array(value)
    if array is None or array.ndim == 0 or not _is(array, jnp.floating):
        found = text_of(value) if array is None else f"{array.dtype}{list(array.shape)}"
        raise ValueError(
            f"{name}={found}: need floats [B, ...] in [-1, 1]; for 8-bit images, images / 127.5 - 1"
        )
    return value if isinstance(value, jax.Array) else array


def function(name: str, value: Any, form: str, takes: int | None = None) -> None:
    """Raises ValueError, with its `form`, for no function, or one that cannot take `takes` values.

    A function without a signature is called as it is.
    """
    if not callable(value):
        raise ValueError(f"{name}={text_of(value)}: need a function {form}")
    if takes is None:
        return
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*range(takes))
    except TypeError:
        raise ValueError(
            f"{name} takes ({', '.join(signature.parameters)}): need a function {form}"
        ) from None


def is_concrete(value: Any) -> bool:
    """Whether this process has the numbers of a value: it is not traced or on other hosts."""
    if isinstance(value, jax.core.Tracer):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable


def text_of(value: Any) -> str:
    """`value` on one short line."""
    try:
        text = repr(value) if isinstance(value, str | bytes) else str(value)
    except ValueError:  # an integer of more digits than Python prints
        text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:100]}...{text[-40:]}"


def _array(value: Any) -> Any:
    """`value` as an array; None if it is ragged, masked, or has a bool, which NumPy counts as 1."""
    if isinstance(value, jax.Array):
        return value
    if _has_bool(value) or np.ma.is_masked(value):
        return None
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # ragged lists, lists of traced values or keys
        return _traced(value)


def _traced(value: Any) -> Any:
    """A list of traced numbers as an array, None if it is anything else."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
        return jnp.asarray(value)
    return None


def _is(array: Any, kind: Any) -> bool:
    """Whether the numbers of an array are of a kind; spans of time are integers for NumPy."""
    return jnp.issubdtype(array.dtype, kind) and array.dtype.kind != "m"


def _has_bool(value: Any) -> bool:
    """Whether a list has a bool beside numbers."""
    if not isinstance(value, list | tuple):
        return False
    return any(isinstance(entry, bool | np.bool_) or _has_bool(entry) for entry in value)
