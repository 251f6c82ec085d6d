"""Handwritten digits, 8 x 8, from scikit-learn: the demo.

    cfg-jax train --config=digits --workdir=runs/digits

No download; about three minutes on two CPU cores. `bash launch/demo.sh` makes the result in
docs/digits.md.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.name = "digits"
    config.model.channels = 32
    config.model.channel_mult = (1, 1)
    config.model.num_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.head_channels = 32
    config.model.norm_groups = 8
    config.diffusion.prediction = "v"
    config.diffusion.weighting = "v"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 100
    config.optim.ema_decay = 0.995
    config.train.num_steps = 900
    config.train.batch_size = 64
    config.train.log_every = 50
    config.train.checkpoint_every = 300
    config.train.preview_every = 450
    # Draws as well as 256 ancestral steps: docs/sampling.md.
    config.sampling.solver = "dpmpp_2m"
    config.sampling.eta = 0.5
    config.sampling.num_steps = 16
    return config
