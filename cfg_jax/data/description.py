"""What do the examples of a data set look like, whether or not it is on this machine?

Shape and class names come from what TFDS knows of a data set, which needs none of its files.
Opening one that is there is `opening`'s.
"""

from typing import Any

from cfg_jax.data.mixture import open_mixture
from cfg_jax.data.opening import label_names
from cfg_jax.data.preparation import find_builder


def describe(
    name: str, *, data_dir: str | None = None, image_size: int | None = None, **mixture: Any
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(shape of one example, class names) of what `open_source` would open.

    Args:
      name, image_size, **mixture: as for `open_source`.
      data_dir: not looked into.

    Raises:
      ValueError: an unknown name, no 8-bit images or no labels, images of varying shape and no
        `image_size`.
    """
    del data_dir
    if name == "mixture":
        source = open_mixture("train", **mixture)
        return source.shape, source.label_names
    names = label_names(name)
    height, width, channels = find_builder(name, None).info.features["image"].shape
    if image_size is not None:
        height = width = image_size
    if None in (height, width):
        raise ValueError(f"images of {name} vary in shape: give image_size, such as 64")
    return (height, width, channels), names
