"""Recording and comparison of benchmarks, without a clock, and PyTorch's U-Net against ours."""

import copy
import importlib
import json
import os
import sys

import jax
import numpy as np
import pytest

from benchmarks import compare, recording, xla_flag
from cfg_jax.runtime.xla_flags import extended
from tests.tiny import RUN_ONCE, randomised, small_unet

RIVAL = "PyTorch"


def a_record(**seconds):
    """A record of `forward` in seconds of processor time: {implementation: seconds}."""
    rows = {name: {"wall": 9.0, "processor": value} for name, value in seconds.items()}
    return recording.record("networks", {"forward": rows}, settings={"threads": 1})


def destination_of(recorded, out):
    """The file in which a run with the name, programs and settings of a record would be kept."""
    named = recorded["name"], recorded["measurements"], recorded["settings"]
    return recording.destination(*named, out)


def main_of_compare(monkeypatch, tmp_path, old, new, *arguments):
    """The exit code of `compare.py` for two records."""
    for name, recorded in (("old", old), ("new", new)):
        (tmp_path / name).write_text(json.dumps(recorded))
    files = [str(tmp_path / name) for name in ("old", "new")]
    monkeypatch.setattr(sys, "argv", ["compare.py", *files, *arguments])
    with pytest.raises(SystemExit) as done:
        compare.main()
    return done.value.code


def test_a_file_holds_what_is_needed_to_judge_its_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a_flag=1")
    recorded = a_record(ours=2.0, PyTorch=1.0)
    path = destination_of(recorded, tmp_path / "new" / "file.json")
    recording.save(recorded, path)
    assert json.loads(path.read_text()) == recorded
    assert recorded["xla_flags"] == "--a_flag=1"
    assert recorded["versions"]["jax"] == jax.__version__
    assert recorded["versions"]["numpy"] == np.__version__
    assert recorded["machine"]["cores"] >= 1 and recorded["machine"]["processor"]
    table = capsys.readouterr().out
    assert "| forward | ours | 9000 |  | 2000 |  |" in table
    assert f"| forward | {RIVAL} | 9000 | 1.00 | 1000 | 2.00 |" in table


def test_a_file_without_a_name_goes_to_the_results_of_its_version_of_jax(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "ROOT", tmp_path)
    path = destination_of(a_record(ours=2.0), None)
    results = tmp_path / "benchmarks" / "results"
    assert path == results / f"networks_{jax.__version__}.json"


def test_a_record_of_the_same_run_is_replaced(tmp_path):
    path = tmp_path / "file.json"
    recording.save(a_record(ours=2.0), path)
    recording.save(a_record(ours=1.0), destination_of(a_record(ours=1.0), path))
    assert json.loads(path.read_text())["measurements"]["forward"]["ours"]["processor"] == 1.0


@pytest.mark.parametrize(
    "field, value", [("measurements", {"gradient": {}}), ("settings", {"threads": 2})]
)
def test_a_record_of_another_run_is_kept(tmp_path, field, value):
    path = tmp_path / "file.json"
    recording.save(a_record(ours=2.0), path)
    with pytest.raises(SystemExit, match="other programs or settings: give another file as --out"):
        destination_of(a_record(ours=2.0) | {field: value}, path)


def test_a_file_that_cannot_be_written_is_refused_before_timing(tmp_path, monkeypatch):
    (tmp_path / "notes").write_text("no record")
    for out, said in (
        (tmp_path / "notes" / "file.json", "--out=.*notes"),
        (tmp_path / "notes", "not a record"),
        (tmp_path, "--out="),
    ):
        with pytest.raises(SystemExit, match=said):
            destination_of(a_record(ours=2.0), out)
    monkeypatch.setattr(recording.os, "access", lambda path, mode: False)
    with pytest.raises(SystemExit, match="no permission"):
        destination_of(a_record(ours=2.0), tmp_path / "file.json")


def test_the_table_is_printed_even_if_the_file_cannot_be_written(tmp_path, capsys):
    with pytest.raises(OSError):
        recording.save(a_record(ours=2.0), tmp_path)
    assert "| forward | ours |" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0", "-3", "x", "1.5"])
