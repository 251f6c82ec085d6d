"""A run of version 0.1.0, made on two devices with the config of `tests.tiny`.

`tests/golden/run_0.1.0.tar.xz` holds the run's folder with a finished evaluation, a folder of 40
samples, and `expected.npz` with that version's samples and its averaged parameters two steps later.
The results are bit-identical on the original machine; the tolerances allow for other compilers.
"""

import json
import shutil
import tarfile

import jax
import numpy as np
import pytest

import cfg_jax
from cfg_jax import evaluation
from cfg_jax.evaluation import Samples, SamplingSettings
from cfg_jax.sampling import shards
from cfg_jax.training.run import train
from tests import compiled
from tests.made_up import GOLDEN
from tests.plain_network import ALL_METRICS, noise_reference, plain_network
from tests.programs import run_program
from tests.tiny import parameters, records, tiny_config

pytestmark = pytest.mark.compat


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(GOLDEN / "run_0.1.0.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "run_0.1.0"


@pytest.fixture(scope="module")
def expected(old):
    with np.load(old / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model(old):
    return cfg_jax.load(old / "run")


def test_an_old_run_samples_as_it_did(old, expected, tmp_path):
    job = json.dumps({"do": "sample_cases", "workdir": str(old / "run"), "folder": f"{tmp_path}/x"})
    optimized = {"XLA_FLAGS": compiled.xla_flags(2, optimized=True)}
    done = run_program("tests.process_driver", f"--job={job}", environment=optimized)
    assert done.returncode == 0, done
    with np.load(tmp_path / "x_0.npz") as drawn:
        cases = dict(drawn)
    assert len(cases) == 4
    for case, x in cases.items():
        np.testing.assert_allclose(x, expected[f"x_{case}"], rtol=1e-5, atol=1e-5, err_msg=case)


def test_an_old_run_is_resumed_to_the_same_end(old, expected, data_dir, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(old / "run", workdir)
    train(tiny_config(**{"data.data_dir": data_dir, "train.num_steps": 6}), workdir)
    leaves = jax.tree_util.tree_leaves_with_path(parameters(workdir))
    found = {f"ema/{jax.tree_util.keystr(k, simple=True, separator='/')}": v for k, v in leaves}
    assert found.keys() == {name for name in expected if name.startswith("ema/")}
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=2e-6, err_msg=name)
    old_records = [json.loads(line) for line in (old / "records.jsonl").read_text().splitlines()]
    for ours, theirs in zip(records(workdir), old_records, strict=True):
        assert ours.keys() - {"learning_rate"} == theirs.keys()  # added later
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_an_old_result_is_read_back_for_the_same_request(old, model):
    network = plain_network(spatial=True)
    folder = old / "run" / "evaluations"
    (path,) = folder.glob("*/result_*.json")
    before = path.read_bytes()
    result = evaluation.evaluate(
        Samples(model, 20, sampling=SamplingSettings(w=1.5)),
        network,
        noise_reference(network),
        folder=folder,
        metrics=ALL_METRICS,
    )
    assert result.path == path and path.read_bytes() == before


def test_an_old_folder_of_samples_is_complete_for_the_same_request(old, model):
    folder = old / "samples"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    samples = Samples(model, 40, sampling=SamplingSettings(w=1.5, num_steps=4))
    shards.sample_to_files(samples, folder, shard_size=20, batch_size=20)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
