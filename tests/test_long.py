"""Complete programs as users run them, for minutes; several tests share a run of the demo."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax import evaluation
from cfg_jax.core.oracles import triangle
from cfg_jax.core.types import eps_of
from cfg_jax.evaluation import likelihood
from tests.programs import ROOT, environment, run_program

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder of the demo's model, and its standard output."""
    workdir = tmp_path_factory.mktemp("demo") / "digits"
    settings = environment(
        WORKDIR=str(workdir), VENV=sys.prefix, XLA_FLAGS=None
    )  # compiled as for users
    done = subprocess.run(
        ["bash", "launch/demo.sh"], cwd=ROOT, env=settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(workdir=workdir, stdout=done.stdout)


def test_the_demo_trains_samples_and_passes_its_own_judgement(demo):
    assert "real images" in demo.stdout and "w = 3" in demo.stdout
    assert "w = -1, classifier 8" in demo.stdout
    headings = [line for line in demo.stdout.splitlines() if line.startswith("== ")]
    assert [heading.split(":")[0] for heading in headings] == [f"== {n} of 5" for n in range(1, 6)]
    picture = demo.stdout.splitlines()[-1].removeprefix("picture of the samples: ")
    assert Path(picture).is_file() and picture.endswith(".png")
    # Last table: the noisy classifier is accurate on clean digits, at chance at logsnr_min.
    rows = [line.split() for line in demo.stdout.splitlines() if line.strip()]
    start = rows.index(["logsnr", "accuracy"]) + 1
    levels = [(float(logsnr), float(found)) for logsnr, found in rows[start : start + 11]]
    assert levels[0][0] == -20 and abs(levels[0][1] - 0.1) < 0.06
    assert levels[-1][0] == 20 and levels[-1][1] >= 0.95
    assert len(list((demo.workdir / "samples").glob("*.png"))) == 1
    record = (demo.workdir / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in record]
    assert losses[-1] < losses[0] / 2


def test_digits_are_evaluated_through_a_classifier_of_their_own(demo):
    def evaluated():
        flags = ["--metrics=fid,is,precision_recall", "--num_samples=1000", "--w=0,3"]
        done = run_program("launch.evaluate", f"--workdir={demo.workdir}", *flags, timeout=1800)
        assert done.returncode == 0, done
        return done.stdout

    printed = evaluated()
    assert "Frechet distance in digits_features" in printed and "FID" not in printed
    # Nothing is sampled or trained twice.
    again = evaluated()
    assert "images/s" in printed and "images/s" not in again
    assert set(again.splitlines()) <= set(printed.splitlines())
    results = map(evaluation.read_result, demo.workdir.glob("evaluations/*/result_*.json"))
    plain, guided = sorted(results, key=lambda result: result.swept["w"])
    evaluation.check_comparable(plain, guided)
    # w = 3 trades diversity for confident classes.
    assert guided.metrics["is"] > plain.metrics["is"] > 9
    assert guided.metrics["precision"] > plain.metrics["precision"]
    assert guided.metrics["recall"] < plain.metrics["recall"] - 0.2
    assert guided.metrics["fid"] > plain.metrics["fid"]
    judge = cfg_jax.load(demo.workdir / "features")
    source = likelihood.open_data(cfg_jax.load(demo.workdir), "test")
    assert likelihood.accuracy(judge, source, [20.0])[20.0] >= 0.97


def test_what_devices_do_together_holds_on_eight_as_on_two():
    tests = [
        *("test_parallel.py", "test_train_state.py"),
        "test_bulk.py::test_one_device_draws_the_same",
        "test_checkpoint.py::test_a_run_comes_back_bit_for_bit_on_other_devices",
        "test_checkpoint.py::test_buffers_donated_right_after_save_are_kept_as_they_were",
        "test_evaluation.py::test_batch_size_and_devices_do_not_matter",
        "test_model.py::test_a_sample_is_the_same_in_any_batch",
        "test_model.py::test_a_sample_is_the_same_on_one_device_and_on_several",
        "test_train.py::test_the_diffusion_step_with_dropout_agrees_on_one_device_and_on_several",
    ]
    command = [sys.executable, "-m", "pytest", "--numprocesses=0", "-p", "no:cacheprovider"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command + [f"tests/{test}" for test in tests],
        cwd=ROOT,
        env=own | {"CFG_JAX_TEST_DEVICES": "8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def trained(config, workdir, **overrides):
    flags = [f"--config.{field}={value}" for field, value in overrides.items()]
    done = run_program(
        "launch.train",
        *(f"--config=configs/{config}.py", f"--workdir={workdir}"),
        *("--config.train.preview_every=0", *flags),
        timeout=1800,
    )
    assert done.returncode == 0, done
    return cfg_jax.load(workdir)


def test_a_network_trained_on_the_mixture_comes_close_to_the_exact_denoiser(tmp_path):
    model = trained("mixture", tmp_path, **{"train.num_steps": 2000})
    exact = cfg_jax.GaussianMixture(triangle(), model.config.data.std**2, np.ones(3))
    labels = jnp.arange(3000) % 4
    clean = exact.draw(jax.random.key(1), labels % 3)
    eps = jax.random.normal(jax.random.key(2), clean.shape)
    for logsnr in (-4.0, 0.0, 4.0):
        z = cfg_jax.diffuse(clean, eps, logsnr)
        every = jnp.full(len(labels), logsnr)
        wanted = exact.predict(z, every, labels)
        error = jnp.mean((model.predict(z, every, labels) - wanted) ** 2)
        assert error < 0.02 * jnp.mean(wanted**2) + 0.01, (logsnr, float(error))


def test_a_learned_variance_needs_fewer_bits_than_any_constant_one(tmp_path):
    """The same network with and without its variance; eps_hat is equal."""
    learned = trained(
        "digits",
        tmp_path,
        **{
            "train.num_steps": 400,
            "train.checkpoint_every": 400,
            "diffusion.learned_variance": True,
            "diffusion.vlb_steps": 32,
            "sampling.solver": "ancestral",
            "sampling.eta": 0.0,
        },
    )
    constant = copy.copy(learned)
    constant.bind = lambda params: lambda *inputs: eps_of(learned.bind(params)(*inputs))
    source = likelihood.open_data(learned, "test")

    def bits(model, logvar_interp):
        found = likelihood.likelihood(
            model,
            source,
            num_steps=32,
            logsnr_max=10.0,
            logvar_interp=logvar_interp,
            num_examples=96,
        )
        return found.total

    best = min(bits(constant, logvar_interp) for logvar_interp in (0.0, 0.5, 1.0))
    assert bits(learned, 0.0) < best - 0.1
