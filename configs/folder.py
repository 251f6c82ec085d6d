"""Your own pictures: a network whose size follows from theirs, and from their number.

    cfg-jax train --config=folder:~/pictures --workdir=runs/pictures

The argument is a folder of pictures by class (docs/data.md) or an .npz. `folder:~/pictures:128` has
a side of 128 pixels, and the resolutions of the network for it. The other sizes are flags, such as
--config.model.channels=64. --help lists their values after the config; they are our choice, not
tuned for any data set.
"""

from pathlib import Path
from statistics import median
from typing import NamedTuple

from configs import base

# (least number of pictures, channels, blocks per resolution, batch size, learning rate)
SIZES = ((50_000, 128, 2, 256, 2e-4), (5_000, 64, 2, 128, 5e-4), (0, 32, 1, 64, 1e-3))


class Pictures(NamedTuple):
    """Number of pictures, and (height, width) of every picture."""

    count: int
    sizes: list[tuple[int, int]]


def get_config(place: str = ""):
    """The config for the pictures in `place`; for 1,000 of 64 x 64 pixels without an argument."""
    place, own_side = split(place)
    pictures = survey(place) if place else Pictures(1000, [(64, 64)])
    side = own_side or image_side(pictures.sizes)
    channels, num_blocks, batch_size, learning_rate = sizes(pictures.count)
    num_steps = min(max(200 * pictures.count // batch_size, 3000), 200_000)
    config = base.get_config()
    config.data.name = "npz" if place.endswith(".npz") else "folder"
    config.data.data_dir = place
    config.data.image_size = side
    config.model.channels = channels
    config.model.num_blocks = num_blocks
    config.model.channel_mult = (1, 2, 2, 2)[: levels(side)]
    config.model.attention_resolutions = attention(side)
    config.model.head_channels = 32
    config.model.norm_groups = 8
    config.model.dropout = 0.1 if pictures.count < 50_000 else 0.0
    config.diffusion.prediction = "v"
    config.diffusion.weighting = "v"
    config.optim.learning_rate = learning_rate
    config.optim.warmup_steps = min(num_steps // 10, 1000)
    config.optim.ema_decay = 0.999 if num_steps < 50_000 else 0.9999
    config.train.num_steps = num_steps
    config.train.batch_size = batch_size
    config.train.checkpoint_every = max(num_steps // 20, 100)
    config.train.preview_every = max(num_steps // 5, 100)
    config.sampling.num_steps = 64
    return config


def split(argument: str) -> tuple[str, int]:
    """A place and a side in pixels, 0 if none is given, of "PLACE" or "PLACE:SIDE"."""
    place, colon, side = argument.rpartition(":")
    if not colon or "://" in argument or Path(argument).expanduser().exists():
        return argument, 0
    if not side.isdecimal():
        raise ValueError(f"{argument}: {side!r} is no side in pixels: give one, as in {place}:64")
    if not (8 <= int(side) <= 1024 and int(side) % 2 == 0):
        raise ValueError(f"{argument}: the side must be even, from 8 to 1024")
    return place, int(side)


def sizes(count: int) -> list:
    """Channels, blocks, batch size and learning rate for a number of pictures."""
    return next(row for least, *row in SIZES if count >= least)


def image_side(sizes: list[tuple[int, int]]) -> int:
    """The common side of small square pictures, or 64, 32, 16 or 8, at most their median side."""
    common = {side for size in sizes for side in size}
    if len(common) == 1 and (side := common.pop()) <= 64 and side % 4 == 0:
        return side
    least = median(min(size) for size in sizes)
    return next(side for side in (64, 32, 16, 8) if side <= max(least, 8))


def levels(side: int) -> int:
    """Number of resolutions, from 2 to 4: halved until the last has at most 8 pixels or is odd."""
    halves = (n for n in (2, 3, 4) if side % 2 ** (n - 1) == 0)
    return max(n for n in halves if n == 2 or side > 2 ** (n + 1))


def attention(side: int) -> tuple[int, ...]:
    """Resolutions of at most 16 pixels below the first."""
    return tuple(side // 2**i for i in range(1, levels(side)) if side // 2**i <= 16)


def survey(place: str) -> Pictures:
    """Number and sizes of pictures in a folder or .npz; ValueError as when it is opened."""
    from cfg_jax.data.arrays import load_arrays
    from cfg_jax.data.folders import existing, probe_all
    from cfg_jax.data.layout import find

    if place.endswith(".npz"):
        arrays = load_arrays(Path(place).expanduser())
        return Pictures(len(arrays.images), [arrays.images.shape[1:3]])
    root = existing(place)
    pictures = find(root)
    found = probe_all(root, tuple(pictures)).values()
    sizes = [probe[:2] for probe in found if not isinstance(probe, str)]
    return Pictures(len(pictures), sizes or [(64, 64)])
