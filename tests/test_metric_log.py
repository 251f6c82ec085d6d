import io
import json

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cfg_jax.io.images import save_png
from cfg_jax.io.metric_log import MetricLog
from cfg_jax.io.tags import tag


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder):
    """What TensorBoard reads."""
    found = EventAccumulator(str(folder / "events"))
    found.Reload()
    return found


def test_numbers_are_in_the_record_and_in_the_event_file(tmp_path):
    log = MetricLog(tmp_path, 0)
    log.write(10, {"loss": 0.5})
    log.write(20, {"loss": 0.25})
    log.close()
    assert records(tmp_path) == [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25}]
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("loss/all")] == [
        (10, 0.5),
        (20, 0.25),
    ]


def test_tensorboard_has_pictures_and_the_config(tmp_path):
    picture = Image.new("RGB", (8, 4), (255, 0, 0))
    save_png(tmp_path / "preview.png", picture)
    log = MetricLog(tmp_path, 0, config={"train.batch_size": 64})
    log.picture(10, "preview", tmp_path / "preview.png")
    log.close()
    found = events(tmp_path)
    (image,) = found.Images("preview")
    assert (image.step, image.width, image.height) == (10, 8, 4)
    assert Image.open(io.BytesIO(image.encoded_image_string)).tobytes() == picture.tobytes()
    (text,) = found.Tensors("config/text_summary")
    assert b"| train.batch_size | `64` |" in text.tensor_proto.string_val[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", "loss/all"),
        ("loss_logsnr_0_to_2", "loss/logsnr_0_to_2"),
        ("accuracy", "accuracy/all"),
        ("accuracy_logsnr_2_to_inf", "accuracy/logsnr_2_to_inf"),
        ("grad_norm", "grad/norm"),
        ("images_per_second", "speed/images_per_second"),
        ("memory_peak", "memory/peak"),
        ("mine", "mine"),
    ],
)
def test_tags_are_in_groups(name, expected):
    assert tag(name) == expected


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


def test_events_that_fail_do_not_hide_a_later_failure_of_the_record(tmp_path, caplog):
    (tmp_path / "events").write_text("in the way of the folder")
    with caplog.at_level("WARNING"):
        log = MetricLog(tmp_path, 0)
        log.write(1, {"loss": 1.0})
        (tmp_path / "metrics.jsonl").unlink()
        (tmp_path / "metrics.jsonl").mkdir()
        log.write(2, {"loss": 1.0})
    log.close()
    said = [record.message.split(" (")[0] for record in caplog.records]
    places = [tmp_path / "events", tmp_path / "metrics.jsonl"]
    assert said == [f"metrics are not being written to {place}" for place in places]
