"""CIFAR-10, 32 x 32, class-conditional with 10 labels. Not in the CFG paper.

    pip install -e '.[tf]' && cfg-jax prepare --dataset=cifar10
    cfg-jax train --config=cifar10 --workdir=runs/cifar10

Nichol & Dhariwal 2021 (arXiv 2102.09672) use width 128, three blocks, dropout 0.3 and 500k steps at
batch 128 for this data set; the rest is our choice. Hardware, time and score: not yet run.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.data.name = "cifar10"
    config.data.random_flip = True
    config.model.num_blocks = 3
    config.model.dropout = 0.3
    config.model.dtype = "bfloat16"
    config.optim.learning_rate = 2e-4
    config.train.num_steps = 500_000
    config.train.batch_size = 128
    return config
