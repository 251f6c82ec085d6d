"""A config from a network and a schedule of one's own: the inverse of `build.assemble`.

    config = derived.config_of(network, (8, 8, 1), 10, cosine_schedule(), prediction="v")
    build.assemble(config, (8, 8, 1), 10).network == network

With its config, a network that was trained elsewhere is saved and loaded as a run of this package.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cfg_jax.config import build, fields
from cfg_jax.config.validate import check_values
from cfg_jax.core.arguments import text_of
from cfg_jax.core.schedules import Schedule

DATA = "own"
"""config.data.name of data that this package did not open."""

_OF_DATA = ("out_channels", "num_classes", "noise_input")
_NOT_IN_CONFIG = (*_OF_DATA, "parent", "name")

# Without clipping, an error of eps_hat grows by exp(h / 2) over the first gap h in log-SNR. Of 16
# points h is 1.2 on this grid and 15.5 on that of the cosine schedule.
_OF_POINTS = {"clip_x": False, "grid": "uniform"}


def config_of(
    network: Any,
    shape: tuple[int, ...],
    num_classes: int,
    schedule: Schedule,
    *,
    sampling: Mapping[str, Any],
    **diffusion: Any,
) -> ConfigDict:
    """The config of which `build.assemble` makes this network and schedule.

    Args:
      network: a module of `build.NETWORKS`, without parameters.
      shape: shape of one example, (H, W, C) or (D,).
      num_classes: K.
      schedule: schedule that it was trained with.
      sampling: fields of config.sampling that differ from the default.
      **diffusion: other fields of config.diffusion, such as prediction and p_uncond.

    Without `sampling`, points have the settings `_OF_POINTS`.

    Raises ValueError for a network or schedule of another type, for a field that is unknown or out
    of range, and if the network has other outputs or inputs than these settings need.
    """
    kinds = {kind: name for name, kind in build.NETWORKS.items()}
    if type(network) not in kinds:
        allowed = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"network={text_of(network)}: need a {allowed}, without parameters; another network "
            "samples by cfg_jax.as_predict and cfg_jax.sample"
        )
    own = {
        field.name: getattr(network, field.name)
        for field in dataclasses.fields(network)
        if field.name not in _NOT_IN_CONFIG
    }
    config = fields.defaults()
    config.unlock()
    config.network, config.model = kinds[type(network)], ConfigDict(own)
    config.data.name, config.train.preview_every = DATA, 0
    _check_sections(diffusion)
    _update(config.diffusion, diffusion)
    if len(shape) == 1:
        config.sampling.update(_OF_POINTS)
    _update(config.sampling, sampling)
    _set_schedule(config, schedule, diffusion)
    check_values(config)
    made = build.assemble(config, shape, num_classes).network
    for name in (*own, *_OF_DATA):
        given, needed = getattr(network, name, None), getattr(made, name, None)
        if given != needed:
            raise ValueError(
                f"network with {name}={given}: need {needed} for data of shape {tuple(shape)}, "
                f"{num_classes} classes, prediction={config.diffusion.prediction!r} and "
                f"schedule={config.diffusion.schedule!r}"
            )
    return config


def _check_sections(diffusion: Mapping[str, Any]) -> None:
    """Raises ValueError for a field of config.sampling among those of config.diffusion."""
    for name, value in diffusion.items():
        known = fields.FIELDS.keys() & {f"diffusion.{name}", f"sampling.{name}"}
        if known == {f"sampling.{name}"}:
            raise ValueError(
                f"{name}={text_of(value)} is a setting of sampling: give "
                f"sampling={{{name!r}: {text_of(value)}}}"
            )


def _update(section: ConfigDict, given: Mapping[str, Any]) -> None:
    """Sets fields; ValueError for a value of another type. `check_values` finds unknown fields."""
    if not isinstance(given, Mapping):
        raise ValueError(f"sampling={text_of(given)}: need a dict, such as {{'num_steps': 64}}")
    try:
        section.update(given)
    except TypeError as error:
        raise ValueError(f"{text_of(dict(given))}: {str(error).splitlines()[0]}") from None


def _set_schedule(config: ConfigDict, schedule: Schedule, given: Mapping[str, Any]) -> None:
    """Sets the fields of a schedule; ValueError for one that no config describes.

    Its fields, and its name, must not be among the fields that are given apart from it.
    """
    diffusion = config.diffusion
    if isinstance(schedule, Schedule):
        names = [field.name for field in dataclasses.fields(schedule) if field.name in diffusion]
        for name in given.keys() & {*names, "schedule"}:
            raise ValueError(
                f"{name}={text_of(given[name])} beside a schedule: give it to the schedule, as in "
                "schedule=cosine_schedule(logsnr_min=-15)"
            )
        diffusion.update({name: getattr(schedule, name) for name in names})
    for name, make in build.SCHEDULES.items():
        if make(diffusion) == schedule:
            diffusion.schedule = name
            return
    raise ValueError(
        f"schedule={text_of(schedule)}: need cosine_schedule(), linear_timesteps(), "
        "cosine_timesteps() or a FlowSchedule"
    )
