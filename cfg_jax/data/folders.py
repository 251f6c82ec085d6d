"""Folders of pictures as a data set; `layout` assigns files to classes and splits."""

import dataclasses
import functools
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cfg_jax.data.decoding import Decoded, Probe, background_colour, decoder_name, probe
from cfg_jax.data.examining import read_all
from cfg_jax.data.layout import Picture, class_names, find, in_split
from cfg_jax.data.sources import Form, ImageSource, new_memory, retried
from cfg_jax.io.files import local
from cfg_jax.io.reading import read_bytes
from cfg_jax.io.text import one_line


@dataclasses.dataclass(frozen=True)
class Files(Sequence[Mapping[str, Any]]):
    """Records {"image": bytes, "label": int, "file": str} of pictures below `root`."""

    root: Path
    pictures: Sequence[Picture]
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index):
        file, _, class_name, *_ = self.pictures[index]
        label = self.label_names.index(class_name)
        return {"image": read_bytes(self.root / file), "label": label, "file": file}


def open_folder(split: str, data_dir: str | None, form: Form) -> tuple[ImageSource, dict[int, str]]:
    """Opens one split of a folder, after decoding all of its pictures once.

    `data_dir` as for `opening.open_source`. Size and channels are those of all splits: grey if all
    of their pictures are.

    Returns the source, and the reason for each of its examples that cannot be decoded. Raises
    ValueError for a folder that is missing, as `layout.find` and `layout.in_split`, and for
    pictures of varying size without `image_size`.
    """
    colour = background_colour(form.background)
    root = existing(data_dir)
    pictures = find(root)
    label_names, chosen = class_names(pictures, root), in_split(pictures, split, root)
    numbers = {name: label for label, name in enumerate(label_names)}
    probes = probe_all(root, tuple(pictures))
    bad = _unreadable(chosen, probes, label_names, root)
    readable = [found for found in probes.values() if isinstance(found, Probe)]
    shape = _shape(readable, root, form)
    resized = {found[:2] for found in readable} != {shape[:2]}
    source = ImageSource(
        name="folder",
        version="1",
        split=split,
        records=Decoded(Files(root, chosen, label_names), shape[2], colour),
        shape=shape,
        label_names=label_names,
        image_size=form.image_size if resized else None,
        memory=new_memory(len(chosen), shape),
        identity={"decoder": decoder_name(colour), "files": _digest(chosen)},
        labels=[numbers[picture.class_name] for picture in chosen],
        resize=form.resize,
    )
    return source, bad


def existing(data_dir: str | None) -> Path:
    """The path of a folder; ValueError if there is none."""
    root = local(data_dir or "")
    if not data_dir or not root.is_dir():
        why = ", no folder" if root.is_file() else ", which does not exist" if data_dir else ""
        raise ValueError(
            f"data_dir is {data_dir or ''!r}{why}: give a folder of pictures by class, as in "
            "--config=folder:pictures"
        )
    return root


@functools.lru_cache(maxsize=4)
def probe_all(root: Path, pictures: tuple[Picture, ...]) -> dict[Picture, Probe | str]:
    """Size and channels of every picture, or the reason why it cannot be decoded.

    The result is cached while the files are unchanged.
    """

    def probed(picture: Picture) -> Probe | str:
        try:
            return probe(retried(lambda: read_bytes(root / picture.file)))
        except (OSError, ValueError) as error:
            return one_line(error)

    return dict(zip(pictures, read_all(probed, pictures, "picture"), strict=True))


def _unreadable(
    chosen: Sequence[Picture],
    probes: Mapping[Picture, Probe | str],
    label_names: Sequence[str],
    root: Path,
) -> dict[int, str]:
    """{index: reason} of pictures that cannot be decoded; ValueError if a class has no other."""
    reasons = {i: probes[picture] for i, picture in enumerate(chosen)}
    bad = {i: f"{chosen[i].file}: {why}" for i, why in reasons.items() if isinstance(why, str)}
    trained = {picture.class_name for picture in chosen}
    left = {picture.class_name for i, picture in enumerate(chosen) if i not in bad}
    if lost := [name for name in label_names if name in trained - left]:
        first = next(i for i in bad if chosen[i].class_name == lost[0])
        raise ValueError(
            f"no picture of class {lost[0]!r} can be decoded ({bad[first]}) in {root}: replace "
            "one, or delete its folder"
        )
    return bad


def _shape(found: Collection[Probe], root: Path, form: Form) -> tuple[int, int, int]:
    """(H, W, C) of all examples; ValueError for varying sizes without image_size."""
    sizes = {(height, width) for height, width, _ in found}
    if form.image_size is None and len(sizes) > 1:
        (low, narrow), (high, wide) = min(sizes), max(sizes)
        raise ValueError(
            f"pictures in {root} vary in size, such as {low} x {narrow} and {high} x {wide} pixels:"
            " give image_size, such as 64"
        )
    height, width = min(sizes) if form.image_size is None else (form.image_size,) * 2
    return height, width, form.channels or (1 if all(picture.grey for picture in found) else 3)


def _digest(pictures: Sequence[Picture]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of all paths and sizes of files."""
    text = "\n".join(f"{picture.file} {picture.size}" for picture in pictures)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
