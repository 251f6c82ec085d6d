"""What does a checkpoint say about itself, and which is the newest where that holds?

Beside what the caller puts there, the `meta` of a checkpoint carries

    schema      layout of the checkpoint, an integer
    loss        what "best" is measured by
    versions    of jax, flax, optax, orbax-checkpoint and cfg_jax
    digests     crc32 of the bytes of every leaf of `state` and `ema`, and of `config` and all else
                in `meta` as JSON

A leaf is named by its path, `params/conv/kernel`, which is the same for a dataclass and for the
dict read back without knowing that class. Files and directories are left to `checkpoint.py`.
"""

import hashlib
import importlib.metadata
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging

_T = TypeVar("_T")

SCHEMA = 1
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "cfg_jax")


class MismatchError(ValueError):
    """A complete checkpoint, but not the one requested: other leaves, or another schema."""


def describe(
    trees: Mapping[str, Any], config: Mapping[str, Any], meta: Mapping[str, Any], loss: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Copies of `config` and `meta` as JSON will hold them, `meta` with the keys named above.

    Args:
      trees: name -> tree of arrays; every leaf is fetched to the host.

    Raises:
      ValueError: JSON cannot hold `config` or `meta`.
    """
    try:
        config, meta = json.loads(json.dumps([dict(config), dict(meta)]))
    except TypeError as error:
        raise ValueError(f"config and meta must be what JSON can hold: {error}.") from error
    digests = {name: _digests(tree) for name, tree in trees.items()}
    meta |= {"schema": SCHEMA, "loss": float(loss), "versions": versions()}
    digests |= {"config": _crc_json(config), "meta": _crc_json(meta)}
    return config, meta | {"digests": digests}


def check_json(config: dict[str, Any], meta: dict[str, Any]) -> None:
    """Raises MismatchError for a schema unknown here, ValueError for what a digest contradicts."""
    written = meta.get("digests", {})
    own = {name: value for name, value in meta.items() if name != "digests"}
    if "meta" in written and _crc_json(own) != written["meta"]:
        raise ValueError("meta differs from its digest")
    if meta.get("schema") != SCHEMA:
        raise MismatchError(
            f"its schema is {meta.get('schema')}, this cfg_jax reads {SCHEMA}; use the version "
            "that wrote it, or another directory."
        )
    if _crc_json(config) != written.get("config"):
        raise ValueError("config differs from its digest")


def check_leaves(found: Any, wanted: Any) -> None:
    """Raises MismatchError naming the first leaf that differs in path, shape or dtype.

    Args:
      found, wanted: trees whose leaves have `shape` and `dtype`.
    """
    there, here = _leaves(found), _leaves(wanted)
    for path in here | there:
        forms = [_form(leaves.get(path)) for leaves in (there, here)]
        if forms[0] != forms[1]:
            raise MismatchError(
                f"{path} is {forms[0]} there and {forms[1]} here; use the config that wrote it, "
                "or another directory."
            )


def check_digests(trees: Mapping[str, Any], meta: dict[str, Any]) -> None:
    """Raises ValueError naming a leaf of `trees` that is not the one `meta` was written for."""
    for name, tree in trees.items():
        digests = _digests(tree)
        written = meta["digests"][name]
        bad = [path for path in written | digests if written.get(path) != digests.get(path)]
        if bad:
            raise ValueError(f"{name}/{bad[0]} differs from its digest ({len(bad)} leaves do)")


def newest_whole(
    directory: Any,
    steps: Sequence[int],
    read: Callable[[int], _T],
    agree: Callable[[bool], bool] = bool,
) -> tuple[_T, list[int]]:
    """`read` of the newest of `steps` for which it succeeds, and the steps newer than that one.

    Args:
      steps: ascending, not empty.
      agree: whether all who read a step could, from whether this one could.

    Raises:
      MismatchError: from the first `read` that raises one; older steps are not tried.
      ValueError: `read` fails for every step.
    """
    reasons: dict[int, str] = {}
    for step in reversed(steps):
        failure = ""
        try:
            whole = read(step)
        except MismatchError as error:
            raise MismatchError(f"checkpoint {step} in {directory}: {error}") from None
        except Exception as error:  # a damaged file raises many types
            failure = reason(error)
        if not agree(not failure):
            reasons[step] = failure or "another process cannot read it"
            continue
        for bad, why in reasons.items():
            logging.warning("checkpoint %d in %s cannot be read: %s", bad, directory, why)
        return whole, list(reasons)
    raise ValueError(
        f"no readable checkpoint in {directory}, which stays as it is; step {steps[-1]}: "
        f"{reasons[steps[-1]]}. Use a copy of it, or another directory to start from step 0."
    )


def reason(error: Exception) -> str:
    """Type and message of an error on one line of at most 403 characters."""
    error = error.__cause__ or error  # orbax wraps some in a bare Exception
    line = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
    # Orbax says what it did at the head, the operating system why it failed at the tail.
    return line if len(line) <= 400 else f"{line[:200]}...{line[-200:]}"


def versions() -> dict[str, str]:
    """The versions of the packages that a number depends on."""
    return {package: version(package) for package in _PACKAGES}


def version(package: str) -> str:
    """The version of a package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def sha256(tree: Any) -> str:
    """SHA-256 of the paths, types, shapes and bytes of all leaves of a tree, in hexadecimal."""
    digest = hashlib.sha256()
    for path, leaf in sorted(_leaves(tree).items()):
        digest.update(f"{path} {_form(leaf)}\n".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of what JSON can hold, whatever the order of keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _leaves(tree: Any) -> dict[str, Any]:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="/"): leaf for k, leaf in pairs}


def _form(leaf: Any) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"


def _digests(tree: Any) -> dict[str, int]:
    leaves = _leaves(tree)
    with ThreadPoolExecutor() as pool:  # crc32 runs without the interpreter lock
        return dict(zip(leaves, pool.map(_crc_array, leaves.values()), strict=True))


def _crc_array(leaf: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))


def _crc_json(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
