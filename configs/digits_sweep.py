"""`digits` stopped early, for sweeps over w, p_uncond and T.

    bash launch/digits_experiment.sh

After the 900 steps of `digits`, a sample at w = 0 is classified with more confidence than a real
digit by another writer, so guidance only reduces variety. After 150 steps it is not: as in the
paper, the Frechet distance first falls with w. About 40 seconds on two CPU cores. Result:
docs/digits.md.
"""

from configs import digits


def get_config():
    config = digits.get_config()
    config.train.num_steps = 150
    config.train.checkpoint_every = 150
    config.train.preview_every = 0
    config.sampling.solver = "ancestral"
    config.sampling.eta = 0.0
    config.sampling.num_steps = 16
    return config
