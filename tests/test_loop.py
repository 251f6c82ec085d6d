"""Table of the actions due after each step of a run."""

import pytest
from ml_collections import ConfigDict

from cfg_jax.training.loop import due_after

EVERY = {"num_steps": 12, "log_every": 2, "checkpoint_every": 4, "preview_every": 3}


def due(step, *, start=0, asked_to_stop=False, draws=True, **every):
    train = ConfigDict(EVERY | every)
    found = due_after(step, start=start, train=train, asked_to_stop=asked_to_stop, draws=draws)
    return {name for name, value in found._asdict().items() if value}


@pytest.mark.parametrize(
    ("step", "options", "expected"),
    [
        (1, {}, {"first"}),
        (2, {}, {"log"}),
        (3, {}, {"preview"}),
        (4, {}, {"log", "save"}),
        (5, {}, set()),
        (6, {}, {"log", "preview"}),
        # The last step is always logged, saved and drawn.
        (12, {}, {"log", "save", "preview", "end"}),
        (11, {"num_steps": 11}, {"log", "save", "preview", "end"}),
        (1, {"num_steps": 1}, {"first", "log", "save", "preview", "end"}),
        # A resumed run: its first step compiles again.
        (5, {"start": 4}, {"first"}),
        (6, {"start": 4}, {"log", "preview"}),
        # Stop requested: saved immediately, without a preview.
        (5, {"asked_to_stop": True}, {"log", "save", "end", "stop"}),
        (3, {"asked_to_stop": True}, {"log", "save", "end", "stop"}),
        (1, {"asked_to_stop": True}, {"first", "log", "save", "end", "stop"}),
        # At the last step there is nothing to stop.
        (12, {"asked_to_stop": True}, {"log", "save", "preview", "end"}),
        # No previews: none requested, or a network that cannot sample.
        (3, {"preview_every": 0}, set()),
        (12, {"preview_every": 0}, {"log", "save", "end"}),
        (3, {"draws": False}, set()),
        (12, {"draws": False}, {"log", "save", "end"}),
    ],
)
def test_what_is_due_after_a_step(step, options, expected):
    assert due(step, **options) == expected
