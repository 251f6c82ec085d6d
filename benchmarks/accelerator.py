"""Times of a full-size network on an accelerator: network, gradient, training step, guided call.

    python benchmarks/accelerator.py --config=imagenet64 --batch=64
    python benchmarks/accelerator.py --config=imagenet256_jit_b16 --batch=64

One device, the config's own dtype, random parameters and made-up images. If PyTorch sees the same
device, ADM's U-Net in PyTorch (`torch_adm.py`) takes turns with ours, under autocast to bfloat16
and with channels last. FLOPs are those of a network call before XLA changes the program.

The first lines compare a small network in float32 with the CPU: forward pass and gradients, with
products in full precision and in the device's own.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import cfg_jax  # noqa: E402
from benchmarks import network_jax, recording  # noqa: E402
from cfg_jax.config import build  # noqa: E402
from cfg_jax.training.objectives import diffusion_loss_fn  # noqa: E402
from cfg_jax.training.run import make_optimizer  # noqa: E402
from configs import imagenet64, imagenet256_jit_b16  # noqa: E402

CONFIGS = {  # config, shape
    "imagenet64": (imagenet64.get_config, (64, 64, 3)),
    "imagenet256_jit_b16": (imagenet256_jit_b16.get_config, (256, 256, 3)),
}
CLASSES, CALLS = 1000, 8
PROGRAMS = ("network", "gradient", "training step", "guided sampling")
TORCH = "PyTorch, channels last, autocast"


def main() -> None:
    parser = recording.parser(__doc__, rounds=5)
    parser.add_argument("--config", choices=CONFIGS, default="imagenet64")
    parser.add_argument("--batch", type=recording.positive, default=64, help="images per batch")
    parser.add_argument(
        "--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS, help="what to time"
    )
    given = parser.parse_args()
    get_config, shape = CONFIGS[given.config]
    settings = {"config": given.config, "batch": given.batch, "calls": CALLS}
    settings["device"] = jax.devices()[0].device_kind
    benchmark = f"accelerator_{given.config}"
    path = recording.destination(benchmark, given.programs, settings, given.out)
    differences = compared_with_cpu()
    config = get_config()
    task = build.assemble(config, shape, CLASSES)
    made = make(config, task, given.batch)
    ours = {name: made[name] for name in given.programs}
    compiled = {name: timed(run) for name, run in ours.items()}
    print("first call, s:", {name: round(spent, 1) for name, spent in compiled.items()}, flush=True)
    rival = torch_programs(config, shape, given.batch) if config.network == "unet" else {}
    measurements = {}
    for name, run in ours.items():
        every = {recording.OURS: run} | ({TORCH: rival[name]} if name in rival else {})
        spent = recording.interleaved(every, given.rounds)
        for times in spent.values():
            times["images per s"] = given.batch / times["wall"]
        measurements[name] = spent
        print(name, spent, flush=True)
    stats = jax.devices()[0].memory_stats() or {}
    facts = {
        "rounds": given.rounds,
        "first call, s": compiled,
        "FLOP": flops(task, given.batch),
        "peak memory, GiB": stats.get("peak_bytes_in_use", 0) / 2**30,
        "difference from the CPU": differences,
    }
    recorded = recording.record(
        benchmark, measurements, settings=settings, compared="wall", facts=facts
    )
    recording.save(recorded, path)


def made_up(task: build.Experiment, batch: int) -> tuple[jax.Array, ...]:
    """z [B, H, W, C], logsnr [B] and labels [B]."""
    z = jax.random.normal(jax.random.key(1), (batch, *task.shape))
    return z, jnp.linspace(-4, 4, batch), jnp.arange(batch) % task.num_classes


def make(config: Any, task: build.Experiment, batch: int) -> dict[str, Callable[[], Any]]:
    """{program: function without arguments}, each of which waits for its result."""
    data = made_up(task, batch)
    optimizer = make_optimizer(config)
    diffusion = config.diffusion
    loss = diffusion_loss_fn(
        task,
        p_uncond=diffusion.p_uncond,
        weighting=diffusion.weighting,
        t_eps=diffusion.t_eps,
    )
    step = cfg_jax.make_train_step(loss, optimizer, seed=0, ema_decay=config.optim.ema_decay)
    step = jax.jit(step, donate_argnums=0)
    state = cfg_jax.create_train_state(jax.jit(task.init)(jax.random.key(0)), optimizer)
    examples = {"x": jnp.tanh(data[0]), "labels": data[2], "index": jnp.arange(batch)}

    def train() -> Any:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, examples))
        return metrics

    network = jax.jit(lambda params, *data: task.network.apply({"params": params}, *data))
    gradient = jax.jit(
        jax.grad(lambda params, *data: jnp.mean(task.network.apply({"params": params}, *data) ** 2))
    )
    grid = task.schedule.grid(CALLS)

    @jax.jit
    def sample(params: Any) -> jax.Array:
        denoiser = cfg_jax.classifier_free_guidance(
            task.predict(params), data[2], 1.0, null_label=task.null_label
        )
        return cfg_jax.sample(
            jax.random.key(0), denoiser, (batch, *task.shape), grid, step=cfg_jax.ddim_step
        )

    return {
        "network": lambda: jax.block_until_ready(network(state.params, *data)),
        "gradient": lambda: jax.block_until_ready(gradient(state.params, *data)),
        "training step": train,
        "guided sampling": lambda: jax.block_until_ready(sample(state.params)),
    }


def timed(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def flops(task: build.Experiment, batch: int) -> float | None:
    """FLOPs of a network call, from the program before XLA changes it; None if it cannot say."""
    params = jax.eval_shape(task.init, jax.random.key(0))
    data = jax.eval_shape(lambda: made_up(task, batch))
    with jax.default_device(jax.devices("cpu")[0]):
        apply = jax.jit(lambda params, *data: task.network.apply({"params": params}, *data))
        cost = apply.lower(params, *data).cost_analysis()
    return cost.get("flops") if cost else None


def compared_with_cpu() -> dict[str, float]:
    """Largest relative differences of a small float32 network here and on the CPU."""
    task = network_jax.task()
    params, given = network_jax.parameters(task), network_jax.inputs(4)
    found = {}

    def results(device: jax.Device, precision: str) -> dict[str, Any]:
        with jax.default_device(device), jax.default_matmul_precision(precision):
            placed = jax.device_put((params, given), device)
            programs = network_jax.programs(task, *placed)
            return {name: programs[name]() for name in ("forward", "forward + backward")}

    exact = results(jax.devices("cpu")[0], "highest")
    for precision in ("highest", "default"):
        for name, value in results(jax.devices()[0], precision).items():
            found[f"{name}, {precision}"] = max(
                jax.tree.leaves(jax.tree.map(relative, value, exact[name]))
            )
    print("largest relative differences from the CPU:", found, flush=True)
    return found


def relative(array: Any, reference: Any) -> float:
    array, reference = (np.asarray(each, np.float64) for each in (array, reference))
    return float(np.abs(array - reference).max() / max(np.abs(reference).max(), 1e-30))


def torch_programs(config: Any, shape: tuple[int, ...], batch: int) -> dict[str, Callable]:
    """The network and its gradient in PyTorch on the same device; {} where that cannot be."""
    try:
        import torch
    except ImportError:
        print("PyTorch: not run, it is not installed")
        return {}
    if not torch.cuda.is_available():
        print("PyTorch: not run, it sees no GPU")
        return {}
    from benchmarks.torch_adm import TorchUNet

    model, size = config.model, shape[0]
    form = model.channels, model.channel_mult, model.num_blocks, model.attention_resolutions
    network = TorchUNet(
        *form, model.head_channels, model.norm_groups, num_labels=CLASSES + 1, size=size
    )
    network = network.to("cuda", memory_format=torch.channels_last)
    z = torch.randn(batch, 3, size, size, device="cuda").to(memory_format=torch.channels_last)
    logsnr = torch.linspace(-4, 4, batch, device="cuda")
    labels = torch.arange(batch, device="cuda") % CLASSES

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            network(z, logsnr, labels)
        torch.cuda.synchronize()

    def gradient() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = network(z, logsnr, labels).float().square().mean()
        loss.backward()
        torch.cuda.synchronize()

    return {"network": forward, "gradient": gradient}


if __name__ == "__main__":
    main()
