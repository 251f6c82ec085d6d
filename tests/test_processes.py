"""Two processes of two devices each, on loopback, against one process of four devices."""

import contextlib
import json
import os
import shutil
import signal
import time
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest

from cfg_jax import data
from cfg_jax.runtime import devices, processes
from cfg_jax.training import preemption
from cfg_jax.training.run import train
from launch import program
from tests.programs import FOREIGN, ROOT, free_port, run_program, start_program
from tests.tiny import parameters, pixel_networks, records, tiny_config

STEPS, BATCH = 6, 16


def by_hand(process, port):
    """Command-line flags of one of two processes."""
    return [
        f"--coordinator_address=127.0.0.1:{port}",
        "--num_processes=2",
        f"--process_id={process}",
    ]


def slurm(process, port):
    """Slurm's variables of one of two processes."""
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
        "JAX_COORDINATOR_PORT": str(port),
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
    }


DRIVER = "tests.process_driver"


def job(do, **arguments):
    values = {k: v if isinstance(v, int | float) else str(v) for k, v in arguments.items()}
    return f"--job={json.dumps({'do': do, **values})}"


@contextlib.contextmanager
def two_processes(module, *arguments, each=((), ()), devices=(2, 2)):
    """Two connected processes of one program; `each` holds arguments per process."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                start_program(
                    module,
                    *(*arguments, *by_hand(process, port), *each[process]),
                    devices=devices[process],
                )
            )
            for process in range(2)
        ]


def assert_ended(programs, code=0):
    """Asserts that all programs end with this exit code."""
    assert [each.wait(900) for each in programs] == [code] * len(programs), programs


def one_and_two(do, folder, **arguments):
    """Runs the job in one process of four devices, then in two of two: folders "one", "two"."""
    alone = run_program(DRIVER, job(do, folder=folder / "one", **arguments), devices=4)
    assert_ended([alone])
    with two_processes(DRIVER, job(do, folder=folder / "two", **arguments)) as both:
        assert_ended(both)


@pytest.fixture(scope="module")
def digits(data_dir):
    data.prepare("digits", data_dir)
    return data_dir


@pytest.fixture(scope="module")
def settings(digits):
    return {
        "data.data_dir": digits,
        "data.random_flip": True,
        "optim.learning_rate": 1e-2,
        "train.num_steps": STEPS,
        "train.batch_size": BATCH,
        "train.log_every": 1,
        "train.checkpoint_every": 2,
        "train.preview_every": STEPS,
        "checkpoint.keep_every": 2,
    }


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    """Runs `one` and `two`, named by their number of processes, and the output of `two`."""
    folder, port = tmp_path_factory.mktemp("trained"), free_port()

    def start(name, **options):
        do = job("train", folder=folder / name, **settings)
        return start_program(DRIVER, do, f"--workdir={folder / name}", **options)

    with (
        start("one", devices=4) as alone,
        start("two", devices=2, environment=slurm(0, port)) as first,
        start("two", devices=2, environment=slurm(1, port)) as second,
    ):
        assert_ended([alone, first, second])
    return folder, [first.stdout, second.stdout]


def without_last_step(run, copy):
    """Copy of a run as if stopped two steps before its end."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / str(STEPS))
    return copy


def losses(workdir):
    return {record["step"]: record["loss"] for record in records(workdir)}


def seen(path):
    with np.load(path) as file:
        return dict(file)


def test_two_processes_have_the_losses_of_one(trained):
    folder, _ = trained
    one, two = losses(folder / "one"), losses(folder / "two")
    assert list(one) == list(two) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-6)
    assert max(one.values()) / min(one.values()) > 1.01  # the losses differ between steps


def test_two_processes_end_with_the_parameters_of_one(trained):
    folder, _ = trained
    chex.assert_trees_all_close(
        parameters(folder / "two"), parameters(folder / "one"), rtol=1e-5, atol=1e-6
    )


def test_every_device_of_every_process_ends_with_the_same_state(trained):
    folder, _ = trained
    states = [seen(folder / f"two_{process}.npz") for process in range(2)]
    for name in (name for name in states[0] if name.startswith("leaf_")):
        copies = np.concatenate([state[name] for state in states])
        assert len(copies) == 4
        np.testing.assert_array_equal(copies, copies[:1].repeat(4, axis=0))


