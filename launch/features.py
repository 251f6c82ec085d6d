"""Flags of the feature network and the reference data, shared by evaluation and sweeps."""

from pathlib import Path

from absl import flags

INCEPTION = flags.DEFINE_string(
    "inception",
    None,
    "File of FID Inception weights: .safetensors, .pth or .pb. If unset, features are those of "
    "--features_workdir, or else of a small classifier of the data, trained on first use.",
)
FEATURES_WORKDIR = flags.DEFINE_string(
    "features_workdir",
    None,
    "Folder of the training run of a classifier that embeds images; conflicts with --inception.",
)
REFERENCE = flags.DEFINE_string(
    "reference",
    None,
    "File with statistics of real images for --metrics: .npz of cfg_jax, ADM, pytorch-fid or "
    "JiT. If unset, statistics are computed from --split.",
)
METRICS = flags.DEFINE_list(
    "metrics",
    [],
    "Comma-separated metrics of generated samples: fid, sfid, is, precision_recall.",
)
SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Split of the data set, such as test.",
)


def network_and_reference(model, workdir: str | Path):
    """The feature network and the reference requested by the flags.

    If no network is given, it is a classifier in `<workdir>/features` of the model, trained on
    first use after all checks of the flags. `<workdir>/evaluations` keeps the reference. The model
    may be None with --reference and a network.
    Raises ValueError for two networks; for data of one class without a network; for missing
    weights, split or statistics; and for sfid without spatial features.
    """
    from cfg_jax import evaluation
    from cfg_jax.evaluation.likelihood import open_data
    from cfg_jax.io import files
    from cfg_jax.metrics import load_statistics

    source = None
    if REFERENCE.value:
        saved = load_statistics(REFERENCE.value)
    else:
        source = open_data(model, SPLIT.value or model.config.data.split)
    if "sfid" in METRICS.value and (not INCEPTION.value or (not source and saved.spatial is None)):
        raise ValueError(
            "--metrics=sfid needs spatial features: give --inception, and no --reference "
            "without them, or leave sfid out"
        )
    chosen = network(model, files.folder(workdir))
    with_rows = "precision_recall" in METRICS.value
    if source is None:
        return chosen, evaluation.file_reference(chosen, REFERENCE.value, with_rows=with_rows)
    return chosen, evaluation.data_reference(
        chosen,
        source,
        files.folder(workdir) / "evaluations",
        with_rows=with_rows,
        num_threads=model.config.data.num_threads,
    )


def network(model, workdir: Path):
    """The feature network requested by the flags, as `network_and_reference`."""
    from cfg_jax.evaluation import networks
    from cfg_jax.evaluation.likelihood import open_data
    from cfg_jax.metrics.inception_weights import ORIGIN
    from cfg_jax.sampling.loading import load_classifier
    from configs import digits_features

    if INCEPTION.value and FEATURES_WORKDIR.value:
        raise ValueError("--inception and --features_workdir: give one of them")
    if INCEPTION.value:
        return networks.inception_network(INCEPTION.value)
    if FEATURES_WORKDIR.value:
        return networks.trained_network(load_classifier(FEATURES_WORKDIR.value))
    data = model.config.data
    if len(model.label_names) < 2:
        raise ValueError(
            f"{data.name} has one class, and a feature network of its own needs two: give "
            f"--inception ({ORIGIN}) or --features_workdir"
        )
    counts = model.class_counts
    count = sum(counts) if counts else len(open_data(model, data.split))
    config = digits_features.for_data(data, model.shape[0], count)
    return networks.trained_network(networks.trained_once(config, workdir / "features"))
