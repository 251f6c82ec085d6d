"""CIFAR-10, 32 x 32, class-conditional with 10 labels. Not an experiment of the CFG paper.

    pip install -e '.[tf]' && python -m launch.prepare --dataset=cifar10
    python -m launch.train --config=configs/cifar10.py --workdir=runs/cifar10

Width 128, three blocks, dropout 0.3 and 500k steps at batch 128 are those of Nichol & Dhariwal 2021
(arXiv 2102.09672) for this data set; the rest is ours. Hardware, time and score: not yet run.
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
