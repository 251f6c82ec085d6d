"""How do several processes work as one program?

    python -m launch.train --config=... --workdir=...      the same command on every host

`start` connects them, before anything touches a device. Each then computes on its own devices and
its own rows of a batch, and process 0 prints and writes for all:

    share(rows)[j] = rows[p n + j],   n = ceil(N / P),   p of P processes,   gather is its inverse

Rows, not sums, are communicated, so a number that is summed from them is the same for any P. What a
process does with its devices is `devices`'s.
"""

import contextlib
import json
import os
import socket
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from cfg_jax.runtime.devices import filled

_T = TypeVar("_T")

MODES = ("auto", "on", "off")
_MESSAGE_BYTES = 1024
_WEEK_MILLISECONDS = 7 * 24 * 3600 * 1000


def start(
    mode: str = "auto",
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_seconds: int = 300,
    heartbeat_seconds: int = 100,
) -> int:
    """Connects this process with the others of its program; returns P, how many there are.

    `check_devices` comes next.

    Args:
      mode: "auto" connects in a cluster (Cloud TPU, GKE, Slurm, Open MPI) of several processes, or
        where the next three arguments are given; "on" insists; "off" is always one process.
      coordinator_address: HOST:PORT at which process 0 is reached.
      num_processes: P.
      process_id: of this one, in [0, P).
      timeout_seconds: to wait for the others; jax ends a process that waits longer.
      heartbeat_seconds: a process without a heartbeat for so long is dead, and the others end.

    Raises:
      ValueError: arguments that contradict each other, "on" outside a cluster.
      RuntimeError: nothing answers at coordinator_address, its port is taken, or a device was
        touched before.
    """
    by_hand = _by_hand(mode, coordinator_address, num_processes, process_id)
    if mode == "off":
        return 1
    if not by_hand:
        num_processes = _detected()
        if mode == "on" and not num_processes:
            raise ValueError(
                "--distributed=on: this is no cluster that jax knows (Cloud TPU, GKE, Slurm, Open "
                "MPI); give --coordinator_address=HOST:PORT, --num_processes and --process_id"
            )
        if num_processes <= (mode == "auto"):
            return 1
    elif process_id:
        _wait_for_first(coordinator_address, timeout_seconds)
    try:
        jax.distributed.initialize(
            **({"num_processes": num_processes} | by_hand),
            initialization_timeout=timeout_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except RuntimeError as error:
        raise RuntimeError(
            f"process {process_id or 0} of {num_processes} cannot connect with the others at "
            f"{coordinator_address or 'the address that the cluster gives'} ({error}): its port "
            "may be taken, choose another"
        ) from error
    return num_processes


def _by_hand(
    mode: str, coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> dict[str, Any]:
    """The three arguments of `jax.distributed.initialize`, or none of them."""
    if mode not in MODES:
        raise ValueError(f"--distributed={mode}: choose one of {', '.join(MODES)}")
    names = ("coordinator_address", "num_processes", "process_id")
    said = dict(zip(names, (coordinator_address, num_processes, process_id), strict=True))
    given = [f"--{name}={value}" for name, value in said.items() if value is not None]
    if not given:
        return {}
    if mode == "off":
        raise ValueError(f"{given[0]} with --distributed=off: leave one of them out")
    if lacking := [f"--{name}" for name, value in said.items() if value is None]:
        raise ValueError(f"{' '.join(given)} without {' and '.join(lacking)}: give all three")
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(
            f"--coordinator_address={coordinator_address}: need HOST:PORT of process 0, such as "
            "10.0.0.1:8476"
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id={process_id} --num_processes={num_processes}: need an id from 0 to "
            f"{max(num_processes, 1) - 1}, and one process at least"
        )
    if host in ("localhost", "127.0.0.1"):
        # By default process 0 listens on every network it is in.
        said["coordinator_bind_address"] = coordinator_address
    return said


def _wait_for_first(address: str, timeout_seconds: int) -> None:
    """Returns once something listens at `address`; jax would end the process without a message."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + timeout_seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise RuntimeError(
                    f"--coordinator_address={address}: process 0 does not answer there in "
                    f"{timeout_seconds} s ({error}): start it, or correct the address"
                ) from error
            time.sleep(0.2)


def _detected() -> int:
    """How many processes the cluster around this one started; 0 where there is no cluster."""
    # The public functions connect at once, even a single process, which then holds a port.
    from jax._src.clusters import ClusterEnv

    kinds = (kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method)
    try:
        with warnings.catch_warnings():  # Kubernetes without the package that jax uses for it
            warnings.simplefilter("ignore")
            cluster = next((kind for kind in kinds if kind.is_env_present()), None)
        if cluster is None:
            return 0
        # The shell of a Slurm job is a step of one task that sees the tasks of the job as well.
        of_step = os.environ.get("SLURM_STEP_NUM_TASKS") if cluster.name == "slurm" else None
        return int(of_step or cluster.get_process_count())
    except Exception as error:  # variables, metadata and API fail in many types
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"the cluster around this process does not say how many it started ({reason}): give "
            "--distributed=off for one, or --coordinator_address, --num_processes and --process_id"
        ) from error


def check_devices(num_processes: int) -> None:
    """RuntimeError unless the devices know all processes; ValueError for unlike numbers of them."""
    if jax.process_count() != num_processes:
        raise RuntimeError(
            f"{num_processes} processes are connected, but the {jax.default_backend()} backend "
            f"knows of {jax.process_count()}: choose another one with JAX_PLATFORMS"
        )
    first, *others = (len(jax.local_devices(process_index=p)) for p in range(num_processes))
    for process, other in enumerate(others, start=1):
        if other != first:
            raise ValueError(
                f"process {process} has {other} devices, the first one {first}: give every process "
                "the same number"
            )


def is_first() -> bool:
    """Whether this is process 0, which prints and writes for all."""
    return jax.process_index() == 0


def share(rows: np.ndarray) -> np.ndarray:
    """This process's n = ceil(N / P) rows of [N, ...], the last ones repeated where P n > N."""
    size = -(-len(rows) // jax.process_count())
    return rows[filled(jax.process_index() * size, len(rows), size)]


def gather(tree: Any, num_rows: int) -> Any:
    """The N = num_rows rows of which each process has its `share`, in every process.

    From a tree of arrays [n, ...] to one of NumPy arrays [N, ...], of types that jax has without
    x64: others would be rounded. Every process calls it, in the same order of calls.
    """
    if jax.process_count() > 1:
        tree = multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(lambda a: np.asarray(a)[:num_rows], tree)


def of_first(value: _T) -> _T:
    """The value of process 0, a small one that JSON can hold, in every process.

    For what depends on files that process 0 writes, which the others may see later. Every process
    calls it.

    Raises:
      ValueError: the value is longer than 1,024 bytes as JSON.
    """
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode()
    if len(text) > _MESSAGE_BYTES:
        raise ValueError(f"{len(text)} bytes for the other processes: at most {_MESSAGE_BYTES}")
    message = np.frombuffer(text.ljust(_MESSAGE_BYTES), np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(message).tobytes())


def of_each(number: int) -> list[int]:
    """The number, within int32, of every process, in every process. Every process calls it."""
    return gather(np.array([number], np.int32), jax.process_count()).tolist()


def by_first(act: Callable[[], Any]) -> None:
    """Calls `act` in process 0; returns in every process once that is done.

    Raises:
      ValueError: `act` did; in every process, with its text.
    """
    refusal = None
    if is_first():
        try:
            act()
        except ValueError as error:
            refusal = str(error)
    if refusal := of_first(refusal):
        raise ValueError(refusal)


def wait_for_all(what: str) -> None:
    """Returns once all processes are here; AssertionError if one waits for another `what`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def wait_for_end() -> None:
    """Returns once every one of several processes has come here, each of them at its end.

    Process 0 may work alone for hours, and jax by default ends the others after five minutes
    without it. Heartbeats find a process that is dead.

    Raises:
      RuntimeError: a process did not come in a week.
    """
    # The public function waits on the devices, some of which give up earlier.
    from jax._src.distributed import global_state

    global_state.client.wait_at_barrier("the program ends", _WEEK_MILLISECONDS)


def disconnect_if_all_fail(seconds: float) -> None:
    """Disconnects the processes from each other where all of them come here within `seconds`.

    Each of them has failed. The first, which the others are connected to, would take them along
    before they have said why.
    """
    from jax._src.distributed import global_state

    with contextlib.suppress(RuntimeError):
        global_state.client.wait_at_barrier("the program fails", int(1000 * seconds))
        jax.distributed.shutdown()
