"""Three Gaussian classes in the plane, after the paper's figure 2, with a learned denoiser.

    cfg-jax train --config=mixture --workdir=runs/mixture
    cfg-jax sample --workdir=runs/mixture --w=0,1,3 --labels=all --samples_per_label=500

`cfg-jax mixture` makes the figure of the exact denoiser; tests/test_long.py bounds the
difference of the learned one.
"""

from ml_collections import ConfigDict

from configs import base


def get_config():
    config = base.get_config()
    config.data.name = "mixture"
    config.data.std = 0.25  # standard deviation of every class in every direction
    config.data.size = 20_000  # number of points
    config.network = "mlp"
    config.model = ConfigDict({"channels": 128, "num_blocks": 3, "dropout": 0.0})
    config.diffusion.prediction = "v"
    config.diffusion.weighting = "v"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 100
    config.optim.ema_decay = 0.995
    config.train.num_steps = 3_000
    config.train.batch_size = 256
    config.train.checkpoint_every = 1_000
    config.train.preview_every = 1_000
    config.sampling.num_steps = 64
    config.sampling.clip_x = False
    return config
