"""Cycles of ADM's ImageNet-64 network and of JiT on one TPU v5e, as its compiler estimates them.

    pip install -e '.[tpu]'
    python benchmarks/tpu_estimates.py blocks update       # layers, optimizer: minutes
    python benchmarks/tpu_estimates.py forward gradient    # the whole network, tens of minutes
    python benchmarks/tpu_estimates.py "transformer forward" "transformer gradient" --out=FILE

Needs no TPU. Batch 16, unless the name has another, and bfloat16. An estimate covers fusions run in
sequence; compare estimates of one version of libtpu only.
"""

import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

os.environ["JAX_PLATFORMS"] = "cpu"  # the compiler is asked, no chip
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import recording  # noqa: E402
from cfg_jax.config import build  # noqa: E402
from cfg_jax.models import blocks  # noqa: E402
from cfg_jax.models.transformer import Transformer  # noqa: E402
from cfg_jax.preflight import hlo  # noqa: E402
from cfg_jax.preflight.topologies import devices, topology  # noqa: E402
from cfg_jax.training import run, step  # noqa: E402
from configs import imagenet64  # noqa: E402

BATCH, GROUPS, EMBEDDING = 16, 32, 768
PEAK = topology("v5e:1x1").chip.flops_per_cycle
BLOCKS = {  # layer, side, channels
    "attention 32 x 32": (blocks.Attention(6, GROUPS, dtype=jnp.bfloat16), 32, 384),
    "attention 16 x 16": (blocks.Attention(9, GROUPS, dtype=jnp.bfloat16), 16, 576),
    "attention 8 x 8": (blocks.Attention(12, GROUPS, dtype=jnp.bfloat16), 8, 768),
    "block 64 x 64": (blocks.ResBlock(192, GROUPS, dtype=jnp.bfloat16), 64, 192),
    "block 32 x 32": (blocks.ResBlock(384, GROUPS, dtype=jnp.bfloat16), 32, 384),
    "block 64 to 32": (blocks.ResBlock(192, GROUPS, 0.0, "down", dtype=jnp.bfloat16), 64, 192),
    "block 32 to 64": (blocks.ResBlock(384, GROUPS, 0.0, "up", dtype=jnp.bfloat16), 32, 384),
}


def main() -> None:
    parser = recording.parser(__doc__)
    programs = [*NETWORK, *TRANSFORMER, "update", "blocks", *BLOCKS]
    parser.add_argument(
        "programs", nargs="+", choices=programs, metavar="PROGRAM", help=", ".join(programs)
    )
    given = parser.parse_args()
    chosen = given.programs
    names = [name for each in chosen for name in (BLOCKS if each == "blocks" else [each])]
    settings = {"batch": BATCH}
    measured = [
        each
        for name in names
        for each in ((name, f"{name}, gradient") if name in BLOCKS else (name,))
    ]
    path = recording.destination("tpu_v5e", measured, settings, given.out)
    found = {}
    print("program                         M cycles  of peak  temporaries, MiB  compile, s")
    for name in names:
        if name in NETWORK:
            found[name] = report(name, *network(**NETWORK[name]))
            continue
        if name in TRANSFORMER:
            found[name] = report(name, *transformer(**TRANSFORMER[name]))
            continue
        if name == "update":
            found[name] = report(name, *update(), donated=0)
            continue
        layer, side, channels = BLOCKS[name]
        h = jax.ShapeDtypeStruct((BATCH, side, side, channels), jnp.bfloat16)
        emb = jax.ShapeDtypeStruct((BATCH, EMBEDDING), jnp.float32)
        inputs = (h,) if isinstance(layer, blocks.Attention) else (h, emb, None)
        params = jax.eval_shape(layer.init, jax.random.key(0), *inputs)
        found[name] = report(name, layer.apply, params, *inputs)
        cotangent = jax.eval_shape(layer.apply, params, *inputs)
        backward = f"{name}, gradient"
        found[backward] = report(backward, gradient_of(layer.apply), params, cotangent, *inputs)
    measurements = {name: {recording.OURS: measures} for name, measures in found.items()}
    recorded = recording.record("tpu_v5e", measurements, settings=settings, compared="M cycles")
    recording.save(recorded, path)


