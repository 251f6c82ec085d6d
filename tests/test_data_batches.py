"""Order of examples, for any number of processes and any start."""

import itertools
import time

import numpy as np
import pytest

from cfg_jax.data import batches, iterate, open_source


class Numbered:
    """Images i, i + 1/4 and i + 1/2 by column, so mirroring is visible."""

    name, split, shape, num_classes = "numbered", "train", (2, 3, 1), 1000
    columns = np.broadcast_to(np.float32([0, 0.25, 0.5])[None, :, None], shape)

    def __init__(self, size):
        self.size, self.reads = size, 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.reads += 1
        return {"x": index + self.columns, "label": np.int32(index)}


def read(dataset, count):
    return [dataset[k] for k in range(count)]


def join(items, key):
    return np.concatenate([item[key] for item in items])


@pytest.mark.parametrize("process_count", [2, 4])
def test_global_batches_are_the_same_for_any_number_of_processes(process_count):
    options = dict(seed=5, batch_size=8, random_flip=True)
    whole = read(batches(Numbered(21), **options), 12)
    parts = [
        read(batches(Numbered(21), **options, process_index=p, process_count=process_count), 12)
        for p in range(process_count)
    ]
    for k, batch in enumerate(whole):
        for key in ("x", "labels", "index"):
            np.testing.assert_array_equal(join([part[k] for part in parts], key), batch[key])
        np.testing.assert_array_equal(batch["index"], range(8))
        assert batch["index"].dtype == batch["labels"].dtype == np.int32
        assert batch["x"].dtype == np.float32 and batch["x"].shape == (8, 2, 3, 1)


def test_labels_stay_with_their_examples():
    for batch in read(batches(Numbered(21), seed=5, batch_size=8, random_flip=True), 12):
        np.testing.assert_array_equal(batch["x"][:, 0, 1, 0] - 0.25, batch["labels"])


def test_every_epoch_is_complete_and_in_another_order():
    epochs = join(read(batches(Numbered(20), seed=0, batch_size=5), 12), "labels").reshape(3, 20)
    np.testing.assert_array_equal(np.sort(epochs), [range(20)] * 3)
    assert len({tuple(epoch) for epoch in epochs} | {tuple(range(20))}) == 4


def test_a_batch_larger_than_the_data_set_holds_whole_epochs():
    labels = batches(Numbered(3), seed=0, batch_size=8)[0]["labels"]
    np.testing.assert_array_equal(np.sort(labels[:3]), range(3))
    np.testing.assert_array_equal(np.sort(labels[3:6]), range(3))


def test_another_seed_is_another_order():
    orders = [batches(Numbered(50), seed=seed, batch_size=50)[0]["labels"] for seed in (0, 1)]
    assert (orders[0] != orders[1]).any()


def test_half_of_the_images_are_mirrored_and_only_when_asked():
    def offsets(random_flip):
        dataset = batches(Numbered(100), seed=1, batch_size=100, random_flip=random_flip)
        return np.stack([b["x"] - b["labels"][:, None, None, None] for b in read(dataset, 10)])

    straight, mirrored = Numbered.columns, Numbered.columns[:, [2, 1, 0]]
    np.testing.assert_array_equal(offsets(False), np.broadcast_to(straight, (10, 100, 2, 3, 1)))
    x = offsets(True)
    flipped, kept = ((x == image).all(axis=(2, 3, 4)) for image in (mirrored, straight))
    assert (flipped ^ kept).all()
    assert abs(flipped.mean() - 1 / 2) < 5 * np.sqrt(1 / 4 / flipped.size)
    assert len({tuple(epoch) for epoch in flipped}) == 10


@pytest.mark.parametrize("start", [0, 7, 1000])
def test_iterating_from_a_step_gives_that_steps_batch(start):
    dataset = batches(Numbered(21), seed=5, batch_size=8, random_flip=True, process_count=2)
    items = itertools.islice(iterate(dataset, start), 5)
    for k, item in enumerate(items, start):
        for key, value in dataset[k].items():
            np.testing.assert_array_equal(item[key], value)


def test_only_a_few_batches_are_read_ahead():
    source = Numbered(1000)
    iterator = iterate(batches(source, seed=0, batch_size=10))
    next(iterator)
    time.sleep(0.3)
    assert source.reads <= 10 * (1 + 8 + 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(seed=-1), "seed is -1"),
        (dict(seed=2**32), "seed is 4294967296"),
        (dict(batch_size=6, process_count=4), "batch_size is 6: .*multiple of process_count=4"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(process_index=2, process_count=2), r"process_index is 2: give one in \[0, 2\)"),
    ],
)
def test_batches_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(Numbered(4), **{"seed": 0, "batch_size": 2, **arguments})


def test_points_cannot_be_mirrored_and_steps_are_not_negative():
    with pytest.raises(ValueError, match="only images"):
        batches(open_source("mixture", "train"), seed=0, batch_size=2, random_flip=True)
    with pytest.raises(ValueError, match="start is -1"):
        iterate(batches(Numbered(4), seed=0, batch_size=2), -1)
