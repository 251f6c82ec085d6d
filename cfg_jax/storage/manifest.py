"""Metadata of a checkpoint, its verification, and the choice of the newest valid checkpoint.

Besides the caller's entries, the `meta` of a checkpoint holds

    schema      layout of the checkpoint, an integer
    loss        criterion for the best checkpoints, lower is better
    versions    versions of jax, flax, optax, orbax-checkpoint and cfg_jax
    digests     CRC-32 of the bytes of every leaf of `state` and `ema`, and of the JSON text of
                `config` and of the rest of `meta`

A leaf is named by its path, `params/conv/kernel`. A dataclass and the dict restored from it have
the same paths. `checkpoint.py` handles files and directories.
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

FOLDER = "checkpoints"
"""Folder of the checkpoints in that of a run."""

SCHEMA = 1
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "cfg_jax")


class MismatchError(ValueError):
    """A complete checkpoint whose leaves or schema differ from the requested ones.

    `config` and `meta` are what it was saved with, where they are known.
    """

    def __init__(self, text: str, config: Mapping | None = None, meta: Mapping | None = None):
        super().__init__(text)
        self.config, self.meta = config, meta


def describe(
    trees: Mapping[str, Any], config: Mapping[str, Any], meta: Mapping[str, Any], loss: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Copies `config` and `meta` as JSON values, and adds the keys listed above to `meta`.

    `trees` maps names to trees of arrays, whose leaves are fetched to the host. Raises ValueError
    if `config` or `meta` is not JSON-serialisable.
    """
    try:
        config, meta = json.loads(json.dumps([dict(config), dict(meta)]))
    except TypeError as error:
        raise ValueError(f"config and meta must be JSON-serialisable: {error}.") from error
    digests: dict[str, Any] = {name: _digests(tree) for name, tree in trees.items()}
    meta |= {"schema": SCHEMA, "loss": float(loss), "versions": versions()}
    digests |= {"config": _crc_json(config), "meta": _crc_json(meta)}
    return config, meta | {"digests": digests}


def check_json(config: dict[str, Any], meta: dict[str, Any]) -> None:
    """Raises MismatchError for an unknown schema, ValueError for a digest mismatch."""
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


def check_leaves(
    found: Any, wanted: Any, config: Mapping | None = None, meta: Mapping | None = None
) -> None:
    """Raises MismatchError naming the first leaf that differs in path, shape or dtype.

    `config` and `meta` are what the leaves were saved with, for the error.
    """
    there, here = _leaves(found), _leaves(wanted)
    for path in here | there:
        forms = [_form(leaves.get(path)) for leaves in (there, here)]
        if forms[0] != forms[1]:
            raise MismatchError(
                f"{path} is {forms[0]} on disk and {forms[1]} here; use the config that wrote it, "
                "or another directory.",
                *(config, meta),
            )


def same_leaves(found: Any, wanted: Any) -> bool:
    """Whether the leaves of two trees agree in path, shape and dtype."""
    there, here = _leaves(found), _leaves(wanted)
    return {k: _form(leaf) for k, leaf in there.items()} == {k: _form(v) for k, v in here.items()}


def check_digests(trees: Mapping[str, Any], meta: dict[str, Any]) -> None:
    """Raises ValueError naming a leaf of `trees` whose digest differs from that in `meta`."""
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
    """Returns `read(step)` of the newest step for which it succeeds, and all newer steps.

    Args:
      steps: steps in ascending order, not empty.
      agree: maps success in this process to success in all processes.

    Raises MismatchError if a `read` raises it, without trying older steps, and ValueError if `read`
    fails for every step.
    """
    reasons: dict[int, str] = {}
    for step in reversed(steps):
        failure = ""
        try:
            whole = read(step)
        except MismatchError as error:
            said = f"checkpoint {step} in {directory}: {error}"
            raise MismatchError(said, error.config, error.meta) from None
        except Exception as error:  # a damaged file raises many types
            failure = reason(error)
        if not agree(not failure):
            reasons[step] = failure or "another process cannot read it"
            continue
        for bad, why in reasons.items():
            logging.warning("checkpoint %d in %s cannot be read: %s", bad, directory, why)
        return whole, list(reasons)
    raise ValueError(
        f"no readable checkpoint in {directory}, which is left unchanged; step {steps[-1]}: "
        f"{reasons[steps[-1]]}. Restore a backup, or use another directory to start from step 0."
    )


def reason(error: Exception) -> str:
    """Type and message of an error on one line of at most 403 characters."""
    error = error.__cause__ or error  # orbax wraps some in a bare Exception
    line = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
    # Orbax names its action at the head, the operating system the cause at the tail.
    return line if len(line) <= 400 else f"{line[:200]}...{line[-200:]}"


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {package: version(package) for package in _PACKAGES}


def version(package: str) -> str:
    """Version of a package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def sha256(tree: Any) -> str:
    """SHA-256 of the paths, types, shapes and bytes of all leaves of a tree, in hexadecimal."""
    digest = hashlib.sha256()
    for path, leaf in sorted(_leaves(tree).items()):
        digest.update(f"{path} {_form(leaf)}\n".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of JSON values with sorted keys, in hexadecimal."""
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
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)


def _crc_json(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