def test_each_process_reads_its_rows_of_the_batches_of_one_and_no_more(trained):
    folder, _ = trained
    one = seen(folder / "one_0.npz")
    two = [seen(folder / f"two_{process}.npz") for process in range(2)]
    for name in ("x", "labels", "index"):
        parts = [part[name] for part in two]
        # [steps, devices of this process, examples per device, ...]
        assert {part.shape[:3] for part in parts} == {(STEPS, 2, BATCH // 4)}
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), one[name])


def test_the_first_process_alone_speaks_logs_and_draws(trained):
    folder, (first, second) = trained
    assert f"step {STEPS} of {STEPS} done" in first and "first step, including compilation" in first
    # The remaining lines come from the library that connects CPUs.
    assert "step" not in second
    assert sorted(path.name for path in (folder / "two").iterdir()) == sorted(
        path.name for path in (folder / "one").iterdir()
    )
    assert len(list((folder / "two" / "events").iterdir())) == 1
    assert len(list((folder / "two" / "previews").iterdir())) == 1


def test_a_checkpoint_is_written_once_by_all_into_one_directory(trained):
    folder, _ = trained
    kept = [
        sorted(str(p.relative_to(folder / name)) for p in (folder / name).glob("checkpoints/*/*"))
        for name in ("one", "two")
    ]
    assert kept[0] == kept[1] and "checkpoints/6/ema" in kept[1]


def test_a_run_goes_on_with_another_number_of_processes(trained, settings, tmp_path):
    folder, _ = trained
    by_one = without_last_step(folder / "two", tmp_path / "one")
    by_two = without_last_step(folder / "one", tmp_path / "two")
    with (
        start_program(DRIVER, job("train", folder=by_one, **settings), devices=4) as alone,
        two_processes(DRIVER, job("train", folder=by_two, **settings)) as both,
    ):
        assert_ended([alone, *both])
    for copy, program_ in ((by_one, alone), (by_two, both[0])):
        assert "resuming from step 4" in program_.stdout
        found, whole = losses(copy), losses(folder / "one")
        assert list(found) == list(whole)
        np.testing.assert_allclose(list(found.values()), list(whole.values()), rtol=1e-6)
        chex.assert_trees_all_close(
            parameters(copy), parameters(folder / "one"), rtol=1e-5, atol=1e-6
        )


def test_two_processes_divide_the_state_and_leave_checkpoints_for_any_number(
    trained, settings, tmp_path
):
    folder, _ = trained
    whole = folder / "one"
    divided = settings | {"train.shard_state": True}
    copy = without_last_step(whole, tmp_path / "two")
    with two_processes(DRIVER, job("train", folder=copy, **divided)) as both:
        assert_ended(both)
    again = without_last_step(copy, tmp_path / "again")
    with pixel_networks():  # on the devices of this process
        train(tiny_config(**divided), tmp_path / "again")
    for run in (copy, again):
        chex.assert_trees_all_close(parameters(run), parameters(whole), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            list(losses(run).values()), list(losses(whole).values()), rtol=1e-6
        )
        assert len(list((run / "previews").iterdir())) == 1


def test_samples_are_bit_for_bit_those_of_one_process_each_drawn_once(trained, tmp_path):
    one_and_two("sample", tmp_path, workdir=trained[0] / "one")
    one = seen(tmp_path / "one_0.npz")["x"]
    two = [seen(tmp_path / f"two_{process}.npz") for process in range(2)]
    for process in two:
        assert process["own"].shape[0] == 8
        np.testing.assert_array_equal(process["x"], one)
    np.testing.assert_array_equal(np.concatenate([process["own"] for process in two]), one)
    assert one.std(axis=0).min() > 0


def test_files_of_samples_are_byte_for_byte_those_of_one_process(trained, tmp_path):
    one_and_two("sample_to_files", tmp_path, workdir=trained[0] / "one")
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / number).iterdir()}
        for number in ("one", "two")
    )
    assert len(one) == 5 and two == one


