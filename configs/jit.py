"""Training of a published JiT network on ImageNet (Li & He 2025, arXiv 2511.13720, table 9).

    cfg-jax train --config=imagenet256_jit_b16 --workdir=runs/imagenet256_jit_b16

The other configs imagenet*_jit_* change the name only. From the paper and its program: batch 1024,
Adam with b1 0.9 and b2 0.95, lr 2e-4 after a linear warm-up of 5 epochs, no weight decay, no
clipping, 600 epochs of 1251 steps, ADM's crops and flips, labels dropped with probability 0.1,
log-SNRs of t = sigmoid(N(-0.8, 0.8^2)), loss on velocities, bfloat16 inside the network, EMA
0.9999. Different here: the EMA warms up, min(decay, (1 + n) / (10 + n)) at step n, and the
original's does not; the paper picks the best of three decays per network.

Previews are drawn with the published sampler, at w = 0 and at the published w.
"""

from cfg_jax.config import fields
from cfg_jax.interop import jit_configs
from configs import base

EPOCH = 1251  # steps: 1,281,167 images in full batches of 1024


def get_config(name: str = "JiT-B/16"):
    config = base.get_config()
    config.model = fields.transformer()
    config.update_from_flattened_dict(jit_configs.settings(name))
    config.data.random_flip = True
    config.data.num_threads = 16
    config.model.dtype = "bfloat16"
    config.optim.learning_rate = 2e-4
    config.optim.warmup_steps = 5 * EPOCH
    config.optim.b2 = 0.95
    config.optim.grad_clip = 0.0
    config.train.num_steps = 600 * EPOCH
    config.train.batch_size = 1024
    config.train.preview_w = (0.0, jit_configs.PUBLISHED_W[name])
    return config
