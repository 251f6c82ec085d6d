"""Every key once, with its unit and what it may be. Experiments override only what differs.

Not an experiment: its values are those of the CFG paper (Ho & Salimans 2022) where the paper gives
them for all its models, and of ADM (Dhariwal & Nichol 2021) where the CFG paper refers to it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of parameters, data order, noise; >= 0

    config.data = data = ConfigDict()
    data.name = "digits"  # "digits", "mixture", or a TFDS name such as "cifar10"
    data.split = "train"  # TFDS split, e.g. "train[:90%]"
    data.data_dir = ""  # where data sets live; "" is the TFDS default, ~/tensorflow_datasets
    data.image_size = 0  # pixels, to centre-crop and area-downsample to; 0 leaves images alone
    data.num_threads = 2  # that read and decode ahead; 16 for ImageNet's JPEGs
    data.random_flip = False  # mirror left to right with probability 1/2
    data.min_crop = 1.0  # (0, 1], least share of an image that a random crop keeps; 1 for none

    config.network = "unet"  # "unet" for images, "mlp" for points, "classifier" of noisy images
    config.model = model = ConfigDict()  # the network's arguments, see cfg_jax.models
    model.channels = 128  # at the first resolution
    model.channel_mult = (1, 2, 2, 2)  # per resolution, each half the one before
    model.num_blocks = 2  # residual blocks per resolution
    model.attention_resolutions = (16, 8)  # heights in pixels
    model.head_channels = 64  # features per attention head
    model.num_heads = 0  # their number where it is fixed instead; 0 for head_channels
    model.qkv_order = "qkv_heads"  # layout of q, k, v in one matrix: "qkv_heads", "heads_qkv"
    model.adagn = True  # condition by scale and shift of a norm; False adds to the features
    model.biggan_updown = True  # resample inside residual blocks; False by convolutions
    model.rescale_residual = False  # divide every residual sum by sqrt(2)
    model.label_input = "with_null"  # "with_null", "without_null", or "none": no labels at all
    model.dropout = 0.0  # [0, 1)
    model.norm_groups = 32  # divides every width
    model.dtype = "float32"  # "float32" or "bfloat16", inside the network only
    model.remat = False  # recompute block insides in the backward pass

    config.diffusion = diffusion = ConfigDict()
    diffusion.schedule = "continuous"  # the CFG paper's; or 1,000 steps, "linear" or "cosine"
    diffusion.logsnr_min = -20.0  # noise end of the continuous schedule
    diffusion.logsnr_max = 20.0  # its data end
    diffusion.prediction = "eps"  # the network's output: "eps", "x", "v", "x_and_eps"
    diffusion.weighting = "eps"  # the loss: "eps", "x", "v", "truncated_snr"
    diffusion.p_uncond = 0.1  # [0, 1], probability of training without the label
    diffusion.learned_variance = False  # C more outputs, the exponent between the two variances
    diffusion.vlb_weight = 0.001  # of the bound in its loss, times vlb_steps; the rest is as above
    diffusion.vlb_steps = 1000  # T of the bound that the variance is trained for
    diffusion.low_res_size = 0  # pixels of the image that an upsampler is given; 0 for none

    config.optim = optim = ConfigDict()
    optim.learning_rate = 1e-4
    optim.warmup_steps = 1000  # linear, from zero
    optim.anneal_steps = 0  # linear, to zero at this step; 0 keeps the rate
    optim.b1 = 0.9
    optim.b2 = 0.999
    optim.weight_decay = 0.0  # AdamW's
    optim.grad_clip = 1.0  # global norm, after averaging over devices; 0 for none
    optim.ema_decay = 0.9999  # [0, 1), of the averaged parameters that sampling uses

    config.train = train = ConfigDict()
    train.num_steps = 100_000  # optimizer steps
    train.batch_size = 256  # examples per step over all devices
    train.num_microbatches = 1  # parts a device's batch is computed in, for memory
    train.log_every = 100  # steps
    train.checkpoint_every = 5_000  # steps
    train.preview_every = 10_000  # steps between sample grids; 0 for none
    train.preview_w = (0.0, 1.0, 3.0)  # guidance weights of the grid
    train.max_skipped_in_row = 10  # non-finite steps in a row that stop the run
    train.hang_seconds = 1800  # without a step end the run with all stacks; 0 for never
    train.allow_config_change = False  # resume although data, model or optimizer settings differ

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.keep_latest = 2
    checkpoint.keep_every = 0  # steps; 0 keeps none beyond the latest and best
    checkpoint.keep_best = 1  # by mean training loss since the checkpoint before

    config.sampling = sampling = ConfigDict()  # defaults of model.sample and launch.sample
    sampling.num_steps = 256  # T, network calls
    sampling.respacing = ""  # discrete schedules: "ddim25", "90,60,60,20,20"; "" for T evenly
    sampling.step = "ancestral"  # "ancestral" or "ddim"
    sampling.logvar_interp = 0.0  # [0, 1], the paper's v
    sampling.clip_x = True  # clip x_hat to [-1, 1] after guidance
    return config