def test_processes_that_read_unlike_steps_all_say_so(trained, tmp_path):
    whole = trained[0] / "one"
    older = without_last_step(whole, tmp_path / "older")
    do = job("load_each_its_own", workdir_0=whole, workdir_1=older, folder=tmp_path / "two")
    with two_processes(DRIVER, do) as both:
        assert_ended(both)
    for process in range(2):
        said = str(seen(tmp_path / f"two_{process}.npz")["said"])
        assert (
            f"process 1 reads step 4, process 0 step {STEPS}: run again, or give the step" in said
        )
        assert "\n" not in said


def test_evaluation_has_the_statistics_of_one_process_in_all(trained, digits, tmp_path):
    one_and_two("evaluate", tmp_path, workdir=trained[0] / "one", data_dir=digits)
    one = str(seen(tmp_path / "one_0.npz")["numbers"])
    for process in range(2):
        assert str(seen(tmp_path / f"two_{process}.npz")["numbers"]) == one
    places = [tmp_path / "one", tmp_path / "two"]
    files = [sorted(p.relative_to(place) for p in place.rglob("*.npz")) for place in places]
    assert files[0] == files[1] and len(files[0]) >= 4
    for name in files[0]:
        ours, theirs = (seen(place / name) for place in places)
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(theirs[key], ours[key], err_msg=f"{name} {key}")


def lines(program_):
    return [line for line in program_.stderr.splitlines() if "OpenCV" not in line]


def test_on_needs_a_cluster_and_costs_one_line(tmp_path):
    alone = run_program(
        "launch.train", "--config=configs/digits.py", f"--workdir={tmp_path}", "--distributed=on"
    )
    assert alone.returncode == 2, alone
    (line,) = lines(alone)
    assert "distributed mode=on: jax detects no cluster" in line
    assert not list(tmp_path.iterdir())


# Failures of connected processes; missing heartbeats reveal a process that fails alone.
BRIEF = ("--heartbeat_seconds=4", "--grace_seconds=0.5")


def test_a_mistake_ends_all_processes_with_one_line_each(settings, tmp_path):
    unlike = settings | {"train.batch_size": 18}
    with two_processes(DRIVER, job("train", folder=tmp_path / "new", **unlike)) as both:
        assert_ended(both, 2)
    for each in both:
        (line,) = lines(each)
        assert "batch_size=18 on 4 devices" in line
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_not_shared_ends_all_processes_before_a_step(settings, tmp_path):
    own = [(job("train", folder=tmp_path / f"of_{process}", **settings),) for process in range(2)]
    with two_processes(DRIVER, each=own) as both:
        assert_ended(both, 2)
    for each in both:
        (line,) = [line for line in lines(each) if line.startswith("error")]
        assert f"process 1 cannot see {tmp_path}/of_" in line and "gs://BUCKET" in line
    assert not list(tmp_path.glob("of_*/checkpoints/*"))


def test_unlike_devices_end_all_processes_with_one_line_each():
    with two_processes(DRIVER, job("nothing"), devices=(1, 2)) as both:
        assert_ended(both, 2)
    for each in both:
        (line,) = lines(each)
        assert "process 1 has 2 devices, process 0 has 1: give every process the same" in line


def test_a_process_that_fails_alone_ends_and_the_other_misses_it(tmp_path):
    (tmp_path / "file").write_text("kept")
    bad = f"--compilation_cache={tmp_path / 'file'}"
    with two_processes(DRIVER, job("nothing"), *BRIEF, each=((), (bad,))) as (first, second):
        assert second.wait(900) == 2, second
        (line,) = lines(second)
        assert "is a file): give another folder, or off" in line
        assert first.wait(900) not in (0, 2), first


def test_a_process_at_its_end_waits_for_what_another_one_does_alone(tmp_path):
    until, at_end = tmp_path / "until", tmp_path / "at_end"
    # Without our wait, jax ends the others after this many seconds without process 0.
    limit = 4
    do = job("work_alone", until=until, others_at_end=at_end)
    with two_processes(DRIVER, do, f"--shutdown_seconds={limit}") as both:
        while not at_end.exists():
            assert [each.poll() for each in both] == [None, None], both
            time.sleep(0.01)
        time.sleep(limit + 1)
        until.touch()
        assert_ended(both, preemption.EXIT_CODE)


