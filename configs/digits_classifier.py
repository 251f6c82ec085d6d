"""A classifier of noisy digits, to guide `configs/digits.py` with.

    python -m launch.train --config=configs/digits_classifier.py --workdir=runs/digits_classifier

The U-Net's trunk with attention pooling (Dhariwal & Nichol 2021, section 4) on the noise, the
schedule and the data of the digits' model. Crops are milder than ADM's 0.8 of a side: enlarged
again to 8 x 8, they are unlike what is to be guided. Two CPU cores, about a minute. Result: see
README, made by `bash launch/demo.sh`.
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
