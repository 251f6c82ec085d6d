"""Serves a page on which guidance and sampler of a trained model are moved by sliders.

    pip install -e '.[explore]'
    cfg-jax explore --workdir=runs/digits

Shows samples at w = 0 and at w, their trajectory, measurements of guidance, and the command that
draws the same samples. Everything is compiled at the start, for every T of --num_steps.
The page is served to this machine only. Ctrl-C ends it.
"""

import ipaddress
import socket
import threading

from absl import flags

from .program import run
from .values import whole_numbers

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a training run; required.", required=True
)
_CHECKPOINT = flags.DEFINE_integer(
    "checkpoint", None, "Training step of the checkpoint to load; the newest if unset."
)
_NUM_STEPS = flags.DEFINE_string(
    "num_steps",
    None,
    "Comma-separated numbers of network calls T to choose from; the value in the "
    "config of the run and half of it if unset.",
)
_HOST = flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "Address to listen on; one that other machines reach needs --public.",
)
_PORT = flags.DEFINE_integer("port", 7860, "Port to listen on.", 1, 65535)
_PUBLIC = flags.DEFINE_bool(
    "public", False, "Allow a --host that other machines reach. The page has no password."
)


def check() -> None:
    """Raises ValueError for flags that cannot be read, and for a --host that needs --public."""
    if any(count < 1 for count in whole_numbers("num_steps")):
        raise ValueError(f"--num_steps={_NUM_STEPS.value}: give 1 step or more")
    if ":" in _HOST.value:
        raise ValueError(f"--host={_HOST.value}: give an IPv4 address, such as 127.0.0.1")
    if not (_PUBLIC.value or _is_loopback(_HOST.value)):
        raise ValueError(
            f"--host={_HOST.value} is reached by other machines, and the page has no password: add "
            "--public, or use --host=127.0.0.1 and an ssh tunnel"
        )


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address of IPv4."""
    try:
        return host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _check_port() -> None:
    """Raises OSError if the page could not be served, before anything is compiled."""
    address = _HOST.value, _PORT.value
    try:
        socket.create_server(address, family=socket.getaddrinfo(*address)[0][0]).close()
    except OSError as error:
        why = str(error.strerror).partition(" (")[0]  # without the address a second time
        raise OSError(
            f"--host={_HOST.value} --port={_PORT.value}: {why}: give another --port, or an address "
            "of this machine"
        ) from None


def main(argv: list[str]) -> None:
    del argv
    from cfg_jax.io.files import folder
    from cfg_jax.io.text import one_line
    from cfg_jax.sampling.loading import load_model
    from cfg_jax.study import explorer, explorer_page

    _check_port()
    explorer_page.load_gradio()
    model = load_model(_WORKDIR.value, _CHECKPOINT.value)
    explorer.check_model(model)
    steps = whole_numbers("num_steps") or explorer.default_steps(model)
    solvers = explorer.solvers(model, steps)
    print("compiling every program of the page, once, which takes minutes for a large network")
    for program in explorer.warm_up(model, solvers, steps):
        print(f"compiling {program}", flush=True)
    blocks = explorer_page.page(
        model,
        name=one_line(folder(_WORKDIR.value).resolve().name),
        solvers=solvers,
        num_steps=steps,
        command=lambda choice: explorer.command(
            choice, model.label_names, _WORKDIR.value, model.step
        ),
    )
    try:
        print(explorer_page.serve(blocks, _HOST.value, _PORT.value), flush=True)
        threading.Event().wait()
    finally:
        blocks.close()  # its threads would outlive this one


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    run(main, check=check)
