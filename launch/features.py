"""Through which network does a program compare images, and with which real ones?

Flags that evaluation and sweeps share, and what they name. The feature network of the digits is
trained where it is first needed; Inception's weights are given with --inception, never fetched.
"""

from pathlib import Path

from absl import flags

INCEPTION = flags.DEFINE_string(
    "inception", None, "File of Inception's weights: .safetensors, .pth or .pb."
)
FEATURES_WORKDIR = flags.DEFINE_string(
    "features_workdir", None, "Folder of a classifier's run to compare images through instead."
)
REFERENCE = flags.DEFINE_string(
    "reference", None, "Statistics .npz of ours, ADM or pytorch-fid, instead of --split."
)


def feature_network(model, workdir: str | Path):
    """The network that the flags name; for digits a classifier in `<workdir>/features`.

    Raises:
      ValueError: both flags, or none for other data than digits.
    """
    from cfg_jax.evaluation import networks
    from cfg_jax.io import files
    from cfg_jax.metrics.inception_weights import ORIGIN
    from cfg_jax.sampling.model import load_classifier
    from configs import digits_features

    if INCEPTION.value and FEATURES_WORKDIR.value:
        raise ValueError("--inception and --features_workdir: give one of them")
    if INCEPTION.value:
        return networks.inception_network(INCEPTION.value)
    if FEATURES_WORKDIR.value:
        return networks.trained_network(load_classifier(FEATURES_WORKDIR.value))
    if model.config.data.name != "digits":
        raise ValueError(
            f"--inception is not given, and {model.config.data.name} has no feature network of its "
            f"own: {ORIGIN}; or give --features_workdir"
        )
    config = digits_features.get_config()
    config.data.data_dir = model.config.data.data_dir
    classifier = networks.trained_once(config, files.folder(workdir) / "features")
    return networks.trained_network(classifier)


def reference(model, network, folder: str | Path, *, split: str | None, with_rows: bool):
    """The reference that --reference names, or that of a split of the model's data.

    Args:
      split: None for the one that the model was trained on.
      with_rows: also the features, for precision and recall.
    """
    from cfg_jax import evaluation
    from cfg_jax.evaluation.likelihood import open_data

    if REFERENCE.value:
        return evaluation.file_reference(network, REFERENCE.value, with_rows=with_rows)
    config = model.config.data
    return evaluation.data_reference(
        network,
        open_data(model, split or config.split),
        folder,
        with_rows=with_rows,
        num_threads=config.num_threads,
    )
