"""Faults injected into real training runs; docs/reliability.md lists them.

`faulty_run` kills, hangs and starves processes on the suite's two devices. Each ends as documented,
or resumes to the parameters of `finished`, an undisturbed run.
"""

import ast
import contextlib
import errno
import faulthandler
import fcntl
import json
import os
import random
import re
import signal
import socket
import time

import chex
import numpy as np
import pytest

from cfg_jax import data
from cfg_jax.config.validate import check_same_run, from_json, to_json
from cfg_jax.data.sources import ImageSource
from cfg_jax.io.metric_log import MetricLog, read_records
from cfg_jax.runtime import devices
from cfg_jax.sampling import strips
from cfg_jax.storage.checkpoint import Checkpoints, load_ema
from cfg_jax.storage.lock import hold
from cfg_jax.training import preemption
from cfg_jax.training.loop import Loop
from cfg_jax.training.run import train
from cfg_jax.training.step import make_train_step
from tests.data_files import files_up_to
from tests.programs import ROOT, free_port, start_program
from tests.tiny import parameters, pixel_networks, records, tiny_config, tiny_points

EIGHT_STEPS = {"train.num_steps": 8, "train.log_every": 1}


def faulty_run(workdir, *flags, config="points", overrides=EIGHT_STEPS, devices=2, **happens):
    """Starts a training process with an injected fault."""
    wanted = {"workdir": str(workdir), "config": config, "overrides": overrides, **happens}
    told = {"FAULTY_RUN": json.dumps(wanted)}
    return start_program("tests.faulty_run", *flags, devices=devices, environment=told)


