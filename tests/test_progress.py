"""What a terminal and a pipe show of a loop's progress."""

import contextlib
import io
import sys

import pytest
from absl import logging

from cfg_jax.io.progress import Progress, track
from tests.terminal import Terminal


@contextlib.contextmanager
def on_terminal():
    """Standard output and error on one terminal of 100 columns. pytest undoes a fixture's."""
    screen = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100")
        patch.setenv("LINES", "30")
        patch.setattr(sys, "stdout", screen)
        patch.setattr(sys, "stderr", screen)
        yield screen


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `clock.append` moves."""
    times = [0.0]
    monkeypatch.setattr("cfg_jax.io.progress.time.monotonic", lambda: times[-1])
    return times


def test_in_a_pipe_progress_is_plain_lines(capsys):
    with Progress(0, 10) as progress:
        progress.advance()
        progress.report("loss 0.5")
    out, err = capsys.readouterr()
    assert out == "step 1/10  loss 0.5\n" and err == ""


def test_a_line_has_the_rate_and_the_time_left_since_the_first_item(capsys, clock):
    with Progress(100, 400, "image", first="compiling") as progress:
        clock.append(4.0)
        progress.advance(40)  # too early for a line; includes compilation
        clock.append(14.5)
        progress.advance(105)
        clock.append(20.0)
        progress.advance(155)
    assert capsys.readouterr().out.splitlines() == [
        "image 245/400  10.0 images/s  16 s left",  # 105 in 10.5 s, 155 remain
        "image 400/400  16.2 images/s",  # 260 in 16 s
    ]


def test_a_short_loop_prints_nothing_in_a_pipe(capsys):
    assert list(track([3, 1, 2], "batch")) == [3, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_one_long_item_prints_nothing_in_a_pipe_once_it_is_done(capsys, clock):
    for _ in track([3], "batch"):
        clock.append(60.0)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("unit", "seconds", "said"),
    [
        ("image", 0.5, "2.0 images/s"),
        ("batch", 0.5, "2.0 batches/s"),
        ("batch", 40, "40.0 s/batch"),
    ],
)
def test_the_rate_is_in_items_or_in_seconds(capsys, clock, unit, seconds, said):
    with Progress(0, 3, unit) as progress:
        progress.advance()
        clock.append(seconds)
        progress.advance()
        progress.report("")
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "said"), [(90, "90 s"), (600, "10 min"), (150, "2.5 min"), (45_000, "12 h")]
)
def test_the_time_left_has_a_readable_unit(capsys, clock, seconds, said):
    with Progress(0, 3) as progress:
        progress.advance()
        clock.append(float(seconds))
        progress.advance()
        progress.report("")
    assert f"{said} left" in capsys.readouterr().out


def test_the_bar_says_compiling_until_the_first_item_is_finished(clock):
    with on_terminal() as terminal, Progress(0, 4, first="compiling") as progress:
        assert "0/4" in terminal.lines()[-1] and terminal.lines()[-1].endswith("compiling")
        clock.append(100.0)
        progress.advance()
        progress.report("loss 0.5")
        assert terminal.lines()[-1].endswith("loss 0.5")  # 100 s of compilation predict nothing
        clock.append(102.0)
        progress.advance()
        assert "left" not in terminal.lines()[-1]  # two seconds predict little
        clock.append(104.0)
        progress.report("loss 0.4")
        assert terminal.lines()[-1].endswith("loss 0.4  8 s left")


def test_a_terminal_that_does_not_know_its_width_has_a_bar(monkeypatch):
    monkeypatch.setattr("cfg_jax.io.progress._columns", lambda: 0)
    with on_terminal() as terminal, Progress(0, 3) as progress:
        progress.advance()
        progress.report("loss 0.5")
        assert "step 1/3" in terminal.lines()[-1] and "loss 0.5" in terminal.lines()[-1]


def test_everything_written_beside_a_bar_is_a_whole_line_above_it():
    with on_terminal() as terminal, Progress(0, 3) as progress:
        print("printed")
        progress.advance()
        sys.stderr.write("half a ")
        sys.stdout.write("line\n")
        sys.stderr.write("line\n")
        progress.report("loss 0.5")
        print("last", end="")
        progress.advance(2)
    *above, bar, end = terminal.lines()
    assert above == ["printed", "line", "half a line", "last"]
    assert not any("step" in line or "%" in line for line in above)
    assert bar.startswith("step 3/3 100%|") and bar.endswith("loss 0.5")
    assert end == ""


def test_the_log_is_above_the_bar_too_and_goes_where_it_went_afterwards(monkeypatch):
    handler = logging.get_absl_handler().python_handler
    with on_terminal() as terminal:
        monkeypatch.setattr(handler, "stream", terminal)
        with Progress(0, 2) as progress:
            progress.advance()
            handler.emit(
                logging.get_absl_logger().makeRecord("absl", 30, "", 0, "full disk", (), None)
            )
    assert handler.stream is terminal
    *_, warning, bar, end = terminal.lines()
    assert warning.endswith("full disk") and bar.startswith("step 1/2") and end == ""


def test_a_loop_inside_another_is_a_note_of_the_one_bar():
    with on_terminal() as terminal, Progress(0, 2) as progress:
        progress.advance()
        for number in track("ab", "batch"):
            shown = terminal.lines()
            assert len(shown) == 1 and shown[0].startswith("step 1/2")
            done = "ab".index(number)
            assert f"[batch {done}/2" in shown[0]
        assert "batch" not in terminal.lines()[-1]


def test_streams_are_restored_after_an_error():
    with on_terminal() as terminal:
        with pytest.raises(KeyError), Progress(0, 2):
            raise KeyError
        assert sys.stdout is terminal and sys.stderr is terminal
        assert list(track([1], "batch")) == [1]


def test_a_bar_beside_a_redirected_output_writes_no_bar_into_the_file():
    file = io.StringIO()
    with on_terminal() as terminal, contextlib.redirect_stdout(file), Progress(0, 2) as progress:
        print("a result")
        progress.advance()
    assert file.getvalue() == "a result\n" and "a result" not in terminal.getvalue()
