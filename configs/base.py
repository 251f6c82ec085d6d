"""All config keys with units and allowed values. Experiments override only what differs.

The values are those of the CFG paper (Ho & Salimans 2022) if it gives them for all its models, and
those of ADM (Dhariwal & Nichol 2021) if the CFG paper refers to it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # random seed of parameters, data order and noise; >= 0

    config.data = data = ConfigDict()
    data.name = "digits"  # "folder", "npz", "digits", "mixture", or a TFDS name such as "cifar10"
    data.split = "train"  # "train", "test", "all", or a TFDS split such as "train[:90%]"
    data.data_dir = ""  # folder or .npz; of TFDS data sets, "" is ~/tensorflow_datasets
    data.image_size = 0  # pixels after centre crop and area downsampling; 0 for no resizing
    data.channels = 0  # 1 for grey, 3 for colour; 0 for those of the data set
    data.background = "white"  # colour behind transparent parts, such as "black" or "#ff8000"
    data.on_error = "raise"  # for pictures that cannot be decoded; "skip" leaves them out
    data.num_threads = 2  # threads that read and decode ahead; 16 for ImageNet's JPEGs
    data.random_flip = False  # mirror left to right with probability 1/2
    data.min_crop = 1.0  # (0, 1], least fraction of a side that a random crop keeps; 1 for none

    config.network = "unet"  # "unet" for images, "mlp" for points, "classifier" of noisy images
    config.model = model = ConfigDict()  # the network's arguments, see cfg_jax.models
    model.channels = 128  # features at the first resolution
    model.channel_mult = (1, 2, 2, 2)  # width / channels; each resolution halves the last
    model.num_blocks = 2  # residual blocks per resolution
    model.attention_resolutions = (16, 8)  # heights of feature maps with attention, pixels
    model.head_channels = 64  # features per attention head
    model.num_heads = 0  # attention heads at every resolution; 0 derives them from head_channels
    model.qkv_order = "qkv_heads"  # layout of q, k, v in one matrix: "qkv_heads", "heads_qkv"
    model.adagn = True  # condition by scale and shift of a norm; False adds to the features
    model.biggan_updown = True  # resample inside residual blocks; False uses convolutions
    model.rescale_residual = False  # divide every residual sum by sqrt(2)
    model.label_input = "with_null"  # "with_null", "without_null", or "none" for no label input
    model.dropout = 0.0  # [0, 1), rate in residual blocks
    model.norm_groups = 32  # groups of each GroupNorm; must divide every width
    model.dtype = "float32"  # "float32" or "bfloat16", inside the network only
    model.remat = False  # recompute blocks in the backward pass to save memory

    config.diffusion = diffusion = ConfigDict()
    diffusion.schedule = "continuous"  # "continuous" (CFG paper); 1,000 steps: "linear", "cosine"
    diffusion.logsnr_min = -20.0  # noise end of the continuous schedule
    diffusion.logsnr_max = 20.0  # data end of the continuous schedule
    diffusion.prediction = "eps"  # network output: "eps", "x", "v", "x_and_eps"
    diffusion.weighting = "eps"  # loss weighting: "eps", "x", "v", "truncated_snr"
    diffusion.p_uncond = 0.1  # [0, 1], probability of training without the label
    diffusion.learned_variance = False  # C more outputs: exponent between the two variances
    diffusion.vlb_weight = 0.001  # weight of the bound (bits/dim) in the loss of a learned variance
    diffusion.vlb_steps = 1000  # T of the bound, number of network calls
    diffusion.low_res_size = 0  # pixels of an upsampler's input image; 0 for no upsampler

    config.optim = optim = ConfigDict()
    optim.learning_rate = 1e-4
    optim.warmup_steps = 1000  # steps of linear warm-up from zero
    optim.anneal_steps = 0  # step at which a linear decay reaches zero; 0 keeps the rate
    optim.b1 = 0.9
    optim.b2 = 0.999
    optim.weight_decay = 0.0  # weight decay of AdamW
    optim.grad_clip = 1.0  # maximum global norm, after averaging over devices; 0 for none
    optim.ema_decay = 0.9999  # [0, 1), decay of the averaged parameters for sampling

    config.train = train = ConfigDict()
    train.num_steps = 100_000  # optimizer steps
    train.batch_size = 256  # examples per step over all devices
    train.num_microbatches = 1  # sequential parts of a device's batch, to save memory
    train.log_every = 100  # steps between log entries
    train.checkpoint_every = 5_000  # steps between checkpoints
    train.preview_every = 10_000  # steps between sample grids; 0 for none
    train.preview_w = (0.0, 1.0, 3.0)  # guidance weights of sample grids
    train.max_skipped_in_row = 10  # consecutive non-finite steps that stop the run
    train.hang_seconds = 1800  # time without a step that ends the run with all stacks; 0 for never
    train.allow_config_change = False  # resume with different data, model or optimizer settings

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.keep_latest = 2  # number of newest checkpoints
    checkpoint.keep_every = 0  # also keep steps divisible by this; 0 for none
    checkpoint.keep_best = 1  # number with lowest mean training loss since the previous checkpoint

    config.sampling = sampling = ConfigDict()  # defaults of model.sample and cfg-jax sample
    sampling.num_steps = 256  # T, number of network calls
    sampling.respacing = ""  # discrete schedules: "ddim25", "90,60,60,20,20"; "" uses num_steps
    sampling.step = "ancestral"  # "ancestral" or "ddim"
    sampling.logvar_interp = 0.0  # [0, 1], the paper's v
    sampling.clip_x = True  # clip x_hat to [-1, 1] after guidance
    return config
