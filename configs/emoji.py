"""Emojis in colour, 32 x 32 pixels, in twelve classes.

    pip install -e '.[emoji]'
    cfg-jax train --config=emoji --workdir=runs/emoji

The pictures are drawn from the font of OpenMoji (CC BY-SA 4.0). About 76 minutes on two CPU cores,
which run at 28 images a second. The sizes are our choice; `bash launch/emoji.sh` makes the result
in docs/emoji.md.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.name = "emoji"
    config.data.random_flip = True
    config.model.channels = 24
    config.model.channel_mult = (1, 2, 4)
    config.model.num_blocks = 1
    config.model.attention_resolutions = (8,)
    config.model.head_channels = 24
    config.model.norm_groups = 8
    config.model.dropout = 0.1
    config.diffusion.prediction = "v"
    config.diffusion.weighting = "v"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 200
    config.optim.anneal_steps = 4000
    config.optim.ema_decay = 0.995
    config.train.num_steps = 4000
    config.train.batch_size = 32
    config.train.log_every = 50
    config.train.checkpoint_every = 250
    config.train.preview_every = 1000
    config.sampling.num_steps = 128
    return config
