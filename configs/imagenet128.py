"""ImageNet 128 x 128 of the CFG paper (Ho & Salimans 2022), table 2 and figure 5.

    pip install -e '.[tf]' && cfg-jax prepare --dataset=imagenet2012 --manual_dir=...
    cfg-jax train --config=imagenet128 --workdir=runs/imagenet128

From the paper: log-SNR +-20, v = 0.2, 2.7M steps, T in 128, 256, 1024; ADM's network and optimizer
(Dhariwal & Nichol 2021, table 11) by reference. As in imagenet64, since not given: p_uncond (0.1
and 0.2 are about equal at 64 x 64), warm-up, gradient clipping, flips, clipping of x_hat.
Published: FID 2.43 and IS 158.47 at w = 0.3, T = 256. Hardware, time and our score: not yet run.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.name = "imagenet2012"
    config.data.image_size = 128
    config.data.random_flip = True
    config.data.num_threads = 16
    config.model.channels = 256
    config.model.channel_mult = (1, 1, 2, 3, 4)
    config.model.num_blocks = 2
    config.model.attention_resolutions = (32, 16, 8)
    config.model.num_heads = 4
    config.model.dtype = "bfloat16"
    config.train.num_steps = 2_700_000
    config.train.batch_size = 256
    config.sampling.logvar_interp = 0.2
    return config
