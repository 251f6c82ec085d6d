"""Digits for sweeps over w, p_uncond and T: `digits`, stopped early.

    bash launch/digits_experiment.sh

After the 900 steps of `digits` a sample at w = 0 is more surely of its class than a real digit of
another writer, and any guidance only takes variety away. After 150 it is not, as in the paper,
where the Frechet distance falls before it rises. Two CPU cores, about 40 seconds. Result: see
README.
"""

from configs import digits


def get_config():
    config = digits.get_config()
    config.train.num_steps = 150
    config.train.checkpoint_every = 150
    config.train.preview_every = 0
    config.sampling.num_steps = 16
    return config
