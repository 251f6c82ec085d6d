"""The ablations of ADM (Dhariwal & Nichol 2021, tables 1 to 3), ImageNet 128 x 128.

    cfg-jax train --config=imagenet128_adm --workdir=runs/adm_base
    cfg-jax train --config=imagenet128_adm --workdir=runs/adm_updown \\
        --config.model.biggan_updown=True

The config is the base of table 1: 160 channels, depth 2, one head, attention at 16 x 16. Its
published FID is 15.33 after 700K iterations and 13.21 after 1200K. The other rows override fields
and change these two values by:

    depth           model.channels=128 model.num_blocks=4             -0.21  -0.48
    heads           model.num_heads=4                                 -0.54  -0.82
    attention       model.attention_resolutions="(32, 16, 8)"         -0.72  -0.66
    BigGAN          model.biggan_updown=True                          -1.20  -1.21
    rescale         model.rescale_residual=True                       +0.16  +0.25
    ADM's choice    heads, attention and BigGAN together              -3.14  -3.00

Table 2, relative to 14.08 for one head: model.num_heads=2, 4, 8 (-0.50, -0.97, -1.17) and, with
model.num_heads=0, model.head_channels=32, 64, 128 (-1.36, -1.03, -1.08). Table 3: model.adagn=True
or False (13.06, 15.08). The paper has the width and attention of those two tables. Linear schedule,
learned variance, lr 1e-4, batch 256, 250 sampling steps; --config.model.dtype=bfloat16 instead of
ADM's float16. Hardware, time and our score: not yet run.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.name = "imagenet2012"
    config.data.image_size = 128
    config.data.random_flip = True
    config.data.num_threads = 16
    config.model.channels = 160
    config.model.channel_mult = (1, 1, 2, 3, 4)
    config.model.attention_resolutions = (16,)
    config.model.num_heads = 1
    config.model.biggan_updown = False
    config.model.label_input = "without_null"
    config.model.dtype = "bfloat16"
    config.diffusion.schedule = "linear"
    config.diffusion.learned_variance = True
    config.diffusion.p_uncond = 0.0
    config.optim.warmup_steps = 0
    config.optim.grad_clip = 0.0
    config.train.num_steps = 1_200_000
    config.sampling.num_steps = 250
    return config
