"""Emojis in colour, 32 x 32 pixels, by a transformer that predicts x on straight paths.

    pip install -e '.[emoji]'
    cfg-jax train --config=emoji_transformer --workdir=runs/emoji_transformer

JiT in small, for the data of configs/emoji.py. Trained to its end on one H100, at 3,000 images a
second; its distance to the data is not measured (docs/emoji.md).
"""

from cfg_jax.config import fields
from configs import base


def get_config():
    config = base.get_config()
    config.data.name = "emoji"
    config.data.random_flip = True
    config.network = "transformer"
    config.model = fields.transformer(
        patch=4, depth=6, width=128, heads=4, bottleneck=32, in_context_tokens=8, in_context_start=2
    )
    config.diffusion.schedule = "flow"
    config.diffusion.prediction = "x"
    config.diffusion.weighting = "flow"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 200
    config.optim.anneal_steps = 4000
    config.optim.ema_decay = 0.995
    config.train.num_steps = 4000
    config.train.batch_size = 32
    config.train.log_every = 50
    config.train.checkpoint_every = 250
    config.train.preview_every = 1000
    config.sampling.solver = "heun_flow"
    config.sampling.num_steps = 63
    config.sampling.clip_x = False
    config.sampling.interval = (-4.3944, 80.0)
    return config
