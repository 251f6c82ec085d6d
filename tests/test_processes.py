"""Two processes of two devices each on loopback are compared with one process of four."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest

from cfg_jax import data
from cfg_jax.runtime import devices, processes
from launch import program
from tests.tiny import parameters, records

ROOT = Path(__file__).parents[1]
STEPS, BATCH = 6, 16


def environment(devices, **variables):
    """That of a process which no cluster started."""
    named = ("SLURM_", "OMPI_", "JAX_", "TPU_", "MEGASCALE_", "KUBERNETES_")
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(named) and not name.lower().endswith("_proxy")
    }
    flags = [
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_cpu_experimental_ynn_fusion_type=",  # see launch/environment.sh
        "--xla_cpu_collective_timeout_seconds=300",  # a busy machine keeps a process waiting
        "--xla_cpu_collective_call_terminate_timeout_seconds=300",
    ]
    return plain | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)} | variables


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def by_hand(process, port):
    """What a person gives to one of two processes."""
    return [
        f"--coordinator_address=127.0.0.1:{port}",
        "--num_processes=2",
        f"--process_id={process}",
    ]


def slurm(process, port):
    """What Slurm tells one of two processes."""
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
        "JAX_COORDINATOR_PORT": str(port),
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
    }


@contextlib.contextmanager
def started(*commands):
    """Runs (arguments, environment) side by side; none outlives the block."""
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments, variables in commands
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ended(*commands, seconds=400):
    """(code, output, errors) of each."""
    until = time.monotonic() + seconds
    with started(*commands) as processes:
        said = [p.communicate(timeout=max(until - time.monotonic(), 0.1)) for p in processes]
        return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]


def drive(jobs, *options):
    return ["-m", "tests.process_driver", f"--jobs={json.dumps(jobs)}", *options]


def settings(data_dir):
    return {
        "data.data_dir": data_dir,
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
def kept(tmp_path_factory):
    """Where these processes keep what they compile, for those that come after them."""
    place = str(tmp_path_factory.mktemp("compiled"))
    return {
        "JAX_COMPILATION_CACHE_DIR": place,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }


@pytest.fixture(scope="module")
def digits(data_dir):
    data.prepare("digits", data_dir)
    return data_dir


@pytest.fixture(scope="module")
def trained(digits, kept, tmp_path_factory):
    """Runs `one` and `two`, by as many processes; what they said is in `said`."""
    folder = tmp_path_factory.mktemp("trained")
    port = free_port()

    def train(name):
        job = {"do": "train", "workdir": str(folder / name), "seen": str(folder / f"seen_{name}")}
        return drive([job | settings(digits)], f"--workdir={folder / name}")

    said = ended(
        (train("one"), environment(4, **kept)),
        *((train("two"), environment(2, **kept, **slurm(process, port))) for process in range(2)),
    )
    assert [code for code, *_ in said] == [0, 0, 0], said
    return folder, said


@pytest.fixture(scope="module")
def resumed(trained, digits, kept):
    """Copies cut to four steps and finished by the other number of processes, and evaluations.

    Both evaluate the run `one`.
    """
    folder, _ = trained
    port = free_port()
    for source, copy in (("one", "two_from_one"), ("two", "one_from_two")):
        shutil.copytree(folder / source, folder / copy)
        shutil.rmtree(folder / copy / "checkpoints" / str(STEPS))
    shutil.copytree(folder / "two_from_one", folder / "older")

    def jobs(number, copy):
        own = {"workdir": str(folder / "one")}
        place = str(folder / f"evaluations_{number}")
        return [
            {"do": "train", "workdir": str(folder / copy), "seen": str(folder / f"seen_{copy}")}
            | settings(digits),
            {"do": "sample", **own, "seen": str(folder / f"samples_{number}")},
            {"do": "evaluate", **own, "seen": str(folder / f"numbers_{number}"), "folder": place}
            | {"data_dir": digits},
            {"do": "sample_to_files", **own, "folder": str(folder / f"files_{number}")},
        ]

    unlike = {
        "do": "load_each_its_own",
        "workdirs": [str(folder / name) for name in ("one", "older")],
        "seen": str(folder / "said"),
    }

    said = ended(
        (drive(jobs("one", "one_from_two")), environment(4, **kept)),
        *(
            (
                drive([*jobs("two", "two_from_one"), unlike], *by_hand(process, port)),
                environment(2, **kept),
            )
            for process in range(2)
        ),
    )
    assert [code for code, *_ in said] == [0, 0, 0], said
    return folder, said


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
    assert max(one.values()) / min(one.values()) > 1.01  # the run does something


def test_two_processes_end_with_the_parameters_of_one(trained):
    folder, _ = trained
    chex.assert_trees_all_close(
        parameters(folder / "two"), parameters(folder / "one"), rtol=1e-5, atol=1e-6
    )


def test_every_device_of_every_process_ends_with_the_same_state(trained):
    folder, _ = trained
    states = [seen(folder / f"seen_two_{process}.npz") for process in range(2)]
    for name in (name for name in states[0] if name.startswith("leaf_")):
        copies = np.concatenate([state[name] for state in states])
        assert len(copies) == 4
        np.testing.assert_array_equal(copies, copies[:1].repeat(4, axis=0))


def test_each_process_reads_its_rows_of_the_batches_of_one_and_no_more(trained):
    folder, _ = trained
    one = seen(folder / "seen_one_0.npz")
    two = [seen(folder / f"seen_two_{process}.npz") for process in range(2)]
    for name in ("x", "labels", "index"):
        parts = [part[name] for part in two]
        # [steps, devices of this process, examples of a device, ...]
        assert {part.shape[:3] for part in parts} == {(STEPS, 2, BATCH // 4)}
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), one[name])


def test_the_first_process_alone_speaks_logs_and_draws(trained):
    folder, said = trained
    _, first, second = (output for _, output, _ in said)
    assert f"step {STEPS} of {STEPS} done" in first and "first step, with compiling" in first
    # What is left is said by the library that connects CPUs, and by no program of ours.
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


@pytest.mark.parametrize("copy", ["two_from_one", "one_from_two"])
def test_a_run_goes_on_with_another_number_of_processes(resumed, copy):
    folder, said = resumed
    outputs = {"one_from_two": said[0][1], "two_from_one": said[1][1]}
    assert "resuming from step 4" in outputs[copy]
    found, whole = losses(folder / copy), losses(folder / "one")
    assert list(found) == list(whole)
    np.testing.assert_allclose(list(found.values()), list(whole.values()), rtol=1e-6)
    chex.assert_trees_all_close(
        parameters(folder / copy), parameters(folder / "one"), rtol=1e-5, atol=1e-6
    )


def test_samples_are_bit_for_bit_those_of_one_process_each_drawn_once(resumed):
    folder, _ = resumed
    one = seen(folder / "samples_one_0.npz")["x"]
    two = [seen(folder / f"samples_two_{process}.npz") for process in range(2)]
    for process in two:
        assert process["own"].shape[0] == 8
        np.testing.assert_array_equal(process["x"], one)
    np.testing.assert_array_equal(np.concatenate([process["own"] for process in two]), one)
    assert one.std(axis=0).min() > 0


def test_files_of_samples_are_byte_for_byte_those_of_one_process(resumed):
    folder, _ = resumed
    one, two = (
        {path.name: path.read_bytes() for path in (folder / f"files_{number}").iterdir()}
        for number in ("one", "two")
    )
    assert len(one) == 5 and two == one


def test_processes_that_read_unlike_steps_all_say_so(resumed):
    folder, _ = resumed
    for process in range(2):
        said = str(seen(folder / f"said_{process}.npz")["said"])
        assert f"process 1 reads step 4, the first one {STEPS}: start again, or name one" in said
        assert "\n" not in said


def test_evaluation_has_the_statistics_of_one_process_in_all(resumed):
    folder, _ = resumed
    one = str(seen(folder / "numbers_one_0.npz")["numbers"])
    for process in range(2):
        assert str(seen(folder / f"numbers_two_{process}.npz")["numbers"]) == one
    places = [folder / f"evaluations_{number}" for number in ("one", "two")]
    files = [sorted(p.relative_to(place) for p in place.rglob("*.npz")) for place in places]
    assert files[0] == files[1] and len(files[0]) >= 4
    for name in files[0]:
        ours, theirs = (seen(place / name) for place in places)
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(theirs[key], ours[key], err_msg=f"{name} {key}")


def test_a_mistake_ends_all_processes_with_one_line_each(tmp_path, digits):
    port = free_port()
    train = [
        *("-m", "launch.train"),
        "--config=configs/digits.py",
        f"--workdir={tmp_path / 'new'}",
        f"--config.data.data_dir={digits}",
    ]
    unlike = [*train, "--config.train.batch_size=18"]
    alone, *both = ended(
        ([*train, "--distributed=on"], environment(1)),
        *((unlike + by_hand(process, port), environment(2)) for process in range(2)),
    )
    for (code, _, errors), what in (
        (alone, "--distributed=on: this is no cluster that jax knows"),
        *((one, "batch_size=18 on 4 devices") for one in both),
    ):
        lines = [line for line in errors.splitlines() if "OpenCV" not in line]
        assert code == 2 and len(lines) == 1 and what in lines[0], (code, errors)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "maybe"}, "--distributed=maybe: choose one of auto, on, off"),
        ({"mode": "on"}, "no cluster that jax knows .* give --coordinator_address=HOST:PORT"),
        ({"num_processes": 2}, "--num_processes=2 without --coordinator_address and --process_id"),
        (
            {"mode": "off", "coordinator_address": "a:1"},
            "--coordinator_address=a:1 with --distributed=off: leave one of them out",
        ),
        (
            {"coordinator_address": "10.0.0.1", "num_processes": 2, "process_id": 0},
            "--coordinator_address=10.0.0.1: need HOST:PORT",
        ),
        (
            {"coordinator_address": "a:1", "num_processes": 2, "process_id": 2},
            "--process_id=2 --num_processes=2: need an id from 0 to 1",
        ),
        (
            {"coordinator_address": "a:1", "num_processes": 0, "process_id": 0},
            "--process_id=0 --num_processes=0: need an id from 0",
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
    with pytest.raises(RuntimeError, match=f"--coordinator_address={address}: process 0 does not"):
        processes.start(
            coordinator_address=address, num_processes=2, process_id=1, timeout_seconds=0
        )
    assert not jax.distributed.is_initialized()


def without_cluster(monkeypatch):
    for name in set(os.environ) - set(environment(1)):
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
    if count == 1:  # one process connects where a person insists
        assert processes.start("on") == 1 and len(connected) == 1
    for how in connected:
        assert how["num_processes"] == count


def test_a_cluster_that_does_not_say_how_many_is_an_error_of_one_line(monkeypatch):
    without_cluster(monkeypatch)
    for name, value in (slurm(0, 1) | {"SLURM_NTASKS": "two"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="does not say how many .* give --distributed=off"):
        processes.start("auto")


@pytest.mark.parametrize(
    ("counts", "known", "said"),
    [
        ([1, 2, 3], 3, "process 1 has 2 devices, the first one 1: give every process the same"),
        ([4, 4], 1, "2 processes are connected, but the cpu backend knows of 1"),
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


def connect_program(monkeypatch):
    """`program.run` takes itself for one of two processes; gives the codes that it exits with."""
    codes = []
    monkeypatch.setattr(program, "_connect", lambda saves: 2)
    monkeypatch.setattr(program, "_keep_compiled", lambda: None)
    monkeypatch.setattr(processes, "check_devices", lambda count: None)
    monkeypatch.setattr(program.app, "run", lambda main, **_: codes.append(main(["program"])))
    return codes


@pytest.mark.parametrize("where", ["check_devices", "_keep_compiled"])
def test_a_mistake_found_after_connecting_ends_a_process_without_waiting(monkeypatch, where):
    def fail(*_):
        raise ValueError("not here")

    left = []
    monkeypatch.setattr(program, "_leave", left.append)
    codes = connect_program(monkeypatch)
    monkeypatch.setattr(program if where.startswith("_") else processes, where, fail)
    program.run(lambda argv: 0)
    assert left == codes == [2]


def test_a_process_at_its_end_waits_for_what_another_one_does_alone(monkeypatch):
    done = []
    client = SimpleNamespace(wait_at_barrier=lambda name, milliseconds: done.append(milliseconds))
    monkeypatch.setattr(jax._src.distributed.global_state, "client", client)
    codes = connect_program(monkeypatch)
    program.run(lambda argv: done.append("main") or 75)
    assert codes == [75]
    assert done[0] == "main" and done[1] > 24 * 3600 * 1000


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


CACHED = """
import jax, jax.numpy as jnp
from absl import flags
from launch.program import run
flags.DEFINE_string("workdir", None, "")
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
def main(argv):
    jax.jit(lambda x: jnp.sin(x) * 3)(jnp.ones(3))
    print(int("/jax/compilation_cache/cache_hits" in hits))
run(main)
"""


def test_what_is_compiled_is_kept_in_the_workdir_and_found_again(tmp_path):
    """Or where a person says, or nowhere."""
    at_once = environment(1, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    workdir, off = (f"--workdir={tmp_path / name}" for name in ("run", "off"))
    (tmp_path / "file").write_text("kept")

    def starts(*several):
        return ended(*((["-c", CACHED, *options], at_once) for options in several))

    refused, *first = starts(
        [f"--compilation_cache={tmp_path / 'file'}"], [workdir], [off, "--compilation_cache=off"]
    )
    assert refused[0] == 2 and "cannot be written: give another folder, or off" in refused[2]
    assert first == [(0, "0\n", "")] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]
    again = starts([workdir], [off, f"--compilation_cache={tmp_path / 'run' / 'compiled'}"])
    assert again == [(0, "1\n", "")] * 2


def test_the_environment_says_where_what_is_compiled_is_kept_before_the_workdir(trained, kept):
    folder, _ = trained
    assert not (folder / "one" / "compiled").exists()
    assert list(Path(kept["JAX_COMPILATION_CACHE_DIR"]).iterdir())


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
