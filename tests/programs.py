"""Programs started by tests, forked from a server that has already imported their libraries.

    run_program("launch.sample", "--w=1", devices=2)    runs it: returncode, stdout, stderr
    start_program(...)                                  starts it: poll, wait, kill as well

Importing jax, flax, orbax and tfds takes seconds, a fork 0.1 s. Each test process has one server,
which starts with the first program and ends, with its programs, when the test process ends. The
server imports libraries only, no module of this repository, to test a program's own imports. It
starts no backend and no thread, which would not survive a fork. Environment, XLA and jax flags,
working directory, streams, signal handlers and exit code equal those of `python -m MODULE`. Linux
only.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests import compiled

ROOT = Path(__file__).parents[1]

# Variables of a cluster, a proxy or jax that would change a test.
FOREIGN = ("SLURM_", "OMPI_", "JAX_", "TPU_", "MEGASCALE_", "KUBERNETES_", "XLA_FLAGS")

LIBRARIES = (
    *("jax", "jax.experimental.multihost_utils", "flax.linen", "optax", "orbax.checkpoint"),
    *("tensorflow_datasets", "grain", "sklearn.datasets", "matplotlib.figure", "PIL.Image"),
    *("ml_collections.config_flags", "tensorboardX", "tqdm", "safetensors.numpy", "pytest"),
)


def environment(devices: int = 1, **variables: str | None) -> dict[str, str]:
    """This environment without `FOREIGN` variables, with virtual CPU devices and the shared cache.

    A variable that is None is removed.
    """
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN) and not name.lower().endswith("_proxy")
    }
    own = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": compiled.xla_flags(devices),
        **compiled.environment(),
    }
    return {name: value for name, value in (plain | own | variables).items() if value is not None}


class _Stream:
    """What a program writes to a pipe: a file would end at a full disk that a test makes."""

    def __init__(self):
        self._reading, self.writing = os.pipe()
        self._content = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while part := os.read(self._reading, 2**16):
            self._content += part
        os.close(self._reading)

    def text(self, *, complete: bool) -> str:
        if complete:  # what is still in the pipe; a process that it left behind may keep it open
            self._reader.join(10)
        return self._content.decode(errors="replace")


class Program:
    """Started program; as a context manager it is killed at the end of the block.

    pid, returncode: as in subprocess.Popen.
    stdout, stderr: text written so far.
    """

    def __init__(self, command, pid, ended, streams):
        self.args, self.pid, self.returncode = command, pid, None
        self._ended, self._streams = ended, streams

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Exit code, or minus the signal; subprocess.TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout, self.stdout, self.stderr)
            self.returncode = int(self._ended.recv(16))
        return self.returncode

    def wait_for(self, text: str, timeout: float = 600) -> str:
        """Standard output once it contains `text` or the program has ended."""
        until = time.monotonic() + timeout
        while text not in self.stdout and self.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        return self.stdout

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    @property
    def stdout(self) -> str:
        return self._streams[0].text(complete=self.returncode is not None)

    @property
    def stderr(self) -> str:
        return self._streams[1].text(complete=self.returncode is not None)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()
        self.wait()

    def __repr__(self):
        """Command, exit code and last lines of output, for failed assertions."""
        lines = [*self.stdout.splitlines()[-20:], *self.stderr.splitlines()[-20:]]
        return "\n    ".join([f"{' '.join(self.args)}: exit code {self.returncode}", *lines])


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start_program(
    module: str, *arguments: str, devices: int = 1, environment: dict[str, str] | None = None
) -> Program:
    """Starts `python -m module *arguments` in the repository's root, in a new session.

    devices: number of virtual CPU devices.
    environment: variables that override those of `environment()`; None removes one.
    """
    variables = globals()["environment"](devices, **(environment or {}))
    streams = [_Stream() for _ in range(2)]
    ended, theirs = socket.socketpair()
    request = json.dumps({"command": [module, *arguments], "environment": variables})
    with theirs:
        files = [theirs.fileno(), *(stream.writing for stream in streams)]
        socket.send_fds(_server(), [b" "], files)
        _server().sendall(request.encode() + b"\n")
    for stream in streams:
        os.close(stream.writing)
    return Program([module, *arguments], int(ended.recv(16)), ended, streams)


def run_program(module: str, *arguments: str, timeout: float = 900, **options) -> Program:
    """`start_program`, then wait; subprocess.TimeoutExpired after `timeout` seconds."""
    with start_program(module, *arguments, **options) as program:
        program.wait(timeout)
    return program


@functools.cache
def _server() -> socket.socket:
    """Socket for requests; the server ends when it is closed, at the latest with this process."""
    own, theirs = socket.socketpair()
    single = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    # sklearn imports pandas where another package brought it, and that pyarrow.
    single["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.programs", str(theirs.fileno())],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)} | single,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )

    @atexit.register
    def end():
        own.close()
        server.wait()

    return own


# The server.


def _serve(requests: socket.socket) -> list[str]:
    """Forks a program for each request and returns its command in the fork.

    When the request socket closes, it kills the programs and exits.
    """
    _import_libraries()
    running = {}  # {a file that can be read when the program has ended: (its pid, who waits)}
    while True:
        for ready in select.select([requests, *running], [], [])[0]:
            if ready is not requests:
                pid, waiting = running.pop(ready)
                os.close(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with waiting:
                    _tell(waiting, code)
                continue
            received, files, *_ = socket.recv_fds(requests, 1, 3)
            if not received:
                for pid, _ in running.values():
                    os.killpg(pid, signal.SIGKILL)
                os._exit(0)
            with requests.makefile("rb", buffering=0) as lines:
                request = json.loads(lines.readline())
            pid = os.fork()
            if pid == 0:
                for file in (*running, *(waiting.fileno() for _, waiting in running.values())):
                    os.close(file)
                requests.close()
                return _become(request, files)
            for file in files[1:]:
                os.close(file)
            waiting = socket.socket(fileno=files[0])
            running[os.pidfd_open(pid)] = pid, waiting
            _tell(waiting, pid)


def _tell(waiting: socket.socket, number: int) -> None:
    try:
        waiting.sendall(str(number).encode())
    except OSError:  # the waiter is gone
        pass


def _import_libraries() -> None:
    for library in LIBRARIES:
        importlib.import_module(library)
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"importing {LIBRARIES} starts {threads - 1} threads, lost in a fork"
    gc.collect()
    gc.freeze()


def _become(request: dict, files: list[int]) -> list[str]:
    """Turns this fork into the requested process."""
    os.setsid()
    os.close(files[0])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, file in enumerate(files[1:], start=1):
        os.dup2(file, stream)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    _set_options_of_jax()
    return request["command"]


def _set_options_of_jax() -> None:
    """Sets the options that jax reads from the environment at import."""
    import jax

    for name, now in jax.config.values.items():
        text = os.environ.get(name.upper())
        if text is None:
            continue
        if isinstance(now, bool):
            jax.config.update(name, text.lower() in ("1", "true", "yes", "on"))
        elif isinstance(now, int | float):
            jax.config.update(name, type(now)(text))
        else:
            jax.config.update(name, text)


def _run(command: list[str]) -> None:
    """Runs the program and ends this process with its exit code.

    The exit skips the teardown of modules, which would copy all pages shared with the server.
    """
    sys.argv[:] = command
    code = 0
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _run(_serve(socket.socket(fileno=int(sys.argv[1]))))