def test_a_number_of_rounds_is_a_positive_integer(capsys, text):
    with pytest.raises(SystemExit) as done:
        recording.parser("A test.", rounds=3).parse_args([f"--rounds={text}"])
    assert done.value.code == 2
    assert f"--rounds: '{text}': need an integer of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "benchmark, argument",
    [
        ("metrics", "--images=0"),
        ("metrics", "--rows=2"),
        ("networks", "--batch=0"),
        ("training_loop", "--rounds=0"),
        ("training_loop", "--steps=-3"),
        ("training_loop", "--batch_size=0"),
        ("xla_flag", "--rounds=0"),
    ],
)
def test_an_argument_that_cannot_be_timed_is_named(monkeypatch, capsys, benchmark, argument):
    module = importlib.import_module(f"benchmarks.{benchmark}")
    monkeypatch.setattr(sys, "argv", [f"{benchmark}.py", argument])
    with pytest.raises(SystemExit) as done:
        module.main()
    assert done.value.code == 2
    assert f"argument {argument.partition('=')[0]}: " in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no cores to choose from")
def test_the_flags_are_timed_on_a_core_of_this_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["xla_flag.py", "--core=1000000"])
    with pytest.raises(SystemExit, match="--core=1000000: this process has the cores"):
        xla_flag.main()


@pytest.mark.parametrize(
    "version, rows", [("0.10.2", ["unset", "empty", "ours"]), ("0.12.0", ["unset", "empty"])]
)
def test_the_flags_of_the_package_are_timed_once(monkeypatch, version, rows):
    monkeypatch.setattr(xla_flag, "version", lambda package: version)
    found = xla_flag.values()
    assert list(found) == rows
    assert extended("", version, only_cpu=True) in found.values()


def test_equal_results_are_timed_and_others_are_not():
    ours = {"a": np.float32([0, 0]), "b": np.float32([1, 2])}
    assert recording.same("forward", ours, ours, 1e-5) == 0
    assert recording.same("forward", np.array([1.0, 2.0]), np.array([1.5, 2.0]), 0.3) == 0.25
    for value in (np.nan, 3.0):
        other = ours | {"a": np.float32([0, value])}
        for pair in ((ours, other), (other, ours)):
            with pytest.raises(SystemExit, match="nothing is timed"):
                recording.same("forward", *pair, 1e-5)


