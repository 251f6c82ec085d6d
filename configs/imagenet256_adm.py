"""ADM at 256 x 256 (Dhariwal & Nichol 2021, tables 4, 5 and 11), 554M parameters.

    pip install -e '.[tf]' && cfg-jax prepare --dataset=imagenet2012 --manual_dir=...
    cfg-jax train --config=imagenet256_adm --workdir=runs/imagenet256_adm

From table 11: 256 channels, depth 2, heads of 64 channels, attention at 32, 16 and 8, BigGAN up-
and downsampling, AdaGN, linear schedule, learned variance, no dropout, batch 256, lr 1e-4, 1980K
steps, 250 sampling steps. The network uses bfloat16 instead of float16. Published: FID 10.94 and IS
100.98; with the classifier at scale 1, FID 4.59 and IS 186.70. Hardware, time and our score: not
yet run.
"""

from configs import imagenet128_adm


def get_config():
    config = imagenet128_adm.get_config()
    config.data.image_size = 256
    config.model.channels = 256
    config.model.channel_mult = (1, 1, 2, 2, 4, 4)
    config.model.attention_resolutions = (32, 16, 8)
    config.model.num_heads = 0
    config.model.head_channels = 64
    config.model.biggan_updown = True
    config.train.num_steps = 1_980_000
    return config
