"""Eight CPU devices and strict array promotion for the whole suite."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_experimental_ynn_fusion_type=",  # see launch/environment.sh
    ]
)

import jax  # noqa: E402  (XLA reads its flags when the backend starts)
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Programs that several tests compile are compiled once for each session."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where the suite keeps the digits, prepared once."""
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, data_dir):
    """The workdir of a finished four-step run of `tiny_config` on eight devices."""
    from cfg_jax.training.run import train
    from tests.tiny import tiny_config

    workdir = tmp_path_factory.mktemp("tiny_run")
    train(tiny_config(**{"data.data_dir": data_dir, "train.preview_every": 4}), workdir)
    return workdir


@pytest.fixture(scope="session")
def tiny_classifier_run(tmp_path_factory, data_dir):
    """The workdir of a finished four-step run of `tiny_classifier`, of a `PixelClassifier`.

    To load it as what it is needs `pixel_networks`.
    """
    from cfg_jax.training.run import train
    from tests.tiny import pixel_networks, tiny_classifier

    workdir = tmp_path_factory.mktemp("tiny_classifier_run")
    with pixel_networks():
        train(tiny_classifier(**{"data.data_dir": data_dir}), workdir)
    return workdir
