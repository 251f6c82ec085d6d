import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cfg_jax.io.metric_log import MetricLog
from cfg_jax.io.progress import Progress, track


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_numbers_are_in_the_record_and_in_the_event_file(tmp_path):
    log = MetricLog(tmp_path, 0)
    log.write(10, {"loss": 0.5})
    log.write(20, {"loss": 0.25})
    log.close()
    assert records(tmp_path) == [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25}]
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (10, 0.5),
        (20, 0.25),
    ]


def test_going_on_from_a_step_takes_out_the_records_after_it_and_half_a_line(tmp_path):
    log = MetricLog(tmp_path, 0)
    for step in (10, 20, 30):
        log.write(step, {"loss": 1.0})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')
    MetricLog(tmp_path, 20).close()
    assert [record["step"] for record in records(tmp_path)] == [10, 20]


def test_the_record_of_another_run_is_kept_under_another_name(tmp_path):
    for name in ("metrics.jsonl", "metrics.1.jsonl"):
        (tmp_path / name).write_text(name)
    MetricLog(tmp_path, 0).close()
    assert (tmp_path / "metrics.2.jsonl").read_text() == "metrics.jsonl"
    assert (tmp_path / "metrics.1.jsonl").read_text() == "metrics.1.jsonl"


def test_a_disk_that_fails_costs_one_warning_and_not_the_run(tmp_path, caplog):
    log = MetricLog(tmp_path, 0)
    (tmp_path / "metrics.jsonl").mkdir()
    with caplog.at_level("WARNING"):
        log.write(1, {"loss": 1.0})
        log.write(2, {"loss": 1.0})
    log.close()
    assert sum("not being written" in record.message for record in caplog.records) == 1


def test_without_a_terminal_progress_is_plain_lines(capsys):
    with Progress(0, 10) as progress:
        progress.advance()
        progress.report("loss 0.5")
    out, err = capsys.readouterr()
    assert out == "step 1/10  loss 0.5\n" and err == ""


def test_on_a_terminal_progress_is_a_bar_with_the_loss_and_the_time_left(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress(0, 4) as progress:
        for step in range(1, 5):
            progress.advance()
            progress.report(f"loss {step / 8}")
    out, err = capsys.readouterr()
    assert out == "" and "4/4" in err and "loss 0.5" in err and "<00:00" in err


def test_a_line_has_the_rate_and_the_time_left_where_there_is_no_terminal(capsys, monkeypatch):
    clock = iter([0.0, 4.0, 14.5, 20.0])
    monkeypatch.setattr("cfg_jax.io.progress.time.monotonic", lambda: next(clock))
    with Progress(100, 400, "image", lines=True) as progress:
        progress.advance(40)  # 4 s: too early for a line
        progress.advance(105)
        progress.advance(155)
    assert capsys.readouterr().out.splitlines() == [
        "image 245/400  10.0 images/s  16 s left",
        "image 400/400  15.0 images/s  0 s left",
    ]


def test_on_a_terminal_the_rate_is_that_of_the_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress(0, 4, "image", lines=True) as progress:
        progress.advance(4)
    out, err = capsys.readouterr()
    assert out == "" and "4/4" in err and "image/s" in err


@pytest.mark.parametrize("terminal", [False, True])
def test_tracked_items_come_in_turn_beside_a_bar_on_a_terminal_alone(capsys, monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert list(track([3, 1, 2], "batch")) == [3, 1, 2]
    out, err = capsys.readouterr()
    assert out == "" and ("3/3" in err) == bool(err) == terminal
