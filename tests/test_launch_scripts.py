"""Launch scripts with stand-ins for the clusters' programs, and the settings that must agree.

Stand-ins record their calls and give scripted answers. The tests check commands, their order, exit
codes and signals.
"""

import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cfg_jax.preflight.topologies import topology
from cfg_jax.runtime.peaks import TPU_CHIPS
from cfg_jax.training import preemption
from configs.imagenet64 import get_config

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))
SOURCED = {"environment.sh", "tpu_checks.sh"}  # by other scripts
PODS = (ROOT / "docs" / "pods.md").read_text()
JOBSET = LAUNCH / "gke_jobset.yaml"

# From the gcloud reference: cloud.google.com/sdk/gcloud/reference/compute/tpus/...
WIDE = {"--project", "--quiet", "--format", "--zone"}
GCLOUD = {
    "queued-resources create": {
        *("--node-id", "--accelerator-type", "--runtime-version", "--spot", "--data-disk"),
    },
    "queued-resources describe": set(),
    "queued-resources delete": {"--force"},
    "tpu-vm ssh": {"--worker", "--command"},
    "tpu-vm scp": {"--worker"},
}


def run(script, *arguments, dry=True, cwd=ROOT, **environment):
    """Runs a script to its end, without environment variables of TPUs and Slurm."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "SLURM_", "DRY_RUN"))}
    return subprocess.run(
        ["bash", str(cwd / "launch" / script), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=kept | ({"DRY_RUN": "1"} if dry else {}) | environment,
        timeout=180,
    )


def printed(*arguments, **environment):
    """Commands printed by a dry run of tpu_vm.sh, as lists of words."""
    done = run("tpu_vm.sh", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_bash(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name not in SOURCED])
def test_help_prints_the_comment_at_the_head_of_a_script_and_ends(script):
    done = run(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    head = (LAUNCH / script).read_text().split("\nset -")[0].splitlines()[1:]
    comments = [line.removeprefix("#").removeprefix(" ") for line in head]
    said = [line for line in comments if not line.startswith("SBATCH")]
    assert done.stdout.splitlines() == said and len(said) > 3


def shellcheck():
    beside = Path(sys.executable).parent / "shellcheck"
    return str(beside) if beside.exists() else shutil.which("shellcheck")


@pytest.mark.skipif(not shellcheck(), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    scripts = [str(LAUNCH / script) for script in SCRIPTS]
    done = subprocess.run(
        [shellcheck(), "--shell=bash", *scripts], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout


# Dry runs of tpu_vm.sh.

PLACE = ["--name=pod", "--zone=z"]
RUN = ["--", "launch.train", "--config=configs/imagenet64.py", "--workdir=gs://b/run"]
SLICE = ["--type=v5litepod-16"]
WORKER = "bash cfg_jax/launch/tpu_worker.sh"
STARTED = f"{WORKER} start launch.train --distributed=on {' '.join(RUN[2:])}"
DESCRIBE = "queued-resources describe pod --format=value(state.state)".split()
DELETE = "queued-resources delete pod --force --quiet".split()
CREATE = (
    "queued-resources create pod --node-id=pod --accelerator-type=v5litepod-16 "
    "--runtime-version=v2-alpha-tpuv5-lite"
).split()
STATUS = f"{WORKER} status 2>/dev/null || echo run: idle"


def ssh(command, worker="all"):
    return ["tpu-vm", "ssh", "pod", f"--worker={worker}", f"--command={command}"]


INSTALL = [
    "git archive --format=tar.gz --output=/tmp/cfg_jax.tar.gz HEAD".split(),
    "tpu-vm scp /tmp/cfg_jax.tar.gz pod:cfg_jax.tar.gz --worker=all".split(),
    "rm /tmp/cfg_jax.tar.gz".split(),
    ssh("mkdir -p cfg_jax && tar -xzf cfg_jax.tar.gz -C cfg_jax"),
    ssh(f"{WORKER} install"),
]
DISK = "projects/p/zones/z/disks/d"
MOUNT = ssh(f"{WORKER} mount /dev/sdb /mnt/data")
BROUGHT_BACK = [DESCRIBE, DELETE, [*CREATE, "--spot"], DESCRIBE, *INSTALL, ssh(STARTED)]
WITH_DISK = [*CREATE, f"--data-disk=source={DISK},mode=read-only"]
SUBCOMMANDS = {
    "create": (SLICE, [CREATE]),
    "create a spot slice": ([*SLICE, "--spot"], [[*CREATE, "--spot"]]),
    "create with a disk": ([*SLICE, f"--data_disk={DISK}"], [WITH_DISK]),
    "wait": ([], [DESCRIBE]),
    "install": ([], INSTALL),
    "install with Weights & Biases": (
        ["--extras=wandb", "--netrc=key"],
        [
            *INSTALL[:-1],
            ["tpu-vm", "scp", f"{ROOT}/key", "pod:.netrc", "--worker=all"],
            ssh(f"{WORKER} install wandb"),
        ],
    ),
    "start": (RUN, [ssh(STARTED)]),
    "start with a disk": ([f"--data_disk={DISK}", *RUN], [MOUNT, ssh(STARTED)]),
    "start with a disk of another name": (
        [f"--data_disk={DISK}", "--data_device=/dev/sdc", *RUN],
        [ssh(f"{WORKER} mount /dev/sdc /mnt/data"), ssh(STARTED)],
    ),
    "status": ([], [DESCRIBE, ssh(STATUS)]),
    "logs": ([], [ssh(f"{WORKER} log", 0)]),
    "logs of another worker": (["--worker=3", "--follow"], [ssh(f"{WORKER} log --follow", 3)]),
    "stop": ([], [ssh(f"{WORKER} stop")]),
    "restart": ([*SLICE, "--spot", *RUN], BROUGHT_BACK),
    "restart with a disk": (
        [*SLICE, f"--data_disk={DISK}", *RUN],
        [DESCRIBE, DELETE, WITH_DISK, DESCRIBE, *INSTALL, MOUNT, ssh(STARTED)],
    ),
    "watch": ([*SLICE, "--spot", *RUN], [DESCRIBE, ssh(STATUS), *BROUGHT_BACK]),
    "delete": ([], [DELETE]),
}


def as_gcloud(words):
    return [*"gcloud compute tpus".split(), *words, "--zone=z"]


@pytest.mark.parametrize("what", SUBCOMMANDS)
def test_a_dry_run_prints_the_commands_in_order(what):
    options, expected = SUBCOMMANDS[what]
    wanted = [words if words[0] in ("git", "rm") else as_gcloud(words) for words in expected]
    assert printed(what.split()[0], *PLACE, *options) == wanted


@pytest.mark.parametrize("what", SUBCOMMANDS)
def test_gcloud_is_called_with_documented_flags_only(what):
    for words in printed(what.split()[0], *PLACE, "--project=p", *SUBCOMMANDS[what][0]):
        if words[0] == "gcloud":
            assert words[1:3] == ["compute", "tpus"] and "--project=p" in words
            flags = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert flags <= GCLOUD[" ".join(words[3:5])] | WIDE


def test_the_environment_stands_in_for_options_and_dry_run_may_be_either():
    place = {"TPU_NAME": "pod", "TPU_ZONE": "z", "TPU_TYPE": "v5litepod-16"}
    done = run("tpu_vm.sh", "create", "--dry-run", dry=False, PATH="/usr/bin:/bin", **place)
    assert shlex.split(done.stdout) == as_gcloud(CREATE)
    assert printed("create", "--name=other", **place)[0][5] == "other"


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("v5p-32", "v2-alpha-tpuv5"),
        ("v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v4-32", "tpu-ubuntu2204-base"),
    ],
)
def test_the_runtime_is_the_one_that_google_lists_for_the_chip(kind, runtime):
    (words,) = printed("create", *PLACE, f"--type={kind}")
    assert f"--runtime-version={runtime}" in words
    (words,) = printed("create", *PLACE, f"--type={kind}", "--runtime=own")
    assert "--runtime-version=own" in words
    row = next(
        line for line in PODS.splitlines() if line.startswith("|") and f"`{runtime}`" in line
    )
    assert kind.split("-")[0] in row


def test_every_argument_reaches_the_module_as_it_was_given(tmp_path):
    arguments = ["--config.name=it's", "a b", "$HOME", "*", "", '"', "\\", "--x=1;reboot", "é"]
    (words,) = printed("start", *PLACE, "--", "launch.train", *arguments)
    (command,) = [word for word in words if word.startswith("--command=")]
    script = tmp_path / "cfg_jax" / "launch" / "tpu_worker.sh"
    script.parent.mkdir(parents=True)
    script.write_text("printf '%s\\n' \"$@\"\n")
    remote = ["bash", "-c", command.removeprefix("--command=")]
    done = subprocess.run(remote, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == ["start", "launch.train", "--distributed=on", *arguments]


MISTAKES = {
    "no command": ([], "no command: give one of create wait install"),
    "an unknown command": (["up", *PLACE], "unknown command 'up'"),
    "two commands": (["create", "wait", *PLACE], "unexpected argument 'wait'"),
    "an unknown option": (["create", "--nam=x"], "unknown option --nam=x"),
    "an empty option": (["wait", "--name=", "--zone=z"], "--name=: give a value"),
    "no name": (["wait", "--zone=z"], "wait needs --name=NAME, or TPU_NAME"),
    "no zone": (["delete", "--name=pod"], "delete needs --zone=ZONE, or TPU_ZONE"),
    "no type": (["create", *PLACE], "create needs --type=TYPE"),
    "a type of no chip": (["create", *PLACE, "--type=h100"], "--type=h100: give v2-, v3-"),
    "nothing to start": (["start", *PLACE], "start needs a module to run: -- launch.train"),
    "something else to start": (["start", *PLACE, "--", "bash"], "cannot run 'bash'"),
    "a program that is none": (["start", *PLACE, "--", "launch.trian"], "no program launch.trian"),
    "a program without a name": (["start", *PLACE, "--", "cfg-jax"], "cannot run 'launch.'"),
    "a run for what runs none": (["delete", *PLACE, *RUN], "delete runs no module"),
    "a value in the next word": (
        ["wait", "--name", "pod"],
        "--name has no value: write --name=pod",
    ),
    "no value at all": (["wait", "--zone", "--spot"], "--zone has no value: write --zone=VALUE"),
    "a value of a switch": (["create", "--spot=1"], "--spot=1: write --spot, without a value"),
    "hyphens": (["create", "--data-disk=d"], "--data-disk: did you mean --data_disk"),
    "an underscore": (["create", "--dry_run"], "--dry_run: did you mean --dry-run"),
    "the name of a disk": (
        ["create", *PLACE, *SLICE, "--data_disk=d"],
        "--data_disk=d: give projects/PROJECT/zones/z/disks/NAME",
    ),
    "a disk elsewhere": (
        ["start", *PLACE, "--data_disk=projects/p/zones/y/disks/d", *RUN],
        "give projects/PROJECT/zones/z/disks/NAME",
    ),
    "a device without a disk": (
        ["start", *PLACE, "--data_device=/dev/sdc", *RUN],
        "--data_device=/dev/sdc needs --data_disk",
    ),
    "a worker that is no number": (
        ["logs", *PLACE, "--worker=abc"],
        "--worker=abc: give the number",
    ),
    "a worker to stop": (["stop", *PLACE, "--worker=2"], "--worker has no effect on stop"),
    "the status of a worker": (["status", *PLACE, "--worker=2"], "has no effect on status"),
    "a type to start": (["start", *PLACE, *SLICE, *RUN], "--type has no effect on start"),
    "an extra that is none": (
        ["install", *PLACE, "--extras=wandb,x"],
        "--extras=x: setup.py has no",
    ),
}
# Arguments of a module, and what is said of them.
ARGUMENTS = {
    "--dry-run": "--dry-run is an option of tpu_vm.sh: put it before --",
    "--dry_run": "did you mean --dry-run; put it before --",
    "--spot": "--spot is an option of tpu_vm.sh: put it before --",
    "--distributed=off": "--distributed: leave it out, tpu_vm.sh sets it",
    "--coordinator_address=h:1": "--coordinator_address: leave it out",
    "--num_processes=4": "--num_processes: leave it out",
    "--process_id 0": "--process_id: leave it out",
    "--config=nothing": "--config=nothing: give a config by name, or a file in this repository",
    "--config=/tmp/config.py": "--config=/tmp/config.py: give",
    "--config=../config.py": "--config=../config.py: give",
    "--config": "--config=: give",
    "--workdir=runs/x": "--workdir=runs/x: each worker would have its own folder: give gs://BUCKET",
    "--workdir runs/x": "--workdir=runs/x: each worker would have its own folder",
    "--classifier_workdir=~/x": "--classifier_workdir=~/x: each worker",
    "--out=samples": "--out=samples: each worker",
}
for words, answer in ARGUMENTS.items():
    for verb in ("start", "restart", "watch"):
        before = [verb, *PLACE, *([] if verb == "start" else SLICE)]
        MISTAKES[f"{verb} with {words}"] = ([*before, *RUN, *words.split()], answer)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line_and_no_command(mistake):
    arguments, said = MISTAKES[mistake]
    done = run("tpu_vm.sh", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and said in line


def test_a_missing_gcloud_is_told_of(tmp_path):
    for program in ("bash", "dirname"):
        (tmp_path / program).symlink_to(shutil.which(program))
    done = run("tpu_vm.sh", "wait", *PLACE, dry=False, PATH=str(tmp_path))
    assert done.returncode == 2 and "gcloud is not installed" in done.stderr


def test_a_key_that_is_no_file_is_refused(service):
    done, code, error = service(["ACTIVE"], [""], "install", "--netrc=~/.netrc")
    assert (done, code) == ([], 2) and error.startswith("error: --netrc=~/.netrc is no file")


@pytest.mark.parametrize("word", ["help", "-h"])
def test_help_is_printed_however_it_is_asked_for(word):
    asked = run("tpu_vm.sh", word)
    assert asked.returncode == 0 and asked.stdout == run("tpu_vm.sh", "--help").stdout


@pytest.mark.parametrize(
    "config", ["digits", "configs/digits.py", "folder:/mnt/data/pictures:64", "./configs/digits.py"]
)
def test_a_config_of_this_repository_reaches_the_module(config):
    (words,) = printed("start", *PLACE, "--", "launch.train", f"--config={config}")
    assert words[-2].endswith(f"start launch.train --distributed=on --config={config}")


# tpu_vm.sh with a service that gives scripted answers.


def stand_in(folder, name, body):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


ANSWER = """
next() { head -n 1 "$1"; [ "$(wc -l <"$1")" -le 1 ] || sed -i 1d "$1"; }
fail() { echo "gcloud says: $1" >&2; exit 1; }
case "$*" in
  *describe*)
    said=$(next "$HERE/states")
    [ "$said" != ERROR ] || fail "no request"
    echo "$said"
    ;;
  *tpu_worker.sh\\ status*)
    said=$(next "$HERE/runs")
    echo "$said" | tr + '\\n' | sed 's/^/worker says run: /'
    case $said in *ERROR) fail "no ssh" ;; esac
    ;;
  *)
    echo "$*" >>"$HERE/calls"
    verb=$(head -n 1 "$HERE/failing")
    case "$*" in *"${verb:-none}"*) sed -i 1d "$HERE/failing"; fail "no $verb" ;; esac
    ;;
