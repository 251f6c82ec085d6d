"""Several processes as one program.

    cfg-jax train --config=... --workdir=...      the same command on every host

`start` connects the processes before anything uses a device. Each process then computes on its own
devices and its own rows of a batch, and process 0 prints and writes for all:

    share(rows)[j] = rows[p n + j],   n = ceil(N / P),   p of P processes,   gather is its inverse

Processes communicate rows, not sums, so every sum is the same for any P.
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
    """Connects this process with the others of its program; returns the number of processes P.

    Call `check_devices` next.

    Args:
      mode: "off" never connects. "on" always connects. "auto" connects if a cluster (Cloud TPU,
        GKE, Slurm, Open MPI) started several processes, or if the next three arguments are given.
      coordinator_address: HOST:PORT of process 0.
      num_processes: P.
      process_id: id of this process, in [0, P).
      timeout_seconds: maximum wait for the other processes, after which jax ends this process.
      heartbeat_seconds: a process without a heartbeat for this long counts as dead; the other
        processes then exit.

    Raises ValueError if the arguments are invalid or contradictory, or if mode is "on" and there is
    neither a cluster nor a coordinator_address. Raises RuntimeError if coordinator_address does not
    answer, if its port is in use, or if a device was used before.
    """
    by_hand = _by_hand(mode, coordinator_address, num_processes, process_id)
    if mode == "off":
        return 1
    total = by_hand["num_processes"] if by_hand else _detected()
    if mode == "on" and not total:
        raise ValueError(
            "distributed mode=on: jax detects no cluster (Cloud TPU, GKE, Slurm, Open MPI); "
            "give coordinator_address=HOST:PORT, num_processes and process_id"
        )
    if not by_hand and total <= (mode == "auto"):
        return 1
    if not process_id and total > 1:  # of a cluster, every process
        place = f" at {coordinator_address}" if coordinator_address else ""
        print(f"connecting {total} processes{place}", flush=True)
    if process_id:
        _wait_for_first(by_hand["coordinator_address"], timeout_seconds)
    try:
        jax.distributed.initialize(
            **(by_hand | {"num_processes": total}),
            initialization_timeout=timeout_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except RuntimeError as error:
        raise RuntimeError(
            f"process {process_id or 0} of {total} cannot connect to the others at "
            f"{coordinator_address or 'the address from the cluster'} ({error}): if its port is "
            "in use, choose another"
        ) from error
    return total


def _by_hand(
    mode: str, coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> dict[str, Any]:
    """The explicit arguments of `jax.distributed.initialize`; empty if none is given."""
    if mode not in MODES:
        raise ValueError(f"distributed mode={mode}: choose one of {', '.join(MODES)}")
    said: dict[str, Any] = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    given = [f"{name}={value}" for name, value in said.items() if value is not None]
    if not given:
        return {}
    if mode == "off":
        raise ValueError(f"{given[0]} with distributed mode=off: leave one of them out")
    if coordinator_address is None or num_processes is None or process_id is None:
        lacking = [name for name, value in said.items() if value is None]
        raise ValueError(f"{' '.join(given)} without {' and '.join(lacking)}: give all three")
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(
            f"coordinator_address={coordinator_address}: need HOST:PORT of process 0, such as "
            "10.0.0.1:8476"
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id={process_id} num_processes={num_processes}: need an id from 0 to "
            f"{max(num_processes, 1) - 1}, and at least one process"
        )
    if host in ("localhost", "127.0.0.1"):
        # By default process 0 listens on every network interface.
        said["coordinator_bind_address"] = coordinator_address
    return said


def _wait_for_first(address: str, timeout_seconds: int) -> None:
    """Returns once something listens at `address`; jax would end the process without an error."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + timeout_seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise RuntimeError(
                    f"coordinator_address={address}: process 0 does not answer within "
                    f"{timeout_seconds} s ({error}): start it, or correct the address"
                ) from error
            time.sleep(0.2)


