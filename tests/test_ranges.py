"""Names of files of consecutive items."""

import itertools

import pytest

from cfg_jax.io.ranges import Range, tile


@pytest.mark.parametrize(
    "ranges, total, whole",
    [
        ([], 0, True),
        ([], 3, False),
        ([(0, 3)], 3, True),
        ([(0, 3)], 0, False),
        ([(0, 2), (2, 5)], 5, True),
        ([(0, 2), (3, 5)], 5, False),
        ([(0, 3), (2, 5)], 5, False),
        ([(0, 2), (0, 2), (2, 5)], 5, False),
        ([(1, 5)], 5, False),
        ([(0, 5)], 4, False),
    ],
)
def test_ranges_tile_if_every_item_is_in_one(ranges, total, whole):
    assert tile([Range(*items) for items in ranges], total) is whole
    counted = sorted(itertools.chain(*(range(*items) for items in ranges)))
    assert (counted == list(range(total))) is whole
