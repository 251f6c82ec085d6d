"""Our network's programs for `networks.py`: forward, gradient and the whole training step."""

import jax
import jax.numpy as jnp
import numpy as np

import cfg_jax
from cfg_jax.config import build
from cfg_jax.training.objectives import diffusion_loss_fn
from configs import digits

FORM = {  # docs/speed.md's small network of ADM
    "channels": 64,
    "channel_mult": (1, 2, 2, 2),
    "num_blocks": 2,
    "attention_resolutions": (16, 8),
    "head_channels": 64,
    "norm_groups": 32,
}
SIZE, CLASSES = 32, 10
OPTIMIZER = {"learning_rate": 1e-4, "b1": 0.9, "b2": 0.999, "grad_clip": 1.0}
EMA_DECAY, P_UNCOND = 0.999, 0.1
LOGSNR_MIN, LOGSNR_MAX = -20.0, 20.0


def task() -> build.Experiment:
    """The digits experiment, prediction and weighting "v", with this network and colour images."""
    config = digits.get_config()
    config.model.update(FORM)
    config.diffusion.update({"logsnr_min": LOGSNR_MIN, "logsnr_max": LOGSNR_MAX})
    return build.assemble(config, (SIZE, SIZE, 3), CLASSES)


def parameters(made: build.Experiment) -> dict:
    """Random parameters none of which is zero, so that every layer reaches the output."""
    shapes = jax.eval_shape(made.init, jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    random = [
        rng.standard_normal(leaf.shape, np.float32) / np.sqrt(max(np.prod(leaf.shape[:-1]), 16))
        for leaf in leaves
    ]
    return jax.tree.map(jnp.asarray, jax.tree.unflatten(tree, random))


def inputs(batch: int) -> dict[str, np.ndarray]:
    """z and data x [B, H, W, 3], logsnr [B] and labels [B] for all implementations."""
    rng = np.random.default_rng(1)
    shape = (batch, SIZE, SIZE, 3)
    return {
        "z": rng.standard_normal(shape, np.float32),
        "x": rng.uniform(-1, 1, shape).astype(np.float32),
        "logsnr": np.linspace(-4, 4, batch, dtype=np.float32),
        "labels": np.arange(batch, dtype=np.int32) % CLASSES,
    }


def programs(made: build.Experiment, params: dict, given: dict[str, np.ndarray]) -> dict:
    """{program: function without arguments}, which return what they computed."""
    # Arguments: with z as a constant, the gradient took ten times as long on jax 0.10.2.
    data = tuple(jnp.asarray(given[name]) for name in ("z", "logsnr", "labels"))

    def apply(params, *data):
        return made.network.apply({"params": params}, *data)

    forward = jax.jit(apply)
    gradient = jax.jit(jax.grad(lambda params, *data: jnp.mean(apply(params, *data) ** 2)))
    return {
        "forward": lambda: jax.block_until_ready(forward(params, *data)),
        "forward + backward": lambda: jax.block_until_ready(gradient(params, *data)),
        "training step": training(made, params, given),
    }


def training(made: build.Experiment, params: dict, given: dict[str, np.ndarray]):
    """A function that makes a step: loss, clipping, Adam, moving average."""
    optimizer = cfg_jax.create_optimizer(warmup_steps=0, **OPTIMIZER)
    loss = diffusion_loss_fn(made, p_uncond=P_UNCOND, weighting="v")
    step = cfg_jax.make_train_step(loss, optimizer, seed=0, ema_decay=EMA_DECAY)
    compiled = jax.jit(step, donate_argnums=0)
    state = cfg_jax.create_train_state(jax.tree.map(jnp.copy, params), optimizer)
    batch = {"x": given["x"], "labels": given["labels"], "index": np.arange(len(given["labels"]))}
    batch = jax.tree.map(jnp.asarray, batch)

    def run():
        nonlocal state
        state, metrics = jax.block_until_ready(compiled(state, batch))
        return metrics

    return run