def _detected() -> int:
    """Number of processes that the surrounding cluster started; 0 without a cluster."""
    # jax's public functions connect at once, and even a single process then occupies a port.
    from jax._src.clusters import ClusterEnv

    kinds = (kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method)
    try:
        with warnings.catch_warnings():  # Kubernetes without the package that jax needs for it
            warnings.simplefilter("ignore")
            cluster = next((kind for kind in kinds if kind.is_env_present()), None)
        if cluster is None:
            return 0
        # The shell of a Slurm job is a step of one task, but its variables also count the job's.
        of_step = os.environ.get("SLURM_STEP_NUM_TASKS") if cluster.name == "slurm" else None
        return int(of_step or cluster.get_process_count())
    except Exception as error:  # variables, metadata and API raise many types
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"the cluster does not report its number of processes ({reason}): use distributed "
            "mode=off for one process, or give coordinator_address, num_processes and process_id"
        ) from error


def check_devices(num_processes: int) -> None:
    """Raises RuntimeError if the backend misses processes, ValueError for unequal device counts."""
    if jax.process_count() != num_processes:
        raise RuntimeError(
            f"{num_processes} processes are connected, but the {jax.default_backend()} backend "
            f"sees {jax.process_count()}: choose another backend with JAX_PLATFORMS"
        )
    first, *others = (len(jax.local_devices(process_index=p)) for p in range(num_processes))
    for process, other in enumerate(others, start=1):
        if other != first:
            raise ValueError(
                f"process {process} has {other} devices, process 0 has {first}: give every process "
                "the same number"
            )


def is_first() -> bool:
    """Whether this is process 0, which prints and writes for all."""
    return jax.process_index() == 0


def share(rows: np.ndarray) -> np.ndarray:
    """This process's n = ceil(N / P) rows of [N, ...]; the last row is repeated if P n > N."""
    size = -(-len(rows) // jax.process_count())
    return rows[filled(jax.process_index() * size, len(rows), size)]


def gather(tree: Any, num_rows: int) -> Any:
    """The N = num_rows rows from the `share` of each process, in every process.

    Maps a tree of arrays [n, ...] to NumPy arrays [N, ...]. Dtypes that jax has only with x64 are
    rounded. Every process must call it, in the same order of calls.
    """
    if jax.process_count() > 1:
        tree = multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(lambda a: np.asarray(a)[:num_rows], tree)


def of_first(value: _T) -> _T:
    """The value of process 0, of any JSON type, in every process.

    Use this for values that depend on files of process 0, which the other processes may see later.
    Every process must call this function. Raises ValueError if the JSON exceeds 1,024 bytes.
    """
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode()
    if len(text) > _MESSAGE_BYTES:
        raise ValueError(f"value of {len(text)} bytes of JSON: send at most {_MESSAGE_BYTES}")
    message = np.frombuffer(text.ljust(_MESSAGE_BYTES), np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(message).tobytes())


def of_each(number: int) -> list[int]:
    """The int32 `number` of each process, in every process. Every process must call it."""
    return gather(np.array([number], np.int32), jax.process_count()).tolist()


def by_first(act: Callable[[], Any]) -> None:
    """Calls `act` in process 0; returns in every process once `act` has finished.

    Raises ValueError in every process, with the same text, if `act` raises ValueError.
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
    """Returns once all processes call it; raises AssertionError if their `what` differ."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def wait_for_end() -> None:
    """Returns once all processes, of which there are several, call this at the end of their work.

    Process 0 may work alone for hours, while jax by default ends the others after five minutes of
    waiting. Heartbeats detect a dead process. Raises RuntimeError after a week.
    """
    _wait_at("the program ends", _WEEK_MILLISECONDS)


def disconnect_if_all_fail(seconds: float) -> None:
    """Disconnects all processes, each of which has failed, if all call it within `seconds`.

    Otherwise the exit of process 0 ends the others before they have printed their errors.
    """
    with contextlib.suppress(RuntimeError):
        _wait_at("the program fails", int(1000 * seconds))
        jax.distributed.shutdown()


def _wait_at(barrier: str, milliseconds: int) -> None:
    """Returns once all processes call it, connected by `start`; RuntimeError after the time."""
    # The public function waits on the devices, and some of them time out earlier.
    from jax._src.distributed import global_state

    assert global_state.client is not None
    global_state.client.wait_at_barrier(barrier, milliseconds)
