"""Times of the U-Net against PyTorch: forward, forward and backward, the whole training step.

    pip install torch diffusers
    python benchmarks/networks.py --threads=1

Rivals are ADM's U-Net in PyTorch with our parameters (`torch_adm.py`), whose outputs and gradients
are first compared with ours, diffusers' UNet2DModel of about the same size and, with
--guided_diffusion=PATH, the original in a checkout. All take turns in one process on the CPU.
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import recording  # noqa: E402

PROGRAMS = ("forward", "forward + backward", "training step")
ALLOWED = {"forward": 1e-5, "forward + backward": 1e-4}
"""Relative difference of ours and PyTorch's result, see `recording.same`."""


def main() -> None:
    parser = recording.parser(__doc__, rounds=7, threads=1)
    parser.add_argument("--batch", type=recording.positive, default=8, help="images per batch")
    parser.add_argument("--guided_diffusion", help="path of a checkout of guided-diffusion")
    parser.add_argument(
        "--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS, help="what to time"
    )
    given = parser.parse_args()
    if not importlib.util.find_spec("torch"):
        raise SystemExit("PyTorch is missing: pip install torch")
    recording.use_cores(given.threads)
    import torch  # not before the process has its cores

    from benchmarks import network_jax, network_torch

    benchmark = f"networks_threads{given.threads}"
    settings = {"threads": given.threads, "batch": given.batch, **network_jax.FORM}
    path = recording.destination(benchmark, given.programs, settings, given.out)
    torch.set_num_threads(given.threads)
    made = network_jax.task()
    params, data = network_jax.parameters(made), network_jax.inputs(given.batch)
    rivals = network_torch.rivals(params, given.guided_diffusion)
    counts = {name: sum(p.numel() for p in rival.parameters()) for name, rival in rivals.items()}
    programs = {recording.OURS: network_jax.programs(made, params, data)}
    for name, rival in rivals.items():
        programs[name] = network_torch.programs(rival, data, "channels last" in name)
    differences = {
        program: compared(programs, program) for program in given.programs if program in ALLOWED
    }
    times = {}
    for program in given.programs:
        print(f"{program}: {given.rounds} rounds of {', '.join(programs)}", flush=True)
        every = {name: each[program] for name, each in programs.items()}
        times[program] = recording.interleaved(every, given.rounds)
    recorded = recording.record(
        benchmark,
        times,
        settings=settings,
        compared=recording.measure(given.threads),
        facts={
            "rounds": given.rounds,
            "parameters": counts,
            "largest difference": differences,
        },
    )
    recording.save(recorded, path)


def compared(programs: dict, program: str) -> float:
    """The largest relative difference of ours and PyTorch's results; exits if it is too large."""
    from benchmarks.torch_adm import from_flax

    ours = programs[recording.OURS][program]()
    ours = ours.transpose(0, 3, 1, 2) if program == "forward" else from_flax(ours)
    rivals = ("PyTorch", "PyTorch, channels last")
    differences = [
        recording.same(f"{program} of {name}", ours, programs[name][program](), ALLOWED[program])
        for name in rivals
    ]
    return float(f"{max(differences):.2g}")


if __name__ == "__main__":
    main()