def test_a_connected_program_that_saves_nothing_is_ended_by_sigterm():
    alone = (
        f"--coordinator_address=127.0.0.1:{free_port()}",
        "--num_processes=1",
        "--process_id=0",
    )
    with start_program(DRIVER, job("sleep"), *alone) as sleeping:
        assert sleeping.wait_for("here\n") == "here\n", sleeping
        sleeping.send_signal(signal.SIGTERM)
        assert sleeping.wait(900) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "maybe"}, "distributed mode=maybe: choose one of auto, on, off"),
        ({"mode": "on"}, "detects no cluster .* give coordinator_address=HOST:PORT"),
        ({"num_processes": 2}, "num_processes=2 without coordinator_address and process_id"),
        (
            {"mode": "off", "coordinator_address": "a:1"},
            "coordinator_address=a:1 with distributed mode=off: leave one of them out",
        ),
        (
            {"coordinator_address": "10.0.0.1", "num_processes": 2, "process_id": 0},
            "coordinator_address=10.0.0.1: need HOST:PORT",
        ),
        (
            {"coordinator_address": "a:1", "num_processes": 2, "process_id": 2},
            "process_id=2 num_processes=2: need an id from 0 to 1",
        ),
        (
            {"coordinator_address": "a:1", "num_processes": 0, "process_id": 0},
            "process_id=0 num_processes=0: need an id from 0",
        ),
    ],
)
def test_flags_that_connect_to_nothing_are_refused(monkeypatch, arguments, said):
    without_cluster(monkeypatch)
    with pytest.raises(ValueError, match=said) as refused:
        processes.start(**arguments)
    assert "\n" not in str(refused.value)
    assert not jax.distributed.is_initialized()


def test_a_first_process_that_does_not_answer_is_named_by_the_others(monkeypatch):
    without_cluster(monkeypatch)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(RuntimeError, match=f"coordinator_address={address}: process 0 does not"):
        processes.start(
            coordinator_address=address, num_processes=2, process_id=1, timeout_seconds=0
        )
    assert not jax.distributed.is_initialized()


def without_cluster(monkeypatch):
    for name in os.environ:
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)


