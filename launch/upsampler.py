"""Flags of the upsampler that enlarges the samples of a strip."""

from absl import flags

from . import flags as sampling

WORKDIR = flags.DEFINE_string(
    "upsampler_workdir",
    None,
    "Folder of the training run of an upsampler that enlarges the samples; not with --num_samples.",
)
_NUM_STEPS = flags.DEFINE_integer(
    "upsampler_num_steps",
    None,
    "Number of sampling steps T of the upsampler, at least 2; if unset, the value in its config.",
    2,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "upsampler_batch_size", None, "Number of images upsampled at a time; --batch_size if unset.", 1
)
FLAGS = ["upsampler_workdir", "upsampler_num_steps", "upsampler_batch_size"]


def load():
    """The `Upsampler` requested by the flags, or None."""
    from cfg_jax.sampling import loading, strips

    if not WORKDIR.value:
        return None
    return strips.Upsampler(
        loading.load_model(WORKDIR.value),
        strips.SamplingSettings(num_steps=_NUM_STEPS.value),
        _BATCH_SIZE.value or sampling.BATCH_SIZE.value,
    )
