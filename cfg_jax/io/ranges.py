"""Files of consecutive items, whose names give the range; no file is opened.

<folder>/<name>_START_STOP.npz      items START..STOP - 1, both with eight digits
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class Range(NamedTuple):
    """Items start..stop - 1."""

    start: int
    stop: int


def tile(ranges: Sequence[Range], total: int) -> bool:
    """Whether ascending ranges hold the items 0..total - 1, each once, and no others."""
    starts, stops = [items.start for items in ranges], [items.stop for items in ranges]
    return [*starts, total] == [0, *stops]


class RangeFiles(NamedTuple):
    """All files of one name in a folder."""

    folder: Path
    name: str

    def path(self, items: Range) -> Path:
        """Path of the file of these items, existing or not."""
        return self.folder / f"{self.name}_{items.start:08d}_{items.stop:08d}.npz"

    def paths(self) -> Iterator[Path]:
        """Paths of the existing files."""
        return self.folder.glob(f"{self.name}_*.npz")

    def found(self) -> list[Range]:
        """Ranges of the existing files, ascending; raises OSError if a name is malformed."""
        return sorted(map(self._items, self.paths()))

    def reached(self, limit: int) -> int:
        """Largest n <= `limit` for which consecutive files hold the items 0..n - 1."""
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
            raise OSError(f"{path} is not named {self.name}_START_STOP.npz: remove or rename it")
        return items
