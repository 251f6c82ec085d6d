"""Which of the items 0, 1, ... are in which file?

    <folder>/<name>_START_STOP.npz      the items START..STOP - 1, both in eight digits

The names of files say it; none is opened.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Range(NamedTuple):
    """The items start..stop - 1."""

    start: int
    stop: int


class RangeFiles(NamedTuple):
    """The files of one name in a folder."""

    folder: Path
    name: str

    def path(self, items: Range) -> Path:
        """The file of these items, there or not."""
        return self.folder / f"{self.name}_{items.start:08d}_{items.stop:08d}.npz"

    def paths(self) -> Iterator[Path]:
        """Every file that is there."""
        return self.folder.glob(f"{self.name}_*.npz")

    def found(self) -> list[Range]:
        """The items of every file that is there, ascending; OSError for a name that says none."""
        return sorted(map(self._items, self.paths()))

    def reached(self, limit: int) -> int:
        """The largest n up to `limit` so that files, one after another, hold each of 0..n - 1."""
        reached = 0
        for items in self.found():
            if items.start == reached and items.stop <= limit:
                reached = items.stop
        return reached

    def _items(self, path: Path) -> Range:
        try:
            items = Range(*map(int, path.stem.removeprefix(f"{self.name}_").split("_")))
        except (TypeError, ValueError):
            items = None
        if items is None or self.path(items).name != path.name:
            raise OSError(f"{path} is not named as {self.name} are: remove it, or rename it")
        return items
