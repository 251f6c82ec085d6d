"""Metrics in Weights & Biases: what its files hold, and failures that cost a warning only."""

import contextlib
import json
import struct
import threading

import pytest
from PIL import Image

from cfg_jax.io import wandb_log
from cfg_jax.io.images import save_png
from cfg_jax.io.metric_log import MetricLog
from cfg_jax.io.wandb_log import Destination, WandbLog
from cfg_jax.training.journal import opened
from tests.tiny import tiny_points

OFFLINE = Destination("offline", "of_a_test")


def blobs(path):
    """The records of a .wandb file, a log in LevelDB's format after 7 bytes."""
    content, position, parts = path.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while len(content) - position >= 7:
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
        if 2**15 - position % 2**15 < 7:  # the end of a block is empty
            position += -position % 2**15


def logged(workdir):
    """(run, config, history) of the newest offline run in its files."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # the library's process writes the last records as it ends
    history = []
    for blob in blobs(max(workdir.glob("wandb/offline-run-*/*.wandb"))):
        record = Record.FromString(blob)
        if record.HasField("run"):
            run = record.run
        if record.HasField("history"):
            items = record.history.item
            history.append(
                {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items}
            )
    return run, {i.key: json.loads(i.value_json) for i in run.config.update}, history


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """No settings of this machine's user."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_an_offline_run_holds_config_numbers_and_pictures_and_is_continued(tmp_path, quiet, caplog):
    workdir = tmp_path / "digits"
    workdir.mkdir()
    picture = workdir / "preview.png"
    save_png(picture, Image.new("RGB", (8, 4)))
    log = MetricLog(workdir, 0, config={"train.batch_size": 64}, wandb=OFFLINE)
    log.write(10, {"loss": 0.5, "loss_logsnr_0_to_2": 0.25})
    log.picture(10, "preview", picture)
    log.close()
    run, config, history = logged(workdir)
    assert (run.project, run.display_name) == ("of_a_test", "digits")
    assert config["train.batch_size"] == 64
    numbers, image = history
    assert (numbers["step"], numbers["loss/all"]) == (10, 0.5)
    assert numbers["loss/logsnr_0_to_2"] == 0.25
    assert (image["step"], image["preview/width"], image["preview/height"]) == (10, 8, 4)
    again = WandbLog(workdir, OFFLINE, {}, 2)
    again.close()
    assert logged(workdir)[0].run_id == run.run_id == (workdir / "wandb/run_id").read_text()
    assert not caplog.records


@pytest.mark.parametrize(("error", "code"), [(None, 0), (FloatingPointError, 1), (SystemExit, 0)])
def test_a_run_that_fails_ends_as_failed_and_a_preempted_one_does_not(tmp_path, quiet, error, code):
    import wandb

    config = tiny_points(**{"log.wandb": "offline"})
    with contextlib.suppress(FloatingPointError, SystemExit), opened(config, tmp_path, 0):
        if error:
            raise error
    wandb.teardown()
    from wandb.proto.wandb_internal_pb2 import Record

    (place,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = map(Record.FromString, blobs(place))
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [code]


def test_a_new_run_in_an_old_folder_has_an_id_of_its_own(tmp_path):
    place = tmp_path / "run_id"
    first = wandb_log._run_id(place, resumed=False)
    assert wandb_log._run_id(place, resumed=True) == first == place.read_text()
    assert wandb_log._run_id(place, resumed=False) != first


def test_a_failure_is_one_warning_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    def refuses(*_):
        raise RuntimeError("no such host")

    monkeypatch.setattr(wandb_log, "_init", refuses)
    log = WandbLog(tmp_path, OFFLINE, {}, 0)
    for step in range(10):
        log.scalars(step, {})
    log.close()
    (warning,) = [record.message for record in caplog.records if "Weights" in record.message]
    assert "no such host" in warning and "goes on" in warning


def test_a_library_that_hangs_blocks_nothing(tmp_path, monkeypatch, caplog):
    end = threading.Event()
    monkeypatch.setattr(wandb_log, "_init", lambda *_: end.wait())
    monkeypatch.setattr(wandb_log, "CLOSE_SECONDS", 0.0)
    log = WandbLog(tmp_path, OFFLINE, {}, 0)
    for step in range(2 * wandb_log.WAITING):
        log.scalars(step, {"loss": 1.0})
    log.close()
    end.set()
    assert sum("not being sent" in record.message for record in caplog.records) == 1


def test_what_is_missing_is_named_before_a_run_begins(monkeypatch, quiet):
    with pytest.raises(ValueError, match="API key .none is configured.: run `wandb login`"):
        wandb_log.check(Destination("online", "mine"))
    monkeypatch.setenv("WANDB_API_KEY", "too short")
    with pytest.raises(ValueError, match="API key .*invalid.*set it to offline"):
        wandb_log.check(Destination("online", "mine"))
    wandb_log.check(OFFLINE)
    monkeypatch.setattr(wandb_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install '.\[wandb\]'"):
        wandb_log.check(OFFLINE)
