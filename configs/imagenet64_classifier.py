"""ADM's classifier of noisy 64 x 64 images (Dhariwal & Nichol 2021, table 12).

    cfg-jax train --config=imagenet64_classifier \\
        --workdir=runs/imagenet64_classifier
    cfg-jax sample --workdir=runs/imagenet64 --w=-1 --labels=0,207,979 \\
        --classifier_workdir=runs/imagenet64_classifier --classifier_w=1

It guides `configs/imagenet64.py` and has the same noise. From the table: 128 channels, depth 4, 64
channels per head, weight decay 0.2, batch 1024, 300K iterations, learning rate 6e-4. From the
command published with ADM's code: linear decay of the rate to zero, crops of at least 0.8 of a
side. ADM's own 64 x 64 model has --config.diffusion.schedule=cosine. Published for it: 65M
parameters, scale 1.0 at 250 steps. Hardware, time and our score: not yet run.
"""

from configs import imagenet64


def get_config():
    config = imagenet64.get_config()
    config.network = "classifier"
    del config.model.label_input  # the classifier sees no label
    config.data.min_crop = 0.8
    config.model.channels = 128
    config.model.num_blocks = 4
    config.model.dropout = 0.0
    config.diffusion.p_uncond = 0.0
    config.optim.learning_rate = 6e-4
    config.optim.weight_decay = 0.2
    config.optim.warmup_steps = 0
    config.optim.anneal_steps = 300_000
    config.optim.grad_clip = 0.0
    config.optim.ema_decay = 0.0
    config.train.num_steps = 300_000
    config.train.batch_size = 1024
    config.train.preview_every = 0
    return config
