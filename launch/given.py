"""The flag --samples: images of any program, evaluated in place of samples of a model."""

from absl import flags

from . import features
from .values import refuse

SAMPLES = flags.DEFINE_string(
    "samples",
    None,
    "Images to evaluate with --metrics in place of samples of the model: an .npz with images or "
    "arr_0, uint8 [N, H, W, C], or a folder of pictures or of the .npz files of sample.",
)


def check(workdir: str | None, without_effect: tuple[str, ...]) -> None:
    """Raises ValueError if --samples conflicts with these flags, or --workdir is missing."""
    if SAMPLES.value is not None:
        if not SAMPLES.value:
            raise ValueError("--samples is empty: give a folder or an .npz, or leave it out")
        refuse(without_effect, "has no effect on --samples: leave it out")
    network = features.INCEPTION.value or features.FEATURES_WORKDIR.value
    if workdir or (SAMPLES.value and features.REFERENCE.value and network):
        return
    if SAMPLES.value:
        raise ValueError(
            "--samples needs --workdir, whose data it is compared with, or --reference with "
            "--inception or --features_workdir"
        )
    raise ValueError("--workdir is missing (--help lists the flags)")


def load(workdir: str | None) -> tuple:
    """(images of --samples, model of --workdir or None, folder that keeps the results).

    Raises ValueError for images that cannot be read or have another shape than the model's.
    """
    from cfg_jax.evaluation import open_images
    from cfg_jax.io import files
    from cfg_jax.sampling.loading import load_model

    model = load_model(workdir) if workdir else None
    images = open_images(SAMPLES.value, channels=model and model.shape[2])
    if model and images.shape != model.shape:
        raise ValueError(
            f"--samples={SAMPLES.value} has images of {images.shape}, the data of --workdir "
            f"{model.shape}: give images of the same size"
        )
    return images, model, files.folder(workdir) if workdir else files.folder(SAMPLES.value).parent
