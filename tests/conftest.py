"""Two CPU devices, strict array promotion, one compilation cache, and shared runs.

    CFG_JAX_TEST_DEVICES=8    number of devices
    CFG_JAX_TEST_CACHE=/a/b   cache folder, default .cache/compiled-...

Programs started by tests inherit both through jax's environment variables.
"""

import gc
import os
from pathlib import Path

from tests import compiled

_DEVICES = int(os.environ.get("CFG_JAX_TEST_DEVICES", 2))
os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": compiled.xla_flags(_DEVICES)}
os.environ |= compiled.environment()

import jax  # noqa: E402  (it reads the environment when it is imported)
import pytest  # noqa: E402

from tests.once import once  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # before any worker reads it
        compiled.discard_unfinished()


# Slow files in the order in which workers take them, so none is left for the end.
SLOWEST_FIRST = [
    *("test_long", "test_faults", "test_processes", "test_openai", "test_model", "test_evaluation"),
    *("test_models", "test_train", "test_programs", "test_readme", "test_likelihood"),
    *("test_noisy_classifier", "test_old_run", "test_losses", "test_checkpoint", "test_samplers"),
]


def pytest_collection_modifyitems(items):
    place = {name: place for place, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


MOST_MAPS = 30_000
"""Memory maps of a worker; the kernel allows 65,530, and a compiled program takes about ten."""


@pytest.fixture(scope="module", autouse=True)
def fewer_programs():
    """Drops compiled programs between files, before one has no memory map left and XLA crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Data folder with the digits, prepared once per session."""
    from cfg_jax import data

    def prepare(folder):
        data.open_source("digits", "train", data_dir=str(folder))

    return str(once(tmp_path_factory, "data", prepare))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, data_dir):
    """Workdir of a finished four-step run of `tiny_config`."""
    from cfg_jax.training.run import train
    from tests.tiny import tiny_config

    config = tiny_config(**{"data.data_dir": data_dir, "train.preview_every": 4})
    return once(tmp_path_factory, "tiny_run", lambda workdir: train(config, workdir))


@pytest.fixture(scope="session")
def tiny_classifier_run(tmp_path_factory, data_dir):
    """Workdir of a four-step run of `tiny_classifier`; loading it needs `pixel_networks`."""
    from cfg_jax.training.run import train
    from tests.tiny import pixel_networks, tiny_classifier

    def run(workdir):
        with pixel_networks():
            train(tiny_classifier(**{"data.data_dir": data_dir}), workdir)

    return once(tmp_path_factory, "tiny_classifier_run", run)


@pytest.fixture(autouse=True)
def optimized_programs_in_long_tests(request, monkeypatch):
    """Programs that a long test starts are compiled as for users."""
    if request.node.get_closest_marker("long"):
        monkeypatch.setenv(compiled.OPTIMIZED, "1")
