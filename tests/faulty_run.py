"""Training run with an injected fault: `FAULTY_RUN=JSON python -m tests.faulty_run`.

The JSON is {"workdir": ..., "config": "points" or "digits", "overrides": {field: value}} with one
fault:

    "kill_in_save": [step, n]   kill -9 once n files of the step's checkpoint exist
    "terminate": step           SIGTERM after the step; "early" is before the first step
    "hang": step                hangs forever after the step
    "full_disk": [first, last]  files cannot grow between the two steps
    "die": step                 kill -9 after the step

Each of several processes has its own JSON; heartbeats time out after five seconds. Flags and exit
codes are those of `python -m launch.train`.
"""

import contextlib
import functools
import json
import os
import resource
import signal
import threading
import time
from pathlib import Path

from launch.program import run

FULL = 512  # maximum bytes of a file on a full disk


def main(argv):
    del argv
    from cfg_jax.training.run import train
    from tests import tiny

    wanted = json.loads(os.environ["FAULTY_RUN"])
    make = tiny.tiny_points if wanted["config"] == "points" else tiny.tiny_config
    watch_saves(Path(wanted["workdir"]), *wanted.get("kill_in_save", ()))
    after_steps(lambda loop, step: happens(wanted, loop, step))
    if wanted.get("terminate") == "early":
        terminate_early()
    train(make(**wanted["overrides"]), wanted["workdir"])


def after_steps(action):
    """Patches every training loop to call action(loop, step) first after each step."""
    from cfg_jax.training.loop import Loop

    own = Loop._between

    def between(self, step, *arguments):
        action(self, step)
        return own(self, step, *arguments)

    Loop._between = between


def terminate_early():
    """Sends SIGTERM while the run opens; it is noticed before the first step."""
    from cfg_jax.training import run

    own = run._restore

    def restore(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)  # with jax.distributed a thread polls once a second
        return own(*arguments)

    run._restore = restore


def happens(wanted, loop, step):
    if step == wanted.get("terminate"):
        os.kill(os.getpid(), signal.SIGTERM)
    if step == wanted.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if step == wanted.get("hang"):
        time.sleep(600)
    first, last = wanted.get("full_disk", (None, None))
    if step in (first, last):
        if step == first:
            loop.checkpoints.wait()
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (FULL if step == first else hard, hard))


def watch_saves(workdir, step=None, count=0):
    if step is None:
        return
    whole = workdir / "checkpoints" / f"{step}"
    unfinished = whole.with_name(f"{step}.orbax-checkpoint-tmp")

    def files():
        with contextlib.suppress(OSError):  # renamed meanwhile
            return len(list(unfinished.rglob("*"))) if unfinished.exists() else -1
        return -1

    def watch():
        while files() < count and not whole.exists():
            time.sleep(1e-4)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    from cfg_jax.runtime import processes

    processes.start = functools.partial(processes.start, heartbeat_seconds=5)
    run(main, saves_at_sigterm=True)
