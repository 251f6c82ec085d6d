"""A classifier of noisy digits that guides `configs/digits.py`.

    cfg-jax train --config=digits_classifier --workdir=runs/digits_classifier

The U-Net's trunk with attention pooling (Dhariwal & Nichol 2021, section 4), with the noise
schedule and data of `digits`. min_crop exceeds ADM's 0.8, because smaller crops, enlarged to 8 x 8,
do not look like samples. About a minute on two CPU cores. `bash launch/demo.sh` makes the result in
docs/digits.md.
"""

from configs import digits


def get_config():
    config = digits.get_config()
    config.network = "classifier"
    config.data.min_crop = 0.85
    del config.model.label_input  # the classifier sees no label
    config.model.dropout = 0.1
    config.diffusion.p_uncond = 0.0
    config.optim.weight_decay = 0.05
    config.train.num_steps = 900
    config.train.preview_every = 0
    return config
