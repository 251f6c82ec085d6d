import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cfg_jax.io.metric_log import MetricLog


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