CLUSTERS = {
    "Slurm": (slurm(0, 1), 2),
    "Slurm with a single task": (slurm(0, 1) | {"SLURM_NTASKS": "1"}, 1),
    "a shell that Slurm started in a job of eight tasks": (
        slurm(0, 1) | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"},
        1,
    ),
    "Slurm with fewer tasks in the step than in the job": (
        slurm(0, 1) | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2"},
        2,
    ),
    "Open MPI": (
        {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
        | {"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1"},
        3,
    ),
    "GKE and two slices of a TPU": (
        {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "1", "MEGASCALE_NUM_SLICES": "2"}
        | {"TPU_SKIP_MDS_QUERY": "1"},
        8,
    ),
    "no cluster": ({}, 0),
    "a job that was submitted but not by srun": ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"}, 0),
}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_cluster_is_known_by_what_it_tells_its_processes(monkeypatch, cluster):
    variables, count = CLUSTERS[cluster]
    without_cluster(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if "TPU" in cluster:
        from jax._src.clusters import cloud_tpu_cluster

        monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    connected = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **how: connected.append(how))
    assert processes.start("auto") == max(count, 1)
    assert len(connected) == (count > 1)
    assert processes.start("off") == 1
    if count == 1:  # "on" connects a single process
        assert processes.start("on") == 1 and len(connected) == 1
    for how in connected:
        assert how["num_processes"] == count


def test_a_cluster_that_does_not_say_how_many_is_an_error_of_one_line(monkeypatch):
    without_cluster(monkeypatch)
    for name, value in (slurm(0, 1) | {"SLURM_NTASKS": "two"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="does not report its number .* distributed mode=off"):
        processes.start("auto")


@pytest.mark.parametrize(
    ("counts", "known", "said"),
    [
        ([1, 2, 3], 3, "process 1 has 2 devices, process 0 has 1: give every process the same"),
        ([4, 4], 1, "2 processes are connected, but the cpu backend sees 1"),
    ],
)
def test_devices_that_do_not_go_together_are_refused_in_every_process(
    monkeypatch, counts, known, said
):
    monkeypatch.setattr(jax, "process_count", lambda: known)
    monkeypatch.setattr(jax, "local_devices", lambda process_index: [None] * counts[process_index])
    for process in range(len(counts)):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        with pytest.raises((ValueError, RuntimeError), match=said):
            processes.check_devices(len(counts))


def test_what_the_first_process_refuses_is_refused_in_every_process(monkeypatch):
    def refuse():
        raise ValueError("taken")

    told, done = [], []
    monkeypatch.setattr(processes, "of_first", lambda value: told.append(value) or "taken")
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        with pytest.raises(ValueError, match="^taken$"):
            processes.by_first(refuse)
    assert told == ["taken", None]
    monkeypatch.setattr(processes, "of_first", lambda value: value)
    processes.by_first(lambda: done.append("by another"))
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    processes.by_first(lambda: done.append("by the first"))
    assert done == ["by the first"]


SEVERAL = {"train", "sample", "evaluate", "sweep"}


def test_every_program_but_four_is_one_process_on_a_cluster_too():
    texts = {path.stem: path.read_text() for path in (ROOT / "launch").glob("*.py")}
    programs = {name for name, text in texts.items() if "    run(main" in text}
    alone = {name for name in programs if 'set_default("distributed", "off")' in texts[name]}
    assert programs - alone == SEVERAL and len(alone) >= 6


@pytest.mark.parametrize(("rows", "count"), [(16, 4), (5, 4), (1, 3), (7, 2), (4, 1)])
def test_shares_are_of_one_size_and_are_the_rows_side_by_side(monkeypatch, rows, count):
    every = np.arange(10, 10 + rows)
    monkeypatch.setattr(jax, "process_count", lambda: count)
    shares = []
    for process in range(count):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shares.append(processes.share(every))
    assert len({len(share) for share in shares}) == 1
    np.testing.assert_array_equal(np.concatenate(shares)[:rows], every)
    assert len(np.concatenate(shares)) < rows + count


def test_one_process_has_all_rows_and_the_last_word():
    tree = {"a": np.arange(4.0), "b": None}
    gathered = processes.gather(tree, 3)
    np.testing.assert_array_equal(gathered["a"], [0, 1, 2])
    assert gathered["b"] is None and gathered["a"].dtype == np.float64
    assert processes.of_first([1, "a"]) == [1, "a"] and processes.is_first()
    assert processes.of_each(7) == [7]
    processes.wait_for_all("nobody")
    placed = devices.replicate({"a": np.ones(2)})
    assert devices.as_global(placed) is placed and devices.as_local(placed) is placed


def test_what_is_compiled_is_kept_in_the_workdir_and_found_again(tmp_path):
    """A flag or the environment may name another folder, or none."""
    workdir, off = (f"--workdir={tmp_path / name}" for name in ("run", "off"))
    (tmp_path / "file").write_text("kept")

    def found(*options, environment=None):
        variables = {"JAX_COMPILATION_CACHE_DIR": environment and str(environment)}
        done = run_program(DRIVER, job("compile_something"), *options, environment=variables)
        return done.returncode, done.stdout, done.stderr

    code, _, said = found(f"--compilation_cache={tmp_path / 'file'}")
    assert code == 2 and "is a file): give another folder, or off" in said
    assert found(workdir) == found(off, "--compilation_cache=off") == (0, "False\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]
    kept = tmp_path / "run" / "compiled"
    assert found(workdir) == found(off, f"--compilation_cache={kept}") == (0, "True\n", "")
    assert found(off, environment=kept) == (0, "True\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


def test_xla_keeps_nothing_of_its_own_in_a_bucket(monkeypatch):
    said = {}
    monkeypatch.setattr(type(jax.config), "update", lambda _, *pair: said.update([pair]))
    for place in ("gs://bucket/compiled", "compiled"):
        monkeypatch.setattr(program, "_CACHE", SimpleNamespace(value=place))
        program._keep_compiled()
        assert said.pop("jax_compilation_cache_dir") == place
        assert said.pop("jax_persistent_cache_enable_xla_caches", None) == (
            "none" if "://" in place else None
        )
