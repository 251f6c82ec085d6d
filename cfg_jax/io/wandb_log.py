"""Metrics of a run in Weights & Biases, the extra [wandb].

A thread of its own makes all calls, so neither the network nor the library blocks or ends a run.
"""

import contextlib
import importlib.util
import queue
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from cfg_jax.io.files import in_bucket, save_text
from cfg_jax.io.images import read_picture
from cfg_jax.io.tags import tag
from cfg_jax.io.text import extra, one_line

WAITING = 1000  # calls that wait for the thread; further ones are dropped
CLOSE_SECONDS = 15.0  # within the notice that a preempted machine gets


class Destination(NamedTuple):
    """Where a run is logged: mode "offline" or "online", and the project."""

    mode: str
    project: str


def check(to: Destination) -> None:
    """Raises ValueError if the library is missing, or if "online" has no API key."""
    check_library(to.mode)
    field = f"config.log.wandb={to.mode!r}"
    if to.mode == "online" and (why := _no_key()):
        raise ValueError(
            f"{field} needs an API key ({why}): run `wandb login`, or set it to offline"
        )


def check_library(mode: str) -> None:
    """Raises ValueError if the library is missing."""
    if importlib.util.find_spec("wandb") is None:
        raise ValueError(
            f"config.log.wandb={mode!r} needs wandb: run {extra('wandb')}, or set it to off"
        )


def _no_key() -> str:
    """Why there is no API key, or ""; reads files and variables of this machine only."""
    wandb = _wandb()
    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        return "" if wandb.login(prompt=False, verify=False) else "none is configured"
    except Exception as error:  # the library raises many types
        return one_line(error)


class WandbLog:
    """Sends metrics, pictures and the config of a run; the first failure is logged, once.

    Local files are in `<workdir>/wandb`, of a run in a bucket in a temporary folder. A run that
    goes on from a step `start` above 0 continues the one whose id `<workdir>/wandb/run_id` holds.
    """

    def __init__(self, workdir: Path, to: Destination, config: Mapping[str, Any], start: int):
        self._calls: queue.Queue[Callable[[Any], None] | None] = queue.Queue(WAITING)
        self._failed, self._exit_code = False, 0
        arguments = (workdir, to, config, start > 0)
        self._thread = threading.Thread(target=self._work, args=arguments, daemon=True)
        self._thread.start()

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Logs numbers by name."""
        values = {tag(name): value for name, value in scalars.items()}
        self._put(lambda run: run.log({"step": step, **values}))

    def picture(self, step: int, name: str, path: Path) -> None:
        """Logs a picture file."""
        self._put(lambda run: run.log({"step": step, name: _wandb().Image(read_picture(path))}))

    def close(self, *, failed: bool = False) -> None:
        """Ends the run, as one that `failed` if so; waits for CLOSE_SECONDS at most."""
        self._exit_code = int(failed)
        with contextlib.suppress(queue.Full):
            self._calls.put_nowait(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._warn("it does not answer: `wandb sync` of the folder wandb sends the rest")

    def _put(self, call: Callable[[Any], None]) -> None:
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._warn(f"{WAITING} calls wait for it")

    def _work(
        self, workdir: Path, to: Destination, config: Mapping[str, Any], resumed: bool
    ) -> None:
        try:
            run = _init(workdir, to, config, resumed)
            while call := self._calls.get():
                call(run)
            run.finish(exit_code=self._exit_code)
        except Exception as error:  # the library raises many types
            self._warn(error)
            while self._calls.get():
                pass

    def _warn(self, why: object) -> None:
        if not self._failed:
            logging.warning(
                "metrics are not being sent to Weights & Biases (%s); the run goes on",
                one_line(why),
            )
        self._failed = True


def _init(workdir: Path, to: Destination, config: Mapping[str, Any], resumed: bool) -> Any:
    wandb = _wandb()
    # The library writes local files only.
    folder = Path(tempfile.mkdtemp(prefix="wandb-")) if in_bucket(workdir) else workdir
    run = wandb.init(
        project=to.project,
        name=workdir.name,
        dir=str(folder),
        mode=to.mode,
        id=_run_id(workdir / "wandb" / "run_id", resumed),
        resume="allow",
        config=dict(config),
        settings=wandb.Settings(silent=True, console="off"),
    )
    run.define_metric("*", step_metric="step")  # a resumed run may repeat steps
    return run


def _run_id(path: Path, resumed: bool) -> str:
    """The id in a file, or for a new run another one, which is written there."""
    with contextlib.suppress(OSError):
        if resumed and (found := path.read_text("utf-8").strip()):
            return found
    name = uuid.uuid4().hex[:12]
    save_text(path, name)
    return name


def _wandb() -> Any:
    import wandb

    return wandb
