"""ImageNet 64 x 64 of the CFG paper (Ho & Salimans 2022), table 1 and figure 4.

    pip install -e '.[tf]' && cfg-jax prepare --dataset=imagenet2012 --manual_dir=...
    cfg-jax train --config=imagenet64 --workdir=runs/imagenet64

From the paper: log-SNR +-20, p_uncond 0.1 (it also studies 0.2 and 0.5), v = 0.3, 400k steps; ADM's
network and optimizer (Dhariwal & Nichol 2021, table 11) by reference. Not given there: warm-up and
gradient clipping, which follow Salimans & Ho 2022 (arXiv 2202.00512); flips and clipping of x_hat,
both on; T of this table, assumed 256. Published: FID 1.55 and IS 66.11 at w = 0.1. Hardware, time
and our score: not yet run.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.name = "imagenet2012"
    config.data.image_size = 64
    config.data.random_flip = True
    config.data.num_threads = 16
    config.model.channels = 192
    config.model.channel_mult = (1, 2, 3, 4)
    config.model.num_blocks = 3
    config.model.attention_resolutions = (32, 16, 8)
    config.model.dropout = 0.1
    config.model.dtype = "bfloat16"
    config.optim.learning_rate = 3e-4
    config.train.num_steps = 400_000
    config.train.batch_size = 2048
    config.sampling.logvar_interp = 0.3
    return config