def test_programs_take_turns_and_the_first_round_is_not_counted(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(recording.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(recording.time, "process_time", lambda: 2 * clock[0])
    monkeypatch.setattr(recording.time, "sleep", lambda seconds: None)

    def program(name, seconds):
        def run():
            clock[0] += seconds[calls.count(name)]
            calls.append(name)

        return run

    programs = {"a": program("a", [100, 1, 5, 2]), "b": program("b", [100, 4, 4, 3])}
    found = recording.interleaved(programs, rounds=3)
    assert calls == ["a", "b"] * 4
    assert found == {"a": {"wall": 2, "processor": 4}, "b": {"wall": 4, "processor": 8}}


@pytest.mark.parametrize("new, code", [(1.05, 0), (1.2, 1), (0.5, 0)])
def test_a_ratio_that_rises_by_more_than_a_tenth_is_an_error(
    monkeypatch, tmp_path, capsys, new, code
):
    old = a_record(ours=2.0, PyTorch=2.0)
    fresh = a_record(ours=new, PyTorch=1.0)  # a faster machine
    assert main_of_compare(monkeypatch, tmp_path, old, fresh) == code
    said = f"slower: forward: ours / {RIVAL}, processor: 1 -> 1.2, times 1.20"
    assert (said in capsys.readouterr().out) == bool(code)


def test_the_allowed_fraction_is_an_argument(monkeypatch, tmp_path):
    old, new = a_record(ours=1.0, PyTorch=1.0), a_record(ours=1.2, PyTorch=1.0)
    assert main_of_compare(monkeypatch, tmp_path, old, new, "--allowed=0.3") == 0


@pytest.mark.parametrize("text", ["-0.1", "nan", "inf", "x"])
def test_the_allowed_fraction_is_a_finite_number(monkeypatch, tmp_path, capsys, text):
    old = a_record(ours=1.0)
    assert main_of_compare(monkeypatch, tmp_path, old, old, f"--allowed={text}") == 2
    assert "need a finite number of at least 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "found",
    [
        {},
        [],
        {"compared": "wall", "measurements": {"forward": {"ours": {}}}},
        {"compared": "wall", "measurements": {"forward": {"ours": {"wall": 1.0}}}},
        a_record(ours=0.0),
        a_record(ours="1"),
    ],
    ids=["empty", "a list", "no measure", "no machine", "no time", "no number"],
)
def test_a_file_that_is_not_a_record_is_an_error(monkeypatch, tmp_path, capsys, found):
    assert main_of_compare(monkeypatch, tmp_path, a_record(ours=1.0), found) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "not a record" in said and said.count("\n") == 1


def test_files_without_a_program_in_common_are_an_error(monkeypatch, tmp_path, capsys):
    old, new = a_record(ours=1.0), a_record(ours=1.0)
    new["measurements"] = {"gradient": new["measurements"]["forward"]}
    assert main_of_compare(monkeypatch, tmp_path, old, new) == 2
    said = capsys.readouterr()
    assert "nothing to compare" in said.err and "not compared: forward" in said.out


def test_a_program_without_a_rival_is_compared_on_one_machine_only():
    old, new = a_record(ours=1.0), a_record(ours=3.0)
    assert [change.ratio for change in compare.changes(old, new)] == [3.0]
    new["machine"] = new["machine"] | {"processor": "another"}
    assert list(compare.changes(old, new)) == []
    assert "not compared: forward" in compare.differences(old, new)


def test_a_program_is_compared_with_every_rival_of_both_runs():
    old = a_record(ours=4.0, fast=1.0, slow=2.0)
    new = a_record(ours=4.0, fast=0.5)
    assert [(change.rival, change.ratio) for change in compare.changes(old, new)] == [("fast", 2.0)]
    assert "not compared: forward against slow" in compare.differences(old, new)


def test_other_versions_are_named_beside_the_changes():
    old, new = a_record(ours=1.0), a_record(ours=1.0)
    new["versions"] = old["versions"] | {"jax": "99.0"}
    assert f"jax: {jax.__version__} -> 99.0" in compare.differences(old, new)


@pytest.mark.parametrize("field, value", [("name", "metrics"), ("settings", {"threads": 2})])
def test_runs_of_another_setting_are_refused(monkeypatch, tmp_path, capsys, field, value):
    old = a_record(ours=1.0)
    new = copy.deepcopy(old) | {field: value}
    assert main_of_compare(monkeypatch, tmp_path, old, new) == 2
    assert f"error: files of different {field}" in capsys.readouterr().err


def test_the_worst_change_comes_first():
    found = [compare.Change(name, "", 1.0, new) for name, new in (("a", 2), ("b", 1), ("c", 3))]
    assert [change.program for change in compare.slower(found, 0.1)] == ["c", "a"]


def test_the_u_net_in_pytorch_gives_our_outputs():
    torch = pytest.importorskip("torch")
    from benchmarks.torch_adm import TorchUNet, from_flax

    network = small_unet(out_channels=2)
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, 8, 8, 1), np.float32)
    noise, labels = np.float32([-3, 2]), np.int32([1, 3])
    params = randomised(jax.eval_shape(network.init, jax.random.key(0), z, noise, labels)["params"])
    apply = jax.jit(network.apply, compiler_options=RUN_ONCE)
    expected = np.asarray(apply({"params": params}, z, noise, labels))
    form = {"num_labels": 4, "in_channels": 1, "out_channels": 2, "size": 8}
    rival = TorchUNet(8, (1, 2), 1, (4,), 8, 4, **form)
    rival.load_state_dict(from_flax(params))
    with torch.no_grad():
        given = torch.from_numpy(z.transpose(0, 3, 1, 2).copy())
        found = rival(given, torch.from_numpy(noise), torch.from_numpy(labels).long())
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        found.numpy().transpose(0, 2, 3, 1) / scale, expected / scale, rtol=0, atol=1e-5
    )