def ended(*arguments, seconds=900, **keywords):
    """(exit code, standard output, standard error) of a `faulty_run`."""
    with faulty_run(*arguments, **keywords) as program:
        return program.wait(seconds), program.stdout, program.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Workdir of eight undisturbed steps."""
    workdir = tmp_path_factory.mktemp("finished")
    train(tiny_points(**EIGHT_STEPS), workdir)
    return workdir


def digests(workdir):
    """Digests of every leaf of state and average in the last checkpoint, and its step."""
    loaded = load_ema(workdir / "checkpoints")
    return loaded.step, [loaded.meta["digests"][item] for item in ("state", "ema")]


def assert_ends_as(workdir, other):
    chex.assert_trees_all_equal(parameters(workdir), parameters(other))
    assert digests(workdir) == digests(other)
    told = [[(record["step"], record["loss"]) for record in records(w)] for w in (workdir, other)]
    assert told[0] == told[1]


def steps_of(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def after_step(monkeypatch, step, action):
    """Patches training in this process to call `action` after `step`."""
    own = Loop._between

    def between(self, done, *arguments):
        if done == step:
            action()
        return own(self, done, *arguments)

    monkeypatch.setattr(Loop, "_between", between)


# Kill and termination signals.


def test_a_run_killed_inside_its_saves_resumes_from_whole_steps_to_the_same_end(finished, tmp_path):
    found = []
    for step, files in ((2, 0), (4, 20)):
        code, _, err = ended(tmp_path, kill_in_save=[step, files])
        assert code == -signal.SIGKILL, err
        found.append(steps_of(tmp_path))
        whole = [int(name) for name in found[-1] if name.isdecimal()]
        assert not whole or load_ema(tmp_path / "checkpoints").step == max(whole) <= step
    assert any("orbax-checkpoint-tmp" in name for names in found for name in names)
    code, out, err = ended(tmp_path)
    assert code == 0, err
    assert "resuming from step" in out
    assert steps_of(tmp_path) == steps_of(finished)
    assert_ends_as(tmp_path, finished)


def test_sigterm_saves_the_step_under_way_and_ends_with_code_75(finished, tmp_path):
    code, out, err = ended(tmp_path, terminate=3)
    assert code == 75, err
    assert "stop requested: step 3 of 8 saved" in out
    assert steps_of(tmp_path) == ["2", "3"]
    code, out, err = ended(tmp_path)
    assert code == 0, err
    assert "resuming from step 3" in out
    assert_ends_as(tmp_path, finished)


def test_with_jax_distributed_sigterm_is_left_to_it_and_does_the_same(tmp_path):
    alone = ("--distributed=on", f"--coordinator_address=127.0.0.1:{free_port()}")
    alone += ("--num_processes=1", "--process_id=0")
    rare = {"train.num_steps": 10**5, "train.log_every": 10**5, "train.checkpoint_every": 10**5}
    code, out, err = ended(tmp_path, *alone, overrides=rare, terminate=3)
    assert code == 75, err
    (step,) = steps_of(tmp_path)
    assert f"stop requested: step {step} of 100000 saved" in out and int(step) >= 3
    # A signal before the first step of a resumed run is not lost either.
    code, out, err = ended(tmp_path, *alone, overrides=rare, terminate="early")
    assert code == 75, err
    assert f"stop requested: step {int(step) + 1} of 100000 saved" in out


def test_sigterm_before_the_first_step_stops_after_it(tmp_path):
    code, out, err = ended(tmp_path, terminate="early")
    assert code == 75, err
    assert "stop requested: step 1 of 8 saved" in out and steps_of(tmp_path) == ["1"]


def test_a_second_sigterm_while_it_saves_changes_nothing(finished, tmp_path, monkeypatch):
    own = Checkpoints.save

    def save(self, *arguments, **keywords):
        started = own(self, *arguments, **keywords)
        signal.raise_signal(signal.SIGTERM)
        return started

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        after_step(patch, 3, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(preemption.Interrupted) as stop:
            train(tiny_points(**EIGHT_STEPS, **{"train.checkpoint_every": 8}), tmp_path)
    assert (stop.value.step, stop.value.code) == (3, 75)
    assert signal.getsignal(signal.SIGTERM) == before
    assert steps_of(tmp_path) == ["3"]
    train(tiny_points(**EIGHT_STEPS), tmp_path)
    assert_ends_as(tmp_path, finished)


def test_a_closed_terminal_saves_the_step_under_way(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)  # under nohup too
    with monkeypatch.context() as patch:
        after_step(patch, 3, lambda: signal.raise_signal(signal.SIGHUP))
        with pytest.raises(preemption.Interrupted) as stop:
            train(tiny_points(**EIGHT_STEPS), tmp_path)
    assert (stop.value.step, stop.value.code) == (3, 75)
    assert steps_of(tmp_path) == ["2", "3"]
    train(tiny_points(**EIGHT_STEPS), tmp_path)
    assert_ends_as(tmp_path, finished)


class Ended(Exception):
    """What the handler of a program raises in a test."""


@pytest.fixture
def program():
    """A program that handles SIGINT."""

    def end(number, frame):
        raise Ended

    before = signal.signal(signal.SIGINT, end)
    yield end
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_the_step_under_way_and_ends_with_code_130(finished, tmp_path, program):
    with pytest.MonkeyPatch.context() as patch:
        after_step(patch, 3, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(preemption.Interrupted) as stop:
            train(tiny_points(**EIGHT_STEPS), tmp_path)
    assert (stop.value.step, stop.value.code) == (3, 130)
    assert signal.getsignal(signal.SIGINT) is program
    assert steps_of(tmp_path) == ["2", "3"]
    train(tiny_points(**EIGHT_STEPS), tmp_path)
    assert_ends_as(tmp_path, finished)


def test_a_second_ctrl_c_is_left_to_the_program(program, capfd):
    with pytest.raises(Ended), preemption.watched() as asked_to_stop:
        signal.raise_signal(signal.SIGINT)
        assert asked_to_stop() and "once more ends at once" in capfd.readouterr().err
        signal.raise_signal(signal.SIGINT)


def test_in_a_notebook_ctrl_c_is_an_exception():
    with pytest.raises(KeyboardInterrupt), preemption.watched():
        signal.raise_signal(signal.SIGINT)


def test_under_nohup_a_closed_terminal_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with preemption.watched() as asked_to_stop:
            signal.raise_signal(signal.SIGHUP)
            assert not asked_to_stop()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_preview_that_is_not_finite_costs_a_warning_and_not_the_run(
    tmp_path, monkeypatch, caplog
):
    def poisoned(*arguments):
        raise FloatingPointError("samples of checkpoint 4 are not finite")

    monkeypatch.setattr(strips, "preview", poisoned)
    train(tiny_points(**{"train.preview_every": 2}), tmp_path)
    assert "no preview of step 2: samples of checkpoint 4 are not finite" in caplog.text
    assert steps_of(tmp_path) == ["2", "4"]


def test_a_checkpoints_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(ValueError, match="the folder of checkpoints=.*checkpoints is a file"):
        train(tiny_points(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_sigterm_after_the_last_step_is_a_finished_run(tmp_path, monkeypatch):
    after_step(monkeypatch, 4, lambda: signal.raise_signal(signal.SIGTERM))
    train(tiny_points(), tmp_path)
    assert steps_of(tmp_path) == ["2", "4"]


# Two processes of two devices each.


def ended_together(workdir, *happens, overrides):
    """`ended` for two processes, each with its own fault."""
    address = f"--coordinator_address=127.0.0.1:{free_port()}"
    count = f"--num_processes={len(happens)}"
    with contextlib.ExitStack() as stack:
        programs = []
        for process, own in enumerate(happens):
            flags = (address, count, f"--process_id={process}")
            options = {"overrides": EIGHT_STEPS | overrides, **own}
            programs.append(stack.enter_context(faulty_run(workdir, *flags, **options)))
        return [(each.wait(900), each.stdout, each.stderr) for each in programs]


def test_sigterm_to_one_of_two_processes_saves_one_step_on_both(tmp_path):
    rare = {"train.num_steps": 10**5, "train.log_every": 10**5, "train.checkpoint_every": 10**5}
    said = ended_together(tmp_path, {}, {"terminate": 3}, overrides=rare)
    assert [code for code, *_ in said] == [75, 75], said
    (step,) = steps_of(tmp_path)
    assert f"stop requested: step {step} of 100000 saved" in said[0][1] and int(step) >= 3
    assert load_ema(tmp_path / "checkpoints").step == int(step)


def test_when_one_of_two_processes_dies_the_other_ends_too(tmp_path):
    said = ended_together(tmp_path, {}, {"die": 5}, overrides={"train.hang_seconds": 0})
    assert said[1][0] == -signal.SIGKILL
    assert said[0][0] not in (0, 75), said[0]
    assert "2" in steps_of(tmp_path)


def test_when_one_of_two_processes_hangs_both_end(tmp_path):
    short = EIGHT_STEPS | {"train.checkpoint_every": 100, "train.hang_seconds": 8}
    longer = {"overrides": short | {"train.hang_seconds": 60}}  # a watchdog fires in one only
    said = ended_together(tmp_path, longer, {"hang": 7}, overrides=short)
    assert said[1][0] == 1, said
    assert "Timeout (0:00:08)!" in said[1][2] and "in happens" in said[1][2]
    assert said[0][0] not in (0, 75), said[0]


# Other devices.


def test_a_run_goes_on_with_four_devices_and_then_one(finished, tmp_path):
    for count, steps in ((4, 4), (1, 8)):
        code, out, err = ended(
            tmp_path, devices=count, overrides=EIGHT_STEPS | {"train.num_steps": steps}
        )
        assert code == 0, err
    assert "resuming from step 4" in out
    losses = [[record["loss"] for record in records(run)] for run in (tmp_path, finished)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    chex.assert_trees_all_close(parameters(tmp_path), parameters(finished), rtol=1e-3, atol=1e-5)


def test_a_step_that_forgets_to_average_shows_in_the_copies_of_its_state():
    # The stand-in of `test_every_device_holds_the_same_parameters_after_some_steps`.
    from tests.test_train_state import batch_of, fresh, quadratic

    optimizer = tiny_optimizer()
    step = make_train_step(quadratic, optimizer, seed=0, ema_decay=0.9, axis_name=None)
    state = devices.replicate(fresh(optimizer))
    state, _ = devices.pmap_step(step)(state, devices.split_batch(batch_of(0)))
    assert state.params["p"].sharding.is_fully_replicated
    copies = [np.asarray(shard.data) for shard in state.params["p"].addressable_shards]
    assert any((copy != copies[0]).any() for copy in copies)


def tiny_optimizer():
    from cfg_jax.training.step import create_optimizer

    return create_optimizer(learning_rate=0.1, warmup_steps=0, b1=0.9, b2=0.99, grad_clip=1.0)


# Hangs.


def test_a_run_that_hangs_prints_its_stacks_and_ends(tmp_path):
    started = time.monotonic()
    short = EIGHT_STEPS | {"train.checkpoint_every": 100, "train.hang_seconds": 6}
    code, out, err = ended(tmp_path, overrides=short, hang=7)
    assert code == 1 and time.monotonic() - started < 200
    assert "Timeout (0:00:06)!" in err and "in happens" in err and "in __call__" in err
    assert "first step" in out


def test_what_compiles_saves_or_draws_may_take_ten_times_as_long(tmp_path, monkeypatch):
    seconds, ends = [], []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda after, exit, file: seconds.append(after)
    )
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: ends.append(True))
    rare = {"train.num_steps": 11, "train.checkpoint_every": 6}
    train(tiny_points(**rare, **{"train.hang_seconds": 7}), tmp_path / "watched")
    # While the run opens and before the first step; after the first, the sixth and the last, which
    # are slow; after the three steps that may wait for another process.
    assert seconds == 2 * [70] + 4 * [70] + [7] + 4 * [70] + [7, 70] and ends
    train(tiny_points(**rare, **{"train.hang_seconds": 0}), tmp_path / "free")
    assert len(seconds) == 13 and len(ends) == 1


# Full disks.


def test_a_disk_that_fills_and_empties_costs_the_saves_in_between(finished, tmp_path):
    every = EIGHT_STEPS | {"train.checkpoint_every": 1, "checkpoint.keep_every": 1}
    code, _, err = ended(tmp_path, overrides=every, full_disk=[3, 6])
    assert code == 0, err
    assert {"3", "4"}.isdisjoint(steps_of(tmp_path)) and {"2", "7", "8"} <= set(steps_of(tmp_path))
    assert "step 3 was not written" in err and "step 4 was not written" in err
    assert digests(tmp_path) == digests(finished)


def test_a_save_that_failed_before_a_last_one_that_did_not_is_no_failure(finished, tmp_path):
    every = EIGHT_STEPS | {"train.checkpoint_every": 4}
    code, out, err = ended(tmp_path, overrides=every, full_disk=[3, 7])
    assert code == 0, err
    assert "step 4 was not written" in err and "step 8 of 8 done" in out
    assert steps_of(tmp_path) == ["8"] and digests(tmp_path) == digests(finished)


def test_a_last_step_that_cannot_be_saved_is_an_error_and_made_again(finished, tmp_path):
    code, out, err = ended(tmp_path, full_disk=[7, 9])
    assert code == 1
    (told,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err and "never retrieved" not in err
    assert told.startswith("error: step 8 was not written") and "done" not in out
    assert "6" in steps_of(tmp_path) and "8" not in steps_of(tmp_path)
    train(tiny_points(**EIGHT_STEPS), tmp_path)
    assert digests(tmp_path) == digests(finished)


def test_numbers_that_cannot_be_written_cost_a_warning_a_file_and_whole_lines_stay(
    tmp_path, caplog
):
    log = MetricLog(tmp_path, 0)
    log.write(1, {"loss": 0.5})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    with files_up_to(size + 5):
        for step in range(2, 40):  # tensorboardX's own writer blocks forever after ten
            log.write(step, {"loss": 0.5})
    log.write(40, {"loss": 0.25})
    log.close()
    assert [record["step"] for record in records(tmp_path)] == [1, 40]
    warnings = [r.message for r in caplog.records if "not being written" in r.message]
    assert [said.split(" (")[0].split("/")[-1] for said in warnings] == ["metrics.jsonl", "events"]


def test_a_workdir_on_a_full_or_read_only_disk_is_refused_in_one_line(tmp_path):
    with files_up_to(0), pytest.raises(ValueError, match="File too large.*free some space") as full:
        train(tiny_points(), tmp_path / "new")
    with pytest.raises(ValueError, match="cannot be written.*another folder") as read_only:
        train(tiny_points(), "/proc/run")  # not even root may write there
    assert "\n" not in str(full.value) + str(read_only.value)
    assert not list((tmp_path / "new").iterdir())


# Two runs in one workdir.


def test_a_second_trainer_on_a_workdir_is_refused_and_touches_nothing(finished, tmp_path):
    train(tiny_points(), tmp_path)
    unfinished = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
    with Checkpoints(tmp_path / "checkpoints"):
        unfinished.mkdir()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=rf"process {os.getpid()} on .* is writing") as refused:
            train(tiny_points(**EIGHT_STEPS), tmp_path)
        assert "\n" not in str(refused.value)
        assert sorted(tmp_path.rglob("*")) == before
    train(tiny_points(**EIGHT_STEPS), tmp_path)
    assert not unfinished.exists() and not (tmp_path / "checkpoints.lock").exists()
    assert digests(tmp_path) == digests(finished)


def test_a_lock_goes_with_the_process_that_held_it(tmp_path):
    path = tmp_path / "made" / "run.lock"
    job = json.dumps({"do": "hold_lock", "path": str(path)})
    with start_program("tests.process_driver", f"--job={job}") as holder:
        assert holder.wait_for("held\n") == "held\n", holder
        with pytest.raises(ValueError, match=f"process {holder.pid} on {socket.gethostname()}"):
            hold(path)
    assert path.exists()
    give_back = hold(path)
    assert f"process {os.getpid()} " in path.read_text()
    give_back()
    assert not path.exists()


def a_file(path):
    path.write_text("[[package]]")


def a_link(path):
    path.with_name("target").write_text("process 1 on elsewhere")
    path.symlink_to(path.with_name("target"))


def a_dead_link(path):
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize(
    "make, what",
    [
        (a_file, "not a lock of cfg_jax"),
        (a_link, "a link"),
        (a_dead_link, "a link"),
        (os.mkfifo, "no plain file"),
    ],
)
def test_what_has_the_name_of_a_lock_and_is_none_is_left_alone(tmp_path, make, what):
    path = tmp_path / "run.lock"
    make(path)
    before = {
        each.name: (each.lstat().st_mode, each.lstat().st_size) for each in tmp_path.iterdir()
    }
    with pytest.raises(ValueError, match=f"run.lock is {what}, and the lock needs that name"):
        hold(path)
    after = {each.name: (each.lstat().st_mode, each.lstat().st_size) for each in tmp_path.iterdir()}
    assert after == before


def test_the_lock_of_a_killed_process_is_taken(tmp_path):
    (tmp_path / "run.lock").write_text(f"process 1 on {socket.gethostname()}")
    (tmp_path / "empty.lock").touch()
    for name in ("run.lock", "empty.lock"):
        hold(tmp_path / name)()
        assert not (tmp_path / name).exists()


def test_a_lock_removed_while_it_is_taken_is_taken_anew(tmp_path, monkeypatch):
    path, flock = tmp_path / "run.lock", fcntl.flock
    given_back = iter([path.unlink])

    def late(file, how):
        next(given_back, lambda: None)()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    give_back = hold(path)
    with pytest.raises(ValueError, match="is writing"):
        hold(path)
    give_back()


def test_where_there_are_no_locks_one_warning_says_so(tmp_path, monkeypatch, caplog):
    def missing(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", missing)
    hold(tmp_path / "run.lock")()
    assert "no locks" in caplog.text and not list(tmp_path.iterdir())


# Changed data, and data that is not finite.


def test_a_run_goes_on_with_data_that_changed_only_when_told_to(tmp_path, monkeypatch, data_dir):
    record = ImageSource._record

    def changed(self, index):  # prepared again, with the same name and number of examples
        found = record(self, index)
        return {**found, "image": found["image"][::-1]} if index == len(self) - 1 else found

    where = {"data.data_dir": data_dir}
    with pixel_networks():
        train(tiny_config(**where), tmp_path)
        monkeypatch.setattr(ImageSource, "_record", changed)
        with pytest.raises(
            ValueError, match=r"other examples .*fingerprint.content was \d+, is \d+"
        ):
            train(tiny_config(**where, **EIGHT_STEPS), tmp_path)
        assert steps_of(tmp_path) == ["2", "4"]
        allowed = {"train.allow_config_change": True}
        train(tiny_config(**where, **EIGHT_STEPS, **allowed), tmp_path)
    assert digests(tmp_path)[0] == 8


def test_a_run_older_than_the_print_of_its_examples_goes_on():
    now = {"meta": {"data": {"fingerprint": {"dataset": "digits", "content": 5}}}}
    check_same_run(now, {"meta": {"data": {"fingerprint": {"dataset": "digits"}}}}, "runs/x")
    with pytest.raises(ValueError, match="content"):
        other = {"meta": {"data": {"fingerprint": {"dataset": "digits", "content": 6}}}}
        check_same_run(now, other, "runs/x")


def test_one_poisoned_batch_is_left_out_and_counted(tmp_path, monkeypatch):
    whole = data.batches

    def poisoned(*arguments, **keywords):
        def poison(k, batch):
            return batch | {"x": batch["x"] * np.nan} if k == 2 else batch

        return whole(*arguments, **keywords).map_with_index(poison)

    monkeypatch.setattr(data, "batches", poisoned)
    train(tiny_points(**EIGHT_STEPS), tmp_path)
    skipped = {record["step"]: record["skipped"] for record in records(tmp_path)}
    assert skipped == {step: float(step == 3) for step in range(1, 9)}
    chex.assert_tree_all_finite(parameters(tmp_path))


def test_a_run_of_a_config_without_hang_seconds_goes_on():
    before = to_json(tiny_points())
    del before["train"]["hang_seconds"]
    assert from_json(before) == tiny_points()
    now = to_json(tiny_points(**{"train.hang_seconds": 5}))
    check_same_run(now, before, "runs/x")


# The list of faults, and all of them in one run.


def test_every_test_that_the_list_of_faults_names_is_there():
    text = (ROOT / "docs" / "reliability.md").read_text()
    table = text.partition("## Faults")[2]
    rows = [line.split("|") for line in table.splitlines() if re.match(r"\| *\d+ *\|", line)]
    assert [int(row[1]) for row in rows] == list(range(1, 38))
    known = {}
    for row in rows:
        named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", row[-2])
        assert named or "not tested:" in row[-2], row
        for module, test in named:
            if module not in known:
                tree = ast.parse((ROOT / "tests" / f"{module}.py").read_text())
                known[module] = {node.name for node in tree.body if hasattr(node, "name")}
            assert test in known[module], (module, test)


@pytest.mark.long
def test_a_thousand_steps_killed_again_and_again_end_as_if_undisturbed(tmp_path):
    """Of the small network of points; KILL_DIGITS=1 in the environment trains that of digits."""
    config = "digits" if os.environ.get("KILL_DIGITS") else "points"
    settings = {
        "data.data_dir": str(tmp_path / "data"),
        "train.num_steps": 1000,
        "train.batch_size": 64,
        "train.log_every": 5,
        "train.checkpoint_every": 25,
    }
    options = {"config": config, "overrides": settings, "devices": 1}
    code, _, err = ended(tmp_path / "undisturbed", seconds=1800, **options)
    assert code == 0, err
    workdir, rng, killed = tmp_path / "killed", random.Random(0), 0
    while True:
        saved = max(load_steps(workdir), default=0)
        with faulty_run(workdir, **options) as program:
            # Some steps after the last checkpoint, at a random moment between two of them.
            until = saved + rng.randint(30, 170)
            while program.poll() is None and last_logged(workdir) < until:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.02))
            if program.poll() is not None:
                assert program.returncode == 0, program
                break
        killed += 1
        assert killed < 60
    assert killed >= 5
    assert_ends_as(workdir, tmp_path / "undisturbed")


def load_steps(workdir):
    folder = workdir / "checkpoints"
    return [int(name) for name in steps_of(workdir) if name.isdecimal()] if folder.exists() else []


def last_logged(workdir):
    return max((record["step"] for record in read_records(workdir)), default=0)
