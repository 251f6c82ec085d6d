"""Traces of training steps."""

import gzip
import json

import jax
import numpy as np
import pytest

from cfg_jax.training import preemption, profile
from cfg_jax.training.loop import Loop
from cfg_jax.training.run import train
from launch.values import profile_steps
from tests.programs import ROOT
from tests.tiny import tiny_points

BETWEEN = {"next batch", "metrics of finished steps", "log", "save"}
"""Names of the events of the loop outside its steps."""


def events_of(workdir):
    """Events of the Perfetto file of a run."""
    (path,) = (workdir / "profile").glob("plugins/profile/*/perfetto_trace.json.gz")
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def traced_steps(workdir):
    """Numbers of the annotated steps, in order of time."""
    steps = [event for event in events_of(workdir) if event.get("name") == profile.STEP]
    return [int(e["args"]["step_num"]) for e in sorted(steps, key=lambda event: event["ts"])]


@pytest.mark.parametrize(
    ("text", "expected"), [(None, None), ("10:20", (10, 20)), ("1:1", (1, 1)), ("7:7", (7, 7))]
)
def test_a_first_and_a_last_step_are_read(text, expected):
    assert profile_steps(text) == expected


@pytest.mark.parametrize(
    "text", ["", "10", "10:", ":10", "10:5", "0:5", "-3:5", "a:b", "1:2:3", "1.5:3", "10-20"]
)
def test_other_texts_are_refused_in_one_line_that_shows_the_form(text):
    with pytest.raises(ValueError, match="FIRST:LAST, such as 10:20") as error:
        profile_steps(text)
    assert str(error.value).startswith(f"--profile_steps={text}:") and "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [(3, 5), (5, 9), (0, 2), (3, 2)])
def test_steps_that_the_run_does_not_make_are_refused_before_anything_is_written(tmp_path, steps):
    with pytest.raises(ValueError, match=f"profile_steps={steps[0]}:{steps[1]}: .*LAST <= 4"):
        train(tiny_points(), tmp_path / "run", profile_steps=steps)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", [(1.5, 3), (1, 3.0), (True, 3), ("1", "3"), (-1, 3)])
def test_steps_that_are_no_integers_are_refused(steps):
    with pytest.raises(ValueError, match="profile_steps=.*: need an integer"):
        profile.check(steps, 4)


def test_a_trace_has_a_limited_length():
    profile.check((101, 200), 1000)
    with pytest.raises(ValueError, match="profile_steps=101:201: give at most 100 steps") as error:
        profile.check((101, 201), 1000)
    assert "\n" not in str(error.value)
    assert f"at most {profile.MAX_STEPS} steps" in (ROOT / "launch" / "train.py").read_text()


def test_annotated_items_may_be_arrays():
    items = [np.arange(2), np.arange(3)]
    assert all(a is b for a, b in zip(profile.annotated(items, "item"), items, strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run of four steps of which 2 and 3 are traced."""
    workdir = tmp_path_factory.mktemp("profiled")
    train(tiny_points(), workdir, profile_steps=(2, 3))
    return workdir


def test_a_trace_has_the_requested_steps_and_their_work_on_the_device(run):
    assert traced_steps(run) == [2, 3]
    assert any("hlo_op" in event.get("args", {}) for event in events_of(run))  # compiled operations
    names = [event.get("name") for event in events_of(run)]
    # Step 2 is also logged and saved, and the trace begins after its batch was taken.
    assert [names.count(name) for name in ("next batch", "log", "save")] == [1, 1, 1]
    assert list((run / "profile").glob("plugins/profile/*/*.xplane.pb"))


def test_the_work_between_two_steps_is_in_no_event_of_a_step(run):
    events = [event for event in events_of(run) if event.get("ph") == "X"]
    steps = [event for event in events if event["name"] == profile.STEP]
    between = [event for event in events if event["name"] in BETWEEN]
    assert len(steps) == 2 and {event["name"] for event in between} == BETWEEN
    for step in steps:
        assert step["dur"] > 0
        starts = [event for event in between if event["tid"] == step["tid"]]
        assert not [e for e in starts if 0 <= e["ts"] - step["ts"] < step["dur"]]


def test_a_run_that_resumes_after_the_first_of_the_steps_is_not_traced_and_says_so(run, caplog):
    before = sorted((run / "profile").rglob("*"))
    train(tiny_points(**{"train.num_steps": 6}), run, profile_steps=(4, 5))
    assert "profile_steps=4:5: no step is traced, since the run resumes from step 4" in caplog.text
    assert sorted((run / "profile").rglob("*")) == before


def test_a_run_that_stops_during_the_trace_writes_what_it_has(tmp_path, monkeypatch):
    asked = iter([False, False, True])
    original = Loop.__init__

    def stopping(self, *arguments, asked_to_stop, **options):
        original(self, *arguments, asked_to_stop=lambda: next(asked), **options)

    monkeypatch.setattr(Loop, "__init__", stopping)
    with pytest.raises(preemption.Interrupted):
        train(tiny_points(), tmp_path, profile_steps=(2, 4))
    assert traced_steps(tmp_path) == [2, 3]


def test_a_trace_that_cannot_be_taken_costs_a_warning_and_not_the_run(tmp_path, caplog):
    with jax.profiler.trace(str(tmp_path / "other")):
        train(tiny_points(), tmp_path / "run", profile_steps=(1, 2))
    assert "no trace of steps: Profile has already been started" in caplog.text
    assert (tmp_path / "run" / "checkpoints" / "4").exists()
