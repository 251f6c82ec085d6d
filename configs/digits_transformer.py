"""Handwritten digits, 8 x 8, by a transformer that predicts x on straight paths: JiT in small.

    cfg-jax train --config=digits_transformer --workdir=runs/digits_transformer

Schedule, loss and solver are JiT's; sizes and training are our choice.
"""

from cfg_jax.config import fields
from configs import base


def get_config():
    config = base.get_config()
    config.data.name = "digits"
    config.network = "transformer"
    config.model = fields.transformer(
        patch=2, depth=4, width=64, heads=4, bottleneck=0, in_context_tokens=4, in_context_start=1
    )
    config.diffusion.schedule = "flow"
    config.diffusion.prediction = "x"
    config.diffusion.weighting = "flow"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 100
    config.optim.ema_decay = 0.995
    config.train.num_steps = 900
    config.train.batch_size = 64
    config.train.log_every = 50
    config.train.checkpoint_every = 300
    config.train.preview_every = 450
    config.sampling.solver = "heun_flow"
    config.sampling.num_steps = 31
    config.sampling.clip_x = False
    # t > 0.1, as in JiT: w = 3 at t = 0 would leave the range of images.
    config.sampling.interval = (-4.3944, 80.0)
    return config
