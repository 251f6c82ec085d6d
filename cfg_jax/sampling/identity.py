"""Sampling settings as JSON of results and manifests, across versions of the program."""

from collections.abc import Mapping
from typing import Any

from cfg_jax.config.build import STEPS
from cfg_jax.config.validate import ADDED_TO_SAMPLING

# Fields that results of earlier versions lack, with the values used then.
_ADDED = ADDED_TO_SAMPLING | {"interval": [], "weaker": None}
_NONE = object()


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values of `to_json`, also from an earlier version, with the fields of this one."""
    values = dict(values)
    if "step" in values:
        values["solver"] = values.pop("step")
    return {**_ADDED, **values} if "solver" in values else values


def identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values of `to_json` for a digest, which stays that of earlier versions if it can."""
    values = {name: value for name, value in values.items() if value != _ADDED.get(name, _NONE)}
    if values.get("solver") in STEPS:
        values["step"] = values.pop("solver")
    return values