esac
"""


@pytest.fixture
def service(tmp_path):
    """(states of the request, of the run, subcommand) -> commands and exit code.

    Commands that contain the entries of `failing`, in this order, fail once.
    """
    stand_in(tmp_path / "bin", "gcloud", ANSWER)
    stand_in(tmp_path / "bin", "git", 'case "$*" in *status*) printf "$CHANGES" ;; esac')

    def attempt(states, runs, subcommand, *options, failing=(), changes=""):
        (tmp_path / "states").write_text("\n".join(states) + "\n")
        (tmp_path / "runs").write_text("\n".join(runs) + "\n")
        (tmp_path / "failing").write_text("".join(f"{part}\n" for part in failing))
        (tmp_path / "calls").write_text("")
        done = run(
            *("tpu_vm.sh", subcommand, *PLACE, *options),
            dry=False,
            HERE=str(tmp_path),
            POLL_SECONDS="0",
            CHANGES=changes,
            TMPDIR=str(tmp_path),
            PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        )
        verbs = {
            "queued-resources create": "create",
            "queued-resources delete": "delete",
            "tpu_worker.sh install": "install",
            "tpu_worker.sh start": "start",
        }
        calls = (tmp_path / "calls").read_text().splitlines()
        said = [verb for call in calls for sign, verb in verbs.items() if sign in call]
        return said, done.returncode, done.stderr

    return attempt


BACK = ["delete", "create", "install", "start"]
WATCHED = {
    # name: (states of the request, of the run on its workers, commands, exit code)
    "a run that ends": (["ACTIVE"], ["running+running", "exited 0+exited 0"], [], 0),
    "a run that is preempted": (
        ["ACTIVE"],
        ["running+running", "exited 75+running", "exited 75+exited 75", "running", "exited 0"],
        ["start"],
        0,
    ),
    "a slice that is taken away": (
        ["ACTIVE", "SUSPENDING", "SUSPENDED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
        ["running", "idle+idle", "running", "exited 0"],
        BACK,
        0,
    ),
    "a service that does not answer": (
        ["ERROR", "ACTIVE", "ERROR", "ACTIVE"],
        ["running", "exited 0"],
        [],
        0,
    ),
    "a person's mistake": (["ACTIVE"], ["running", "exited 2+exited 134"], [], 2),
    "a run that always crashes": (["ACTIVE"], ["running", "exited 1"], ["start"] * 3, 2),
    "a run preempted more often than crashes are forgiven": (
        ["ACTIVE"],
        ["running", *["exited 75"] * 5, "exited 0"],
        ["start"] * 5,
        0,
    ),
    "a host that was started again": (
        ["ACTIVE"],
        ["running", "exited 137+exited 134", "running", "exited 0"],
        ["start"],
        0,
    ),
    "another run that had ended well": (
        ["ACTIVE"],
        ["exited 0+exited 0", "running", "exited 0"],
        ["install", "start"],
        0,
    ),
    "a run whose mistake is corrected": (
        ["ACTIVE"],
        ["ERROR", "exited 2+exited 134", "exited 0"],
        ["install", "start"],
        0,
    ),
    "a type that there is no quota for": (["FAILED"], [], ["delete", "create"] * 3, 2),
    "workers that cannot always be reached": (
        ["ACTIVE"],
        [*["ERROR"] * 8, "running", *["running+ERROR"] * 8, "exited 0"],
        [],
        0,
    ),
}


@pytest.mark.parametrize("what", WATCHED)
def test_watch_starts_again_what_should_be_and_nothing_else(service, what):
    states, runs, done, code = WATCHED[what]
    assert service(states, runs, "watch", *SLICE, *RUN)[:2] == (done, code)


INSTALLED = ["install", "start"]
STUMBLES = {
    # name: (states, runs, commands that fail once, commands, exit code)
    "an sshd that is not up yet": (
        ["ACTIVE"],
        ["idle", "idle", "running", "exited 0"],
        ["worker.sh install"],
        ["install", *INSTALLED],
        0,
    ),
    "a copy that is cut off": (["ACTIVE"], ["idle", "idle", "exited 0"], ["scp"], INSTALLED, 0),
    "a disk that is not there": (["ACTIVE"], ["idle"], [" mount "] * 4, ["install"] * 4, 2),
    "a start that never reached the workers of an earlier run": (
        ["ACTIVE"],
        ["exited 0", "exited 0", "running", "exited 0"],
        ["worker.sh start"],
        INSTALLED * 2,
        0,
    ),
    "a restart that fails": (
        ["ACTIVE"],
        ["running", "exited 75", "exited 75", "exited 0"],
        ["worker.sh start"],
        ["start"] * 2,
        0,
    ),
    "a request that cannot be removed at once": (
        ["SUSPENDED", "SUSPENDED", "ACTIVE"],
        ["idle", "exited 0"],
        ["delete"],
        ["delete", *BACK],
        0,
    ),
    "no request after the removal": (
        ["SUSPENDED", "ERROR", "ERROR", "ACTIVE"],
        ["idle", "exited 0"],
        ["create", "create"],
        ["delete", "create", "create", *BACK[1:]],
        0,
    ),
    "failures with runs between them": (
        ["ACTIVE"],
        ["idle", "idle", "idle", "running", "idle", "idle", "idle", "exited 0"],
        ["worker.sh install"] * 2 + ["worker.sh start"] + ["worker.sh install"] * 2,
        ["install", "install", *INSTALLED, "install", "install", *INSTALLED],
        0,
    ),
    "an install that always fails": (
        ["ACTIVE"],
        ["idle"],
        ["worker.sh install"] * 4,
        ["install"] * 4,
        2,
    ),
}


@pytest.mark.parametrize("what", STUMBLES)
def test_watch_tries_again_what_failed_and_not_for_ever(service, what):
    states, runs, failing, done, code = STUMBLES[what]
    options = [*SLICE, f"--data_disk={DISK}", *RUN]
    said, ended, error = service(states, runs, "watch", *options, failing=failing)
    assert (said, ended) == (done, code)
    assert "bills until launch/tpu_vm.sh delete" in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("states", "runs", "last"),
    [(["ERROR"], [""], "no request"), (["ACTIVE"], ["running+ERROR"], "no ssh")],
)
def test_watch_ends_when_nothing_answers_any_more(service, states, runs, last):
    done, code, error = service(states, runs, "watch", *SLICE, *RUN)
    (polls,) = re.findall(r"^MAX_UNKNOWN=(\d+)", (LAUNCH / "tpu_vm.sh").read_text(), re.MULTILINE)
    assert (done, code) == ([], 2)
    assert error.count("pod: unknown\n") == int(polls)
    assert f"{polls} times in a row, at last: gcloud says: {last}" in error.splitlines()[-1]
    assert f"{polls} polls without an answer" in PODS


def test_install_names_what_is_not_committed(service):
    done, code, error = service(["ACTIVE"], [""], "install")
    assert (done, code, error) == (["install"], 0, "")
    changes = "?? new.py\n M launch/train.py\n"
    done, code, error = service(["ACTIVE"], [""], "install", changes=changes)
    assert (done, code) == (["install"], 0)
    assert error == (
        "warning: changes that are not committed are not installed: new.py, launch/train.py\n"
    )


@pytest.fixture
def checkout(tmp_path):
    """A repository with the scripts and one config committed."""
    shutil.copytree(LAUNCH, tmp_path / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "known.py").touch()
    (tmp_path / ".gitignore").write_text("/mine.py\n")
    identity = "-c user.name=n -c user.email=e".split()
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_a_config_that_install_would_leave_out_is_named_in_a_warning(checkout):
    def told(config):
        done = run("tpu_vm.sh", "start", *PLACE, *RUN[:2], f"--config={config}", cwd=checkout)
        assert done.returncode == 0
        return done.stderr

    assert told("known") == ""
    for name in ("new.py", "mine.py"):  # the second is ignored by git
        (checkout / name).touch()
        assert told(name) == (
            f"warning: {name} has changes that are not committed; install leaves them out\n"
        )
    (checkout / "configs" / "known.py").write_text("changed")
    assert told("known").startswith("warning: configs/known.py has changes")
    dry = run("tpu_vm.sh", "install", *PLACE, cwd=checkout)
    assert dry.stderr.strip().endswith("are not installed: configs/known.py, new.py")


@pytest.mark.parametrize(
    ("states", "done"),
    [
        (["SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE"], BACK),
        (["SUSPENDING", "SUSPENDING", "SUSPENDED", "ACTIVE"], BACK),
        (["FAILED", "ACTIVE"], BACK),
        (["ACTIVE"], ["start"]),
        (["PROVISIONING", "ACTIVE"], ["install", "start"]),
    ],
)
def test_restart_removes_only_what_is_gone(service, states, done):
    assert service(states, [""], "restart", *SLICE, *RUN)[:2] == (done, 0)


def test_restart_touches_nothing_if_the_service_does_not_answer(service):
    said, code, _ = service(["ERROR"], [""], "restart", *SLICE, *RUN)
    assert said == [] and code != 0


def test_wait_ends_when_the_request_fails(service):
    said, code, error = service(["WAITING_FOR_RESOURCES", "FAILED"], [""], "wait")
    assert code == 2 and "the request for pod is FAILED" in error


# tpu_worker.sh with a fake Python.

PYTHON = f"""
echo "$*"
trap 'echo saving; exit {preemption.EXIT_CODE}' TERM
case "$*" in *wait*) while :; do sleep 0.05; done ;; esac
exit "${{3#*=}}"
"""


@pytest.fixture
def worker(tmp_path):
    """(command...) -> output of tpu_worker.sh, in a copy of the files that it needs."""
    stand_in(tmp_path / ".venv" / "bin", "python", PYTHON)
    (tmp_path / "launch").mkdir()
    shutil.copy(LAUNCH / "tpu_worker.sh", tmp_path / "launch")

    def call(*arguments):
        done = run("tpu_worker.sh", *arguments, cwd=tmp_path, dry=False)
        return (done.stdout + done.stderr).strip()

    yield call
    call("stop")


def eventually(call, wanted):
    for _ in range(500):
        if call() == wanted:
            return True
        time.sleep(0.02)
    return False


def test_a_worker_starts_a_run_that_outlives_it_and_tells_how_it_ended(worker):
    assert worker("status") == "run: idle"
    assert worker("start", "launch.train", "--code=3").startswith("started, process ")
    assert eventually(lambda: worker("status"), "run: exited 3")
    assert worker("log") == "-m launch.train --code=3"


def test_stop_lets_a_run_save_and_a_second_run_is_refused_before(worker):
    worker("start", "launch.train", "wait")
    assert worker("status") == "run: running"
    assert "error: a run is going on" in worker("start", "launch.train", "wait")
    assert worker("stop") == f"run: exited {preemption.EXIT_CODE}"
    assert worker("log").splitlines()[-1] == "saving"
    worker("start", "launch.train", "--code=0")
    assert eventually(lambda: worker("status"), "run: exited 0")


@pytest.mark.parametrize(
    ("extras", "installed"), [([], ".[tpu]"), (["wandb,tf"], ".[tpu,wandb,tf]")]
)
def test_a_worker_installs_the_extras_that_are_given(tmp_path, extras, installed):
    stand_in(tmp_path, "python3", 'echo "$*"')
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run("tpu_worker.sh", "install", *extras, dry=False, PATH=path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith(f" -e {installed}")


def process_state(pid):  # state, e.g. S or Z, and parent
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]


def test_the_code_is_kept_when_the_run_ends_as_its_shell_is_signalled(
    worker, tmp_path, monkeypatch
):
    # The shell checks for the run only after it has ended.
    hold, asking = tmp_path / "hold", tmp_path / "asking"
    (tmp_path / "slow").write_text(
        f'kill() {{ [ ! -e "{hold}" ] || touch "{asking}"\n'
        f'while [ -e "{hold}" ]; do sleep 0.02; done; builtin kill "$@"; }}\n'
    )
    monkeypatch.setenv("BASH_ENV", str(tmp_path / "slow"))
    worker("start", "launch.train", "wait")
    pid = int((tmp_path / ".run" / "pid").read_text())
    hold.touch()
    os.kill(int(process_state(pid)[1]), signal.SIGTERM)
    assert eventually(asking.exists, True)
    os.kill(pid, signal.SIGTERM)
    assert eventually(Path(f"/proc/{pid}").exists, False)
    hold.unlink()
    assert eventually(lambda: worker("status"), f"run: exited {preemption.EXIT_CODE}")


def test_a_disk_is_mounted_read_only_and_once(tmp_path):
    stand_in(tmp_path, "sudo", f'echo "$*" >>"{tmp_path}/calls"')
    for code in (1, 0):
        stand_in(tmp_path, "mountpoint", f"exit {code}")
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = run("tpu_worker.sh", "mount", "/dev/sdc", "/mnt/data", dry=False, PATH=path)
        assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call for call in calls if "mkdir" not in call] == [
        "mount -o ro,noload /dev/sdc /mnt/data"
    ]


def test_a_run_that_a_lost_machine_took_along_counts_as_killed(worker, tmp_path):
    worker("start", "launch.train", "wait")
    boot = tmp_path / ".run" / "boot"
    own = boot.read_text()
    boot.write_text("another")
    assert worker("status") == "run: exited 137"
    boot.write_text(own)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "unknown command ''"),
        (["start"], "start needs a module"),
        (["mount", "/dev/sdb"], "mount needs a device and a folder"),
        (["log"], "no run was started here"),
    ],
)
def test_a_worker_tells_of_a_mistake_in_one_line(worker, arguments, said):
    (line,) = worker(*arguments).splitlines()
    assert line.startswith("error: ") and said in line


# slurm.sh with stand-ins for Slurm's programs.


@pytest.fixture
def slurm(tmp_path):
    """(exit code of the tasks, arguments...) -> (calls of Slurm's programs, exit code, output)."""
    calls = tmp_path / "calls"
    for name in ("scontrol", "scancel"):
        stand_in(tmp_path / "bin", name, f'echo "{name} $*" >>"{calls}"')
    stand_in(
        tmp_path / "bin",
        "srun",
        f'echo "srun $*" >>"{calls}"\n'
        f'echo "devices ${{JAX_LOCAL_DEVICE_IDS:-each its own}}"\n'
        'echo "cpus ${SRUN_CPUS_PER_TASK:-unset}"\n'
        'echo "path $PATH"\nexit "$CODE"',
    )

    def submit(code, *arguments, **environment):
        calls.write_text("")
        done = run(
            *("slurm.sh", *arguments),
            dry=False,
            CODE=str(code),
            SLURM_JOB_ID="17",
            SLURM_SUBMIT_DIR=str(ROOT),
            PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            **({"VENV": "none"} | environment),
        )
        return calls.read_text().splitlines(), done.returncode, done.stdout + done.stderr

    return submit


STEP = "srun --kill-on-bad-exit=0 --wait=0 python -m launch.train --distributed=on --config=c"


@pytest.mark.parametrize("code", [0, 1, 2, 134])
def test_slurm_runs_one_step_and_hands_on_its_code(slurm, code):
    calls, ended, _ = slurm(code, "launch.train", "--config=c")
    assert (calls, ended) == ([STEP], code)


def test_slurm_queues_a_preempted_job_again(slurm):
    calls, ended, output = slurm(preemption.EXIT_CODE, "launch.train", "--config=c")
    assert calls == [STEP, "scontrol requeue 17"]
    assert ended == preemption.EXIT_CODE and "queued again" in output


def test_a_task_of_slurm_takes_all_devices_of_a_node_that_it_has_to_itself(slurm):
    assert "devices each its own" in slurm(0, "launch.train", SLURM_GPUS_ON_NODE="4")[2]
    own = {"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "1"}
    assert "devices 0,1,2,3" in slurm(0, "launch.train", **own)[2]


def test_slurm_gives_a_step_the_cpus_of_the_job_and_the_environment_that_was_named(slurm):
    assert "cpus unset\n" in slurm(0, "launch.train")[2]
    assert "cpus 12\n" in slurm(0, "launch.train", SLURM_CPUS_PER_TASK="12")[2]
    assert f"path {ROOT}/none/bin:" in slurm(0, "launch.train")[2]
    assert "path /shared/venv/bin:" in slurm(0, "launch.train", VENV="/shared/venv")[2]


STEP_ENDS = {
    "after scancel": "true",
    "while scancel runs": 'while kill -0 "$(cat "$HERE/ready")" 2>/dev/null; do sleep 0.02; done',
    "though scancel fails": "exit 1",
}


@pytest.mark.parametrize("when", STEP_ENDS)
def test_slurm_passes_sigterm_to_the_tasks_and_waits_for_their_code(tmp_path, when):
    here = tmp_path / "bin"
    note = 'echo "${0##*/} $*" >>"$HERE/calls"'
    stand_in(here, "scontrol", note)
    stand_in(here, "scancel", f'{note}; touch "$HERE/told"; {STEP_ENDS[when]}')
    stand_in(
        here,
        "srun",
        'echo $$ >"$HERE/pid"; mv "$HERE/pid" "$HERE/ready"\n'
        'until [ -e "$HERE/told" ]; do sleep 0.05; done; exit 75',
    )
    process = subprocess.Popen(
        ["bash", LAUNCH / "slurm.sh", "launch.train"],
        env=os.environ
        | {"SLURM_JOB_ID": "17", "PATH": f"{here}:{os.environ['PATH']}", "HERE": str(tmp_path)},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    assert eventually((tmp_path / "ready").exists, True)
    assert eventually(lambda: process_state(process.pid)[0], "S")  # waiting
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 75
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["scancel --signal=TERM 17", "scontrol requeue 17"]


def test_a_program_may_be_given_as_in_a_shell():
    given = ["--config=digits", "--workdir=gs://bucket/a b"]
    place = {"SLURM_JOB_ID": "17"}
    for script, before in (("tpu_vm.sh", ["start", *PLACE, "--"]), ("slurm.sh", [])):
        module, program = (
            run(script, *before, *name, *given, **place)
            for name in (["launch.train"], ["cfg-jax", "train"])
        )
        assert module.stdout == program.stdout != "" and program.returncode == 0


def test_slurm_tells_of_mistakes_and_runs_dry(slurm):
    for arguments in ([], ["bash"]):
        calls, code, output = slurm(0, *arguments)
        assert (calls, code) == ([], 2) and output.startswith("error: cannot run")
    assert "start this script with sbatch" in run("slurm.sh", "launch.train", dry=False).stderr
    for job in ({"SLURM_JOB_ID": "17"}, {}):
        dry = run("slurm.sh", "launch.train", "--x=a b", **job)
        assert (dry.returncode, dry.stderr) == (0, "")
        assert shlex.split(dry.stdout)[-2:] == ["--distributed=on", "--x=a b"]


def test_slurm_is_asked_for_a_warning_that_reaches_the_tasks_and_for_requeueing():
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [
        line.removeprefix("#SBATCH ") for line in lines[:first] if line.startswith("#SBATCH")
    ]
    assert len(options) == sum(
        line.startswith("#SBATCH") for line in lines
    )  # later ones are unread
    asked = dict(option.removeprefix("--").partition("=")[::2] for option in options)
    assert asked["signal"].startswith("TERM@") and asked["requeue"] == ""
    assert asked["open-mode"] == "append"
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]


# Settings that must agree.


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load(JOBSET.read_text())


@pytest.fixture(scope="module")
def job(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1  # more would mean several slices
    return replicated["template"]["spec"]


def test_the_jobset_has_a_pod_for_each_host_of_one_slice(jobset, job):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    x, y = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == int(x) * int(y) // chips
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    assert f"--tpu-type=v5litepod-{int(x) * int(y)}" in JOBSET.read_text()  # xpk's name
    (annotation,) = jobset["metadata"]["annotations"].items()
    assert annotation[0].endswith("/exclusive-topology")


def test_the_jobset_restarts_a_preempted_run_without_counting(jobset, job):
    first, second = job["podFailurePolicy"]["rules"]
    (container,) = job["template"]["spec"]["containers"]
    assert first["action"] == second["action"] == "FailJob"
    codes = first["onExitCodes"]
    assert codes["values"] == [preemption.EXIT_CODE] and codes["operator"] == "In"
    assert codes["containerName"] == container["name"]
    assert second["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert job["backoffLimit"] == 0 and job["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]


def test_the_jobset_runs_the_command_of_the_page_on_pods(job):
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][:4] == ["python", "-m", "launch.train", "--distributed=on"]
    start = next(words for words in page_commands("bash launch/tpu_vm.sh start"))
    assert container["command"][4:] == start[start.index("launch.train") + 1 :]
    (mount,) = container["volumeMounts"]
    (volume,) = pod["volumes"]
    assert mount["name"] == volume["name"] and mount["readOnly"]
    assert f"--config.data.data_dir={mount['mountPath']}" in container["command"]
    assert f"DATA_FOLDER={mount['mountPath']}\n" in (LAUNCH / "tpu_vm.sh").read_text()


def test_xpk_is_given_the_same(job):
    text = JOBSET.read_text()
    line = text[text.index("#   xpk ") : text.index("# with the prepared data")]
    words = shlex.split(line.replace("\\\n#", " ").replace("#", " "))
    options = dict(word.removeprefix("--").partition("=")[::2] for word in words[3:])
    (container,) = job["template"]["spec"]["containers"]
    assert words[:3] == ["xpk", "workload", "create"]
    assert shlex.split(options["command"]) == container["command"]
    assert options["restart-on-exit-codes"] == str(preemption.EXIT_CODE)
    grace = job["template"]["spec"]["terminationGracePeriodSeconds"]
    assert options["termination-grace-period-seconds"] == str(grace)


def test_all_scripts_and_the_page_know_one_exit_code_and_one_number_of_restarts(jobset):
    code = preemption.EXIT_CODE
    for script in ("tpu_vm.sh", "slurm.sh"):
        assert re.search(rf"^PREEMPTED={code}\b", (LAUNCH / script).read_text(), re.MULTILINE)
    assert f"exits with code **{code}**" in PODS
    (restarts,) = re.findall(r"^MAX_RESTARTS=(\d+)", (LAUNCH / "tpu_vm.sh").read_text(), re.M)
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == int(restarts)
    assert PODS.count(f"{restarts} times") == 3


def page_commands(start):
    for block in re.findall(r"```bash\n(.*?)```", PODS, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(start):
                yield shlex.split(line, comments=True)


def test_the_page_takes_a_slice_from_request_to_removal_with_commands_that_the_script_takes():
    commands = list(page_commands("bash launch/tpu_vm.sh"))
    (place,) = page_commands("export")
    place = dict(word.split("=") for word in place[1:])
    for words in commands:
        given = [string.Template(word).safe_substitute(place) for word in words[2:]]
        assert printed(*given, **place), words
    order = [words[2] for words in commands]
    assert order[:8] == "create wait install start status logs stop delete".split()
    assert "watch" in order
    for words in commands:  # commands that read data mount its disk
        if any("data_dir=/mnt/data" in word for word in words):
            assert "DISK" in place and "--data_disk=$DISK" in words


def test_the_page_has_the_topology_of_every_slice_in_its_table():
    rows = re.findall(r"^\| v\w.* \| `(v\w+-\d+)` \| `(v\w+:[\dx]+)` \|", PODS, re.MULTILINE)
    assert len(rows) == 4
    for name, place in rows:
        assert topology(place).num_chips == 16
        with pytest.raises(ValueError, match=f"{place}$"):
            topology(name)


def test_the_bounds_of_time_on_the_page_follow_from_their_numbers():
    flops, steps, peak, hours = (
        float(number.replace(",", ""))
        for number in re.search(r"(\S+e12) x (\S+) / (\S+e12) / 3600 = (\S+) hours", PODS).groups()
    )
    config = get_config()
    assert (steps, peak) == (config.train.num_steps, TPU_CHIPS["v5e"])
    assert hours == pytest.approx(flops * steps / peak / 3600, abs=0.05)
    (minutes,) = map(int, re.findall(r"at least (\d+)\s+minutes", PODS))
    assert minutes == round(flops * config.train.checkpoint_every / peak / 60)
    (fraction,) = re.findall(r"reach (\d+) % of the peak", PODS)
    assert f"That would make it {round(hours / int(fraction) * 100)} hours" in PODS


def test_the_page_builds_for_and_follows_every_host_of_a_slice(job):
    for text in (PODS, (LAUNCH / "Dockerfile").read_text()):
        assert "docker build --platform=linux/amd64 " in text  # for builds on other machines
    for text in (PODS, JOBSET.read_text()):
        (most,) = re.findall(r"kubectl logs -f .* --max-log-requests=(\d+)", text)
        assert int(most) >= job["completions"]


@pytest.mark.parametrize(
    ("device", "extras", "code", "installed"),
    [
        ("cpu", "", 0, "."),
        ("cuda", "", 0, ".[cuda]"),
        ("tpu", "", 0, ".[tpu]"),
        ("cpu", "wandb", 0, ".[wandb]"),
        ("tpu", "wandb,tf", 0, ".[tpu,wandb,tf]"),
        ("npu", "", 2, None),
    ],
)
def test_the_image_is_installed_for_a_device_that_is_known(
    tmp_path, device, extras, code, installed
):
    text = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"^RUN (.*)", text, re.MULTILINE)
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "$@"\n')
    pip.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        env={"DEVICE": device, "EXTRAS": extras, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.returncode == code and (code == 0 or "give cpu, cuda or tpu" in done.stderr)
    assert done.stdout.split()[-2:] == (["--editable", installed] if installed else [])
    assert f"ARG DEVICE={device}" in text or device != "cpu"


def flags_of(module):
    texts = [(LAUNCH / f"{name}.py").read_text() for name in (module, "program", "flags")]
    return set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', "".join(texts)))


def test_what_the_page_starts_is_there_with_its_flags_and_configs():
    commands = [*page_commands("bash launch/tpu_vm.sh"), *page_commands("sbatch")]
    started = [words for words in commands if any(word.startswith("launch.") for word in words)]
    assert len(started) >= 4
    for words in started:
        at = next(i for i, word in enumerate(words) if word.startswith("launch."))
        known = flags_of(words[at].removeprefix("launch."))
        assert "distributed" in known
        for word in words[at + 1 :]:
            name, _, value = word.removeprefix("--").partition("=")
            assert name in known or name.startswith("config."), word
            assert name != "config" or (ROOT / value).is_file()
    for part in re.findall(r"launch/[\w.]+|\.\./launch/[\w.]+", PODS):
        assert (ROOT / part.removeprefix("../")).exists(), part


def test_no_script_opens_a_standard_stream_by_its_path():
    # A log file that the stream is redirected to would be emptied.
    for path in (*ROOT.glob("launch/*.sh"), ROOT / ".ci" / "run"):
        assert not re.search(r"/dev/std(out|err)", path.read_text()), path