NETWORK = {
    "forward": {"differentiated": False, "dropout": False},
    "gradient": {"differentiated": True, "dropout": False},
    "gradient with dropout": {"differentiated": True, "dropout": True},
}


def network(*, differentiated: bool, dropout: bool) -> tuple:
    """A function of the whole network, and the shapes of its arguments."""
    net = build.assemble(imagenet64.get_config(), (64, 64, 3), 1000).network
    z = jax.ShapeDtypeStruct((BATCH, 64, 64, 3), jnp.float32)
    logsnr = jax.ShapeDtypeStruct((BATCH,), jnp.float32)
    labels = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), BATCH)) if dropout else None
    params = jax.eval_shape(net.init, jax.random.key(0), z, logsnr, labels)
    inputs = z, logsnr, labels, keys
    if not differentiated:
        return net.apply, params, *inputs
    loss = lambda params, *inputs: jnp.mean(net.apply(params, *inputs) ** 2)  # noqa: E731
    return jax.grad(loss), params, *inputs


H_16 = {"depth": 32, "width": 1280, "heads": 16, "bottleneck": 256, "in_context_start": 10}
TRANSFORMER = {
    "transformer forward": {},
    "transformer gradient": {"differentiated": True},
    "transformer gradient, remat": {"differentiated": True, "remat": True},
    "transformer forward, batch 64": {"batch": 64},
    "transformer H/16 forward": H_16,
}


def transformer(*, differentiated: bool = False, batch: int = BATCH, **form) -> tuple:
    """A function of JiT-B/16 or another form, and the shapes of its arguments.

    The gradient is that of JiT's loss, the squared error of v.
    """
    net = Transformer(out_channels=3, num_classes=1000, dtype="bfloat16", **form)
    x = jax.ShapeDtypeStruct((batch, 256, 256, 3), jnp.float32)
    time = jax.ShapeDtypeStruct((batch,), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    params = jax.eval_shape(net.init, jax.random.key(0), x, time, labels)
    if not differentiated:
        return net.apply, params, x, time, labels

    def loss(params, x, eps, time, labels):
        along = time[:, None, None, None]
        error = x - net.apply(params, along * x + (1 - along) * eps, time, labels)
        return jnp.mean((error / jnp.maximum(1 - along, 0.05)) ** 2)

    return jax.grad(loss), params, x, x, time, labels


def update() -> tuple:
    """Optimizer, average and skip as a function, and the shapes of its arguments."""
    config = imagenet64.get_config()
    optimizer, ema_decay = run.make_optimizer(config), config.optim.ema_decay
    task = build.assemble(config, (64, 64, 3), 1000)
    state = jax.eval_shape(run.make_create(config, task, optimizer))

    def updated(state, grads, loss):
        return step.update(state, grads, loss, optimizer, ema_decay)

    return updated, state, state.params, jax.ShapeDtypeStruct((), jnp.float32)


def gradient_of(apply):
    """(params, cotangent, h, ...) -> gradients of params and h."""

    def both(params, cotangent, h, *rest):
        _, backward = jax.vjp(lambda params, h: apply(params, h, *rest), params, h)
        return backward(cotangent)

    return both


def report(name: str, function, *arguments, donated=()) -> dict[str, float]:
    """Compiles a function for one chip, prints a line and returns its numbers."""
    chip = SingleDeviceSharding(devices(topology("v5e:1x1"))[0])
    placed = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=chip), arguments
    )
    begun = time.process_time()
    traced = jax.jit(function, donate_argnums=donated).trace(*placed)
    compiled = traced.lower(lowering_platforms=("tpu",)).compile()
    spent = time.process_time() - begun
    module = hlo.parse(compiled.as_text())
    cycles = hlo.estimated_cycles(module)
    temporaries = compiled.memory_analysis().temp_size_in_bytes / 2**20
    share = hlo.flops(module) / (cycles * PEAK)
    line = f"{name:31}{cycles / 1e6:9.2f}{share:9.1%}{temporaries:18.0f}{spent:12.0f}"
    print(line, flush=True)
    return {
        "M cycles": cycles / 1e6,
        "of peak": share,
        "temporaries, MiB": temporaries,
        "compile, s": spent,
    }


if __name__ == "__main__":
    main()
