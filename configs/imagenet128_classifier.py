"""ADM's classifier of noisy 128 x 128 images (Dhariwal & Nichol 2021, table 12).

    cfg-jax train --config=imagenet128_classifier \\
        --workdir=runs/imagenet128_classifier
    cfg-jax sample --workdir=runs/imagenet128 --w=-1 --labels=0,207,979 \\
        --classifier_workdir=runs/imagenet128_classifier --classifier_w=1

It guides `configs/imagenet128.py` and equals imagenet64_classifier.py except for depth 2, weight
decay 0.05, batch 256 and learning rate 3e-4. ADM's own 128 x 128 model has
--config.diffusion.schedule=linear. Published for it: 43M parameters; scale 0.5 at 250 steps, 1.25
at 25 DDIM steps. Hardware, time and our score: not yet run.
"""

from configs import imagenet64_classifier


def get_config():
    config = imagenet64_classifier.get_config()
    config.data.image_size = 128
    config.model.channel_mult = (1, 1, 2, 3, 4)
    config.model.num_blocks = 2
    config.optim.learning_rate = 3e-4
    config.optim.weight_decay = 0.05
    config.train.batch_size = 256
    return config
