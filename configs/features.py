"""A classifier of clean images, the feature network of `cfg-jax evaluate` for any labelled data.

`cfg-jax evaluate` trains it into the folder `features` of the evaluated run if --inception and
--features_workdir are not given. `digits_features` is that of the digits.
"""

from ml_collections import ConfigDict

from configs import digits_features
from configs.folder import attention, levels


def config_of(run: ConfigDict, side: int, count: int) -> ConfigDict:
    """The classifier for the data of a run: images of `side` pixels, `count` to train on.

    About 20 epochs, from 300 to 5,000 steps.
    """
    config = digits_features.get_config()
    for name in ("name", "split", "data_dir", "image_size", "channels", "background", "on_error"):
        config.data[name] = run.data[name]
    config.data.random_flip = run.data.random_flip
    if run.data.name == "digits":
        return config
    config.model.channel_mult = (1, 2, 2, 2)[: levels(side)]
    config.model.attention_resolutions = attention(side)
    num_steps = min(max(20 * count // config.train.batch_size, 300), 5000)
    config.optim.anneal_steps = config.train.num_steps = num_steps
    config.train.checkpoint_every = num_steps
    return config
