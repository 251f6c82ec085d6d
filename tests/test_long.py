"""What takes minutes: whole programs, as a person runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax import evaluation
from cfg_jax.core.oracles import triangle
from cfg_jax.evaluation import likelihood

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.long


def environment():
    """The suite's own on one device: eight on two cores take ten times as long."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return os.environ | {"XLA_FLAGS": flags}


def test_the_demo_trains_samples_and_passes_its_own_judgement(tmp_path):
    command = ["bash", "launch/demo.sh"]
    settings = {"WORKDIR": str(tmp_path / "digits"), "VENV": sys.prefix}
    done = subprocess.run(
        command, cwd=ROOT, env=environment() | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "real images" in done.stdout and "w = 3" in done.stdout
    assert "w = -1, classifier 8" in done.stdout
    # The last table: the noisy classifier knows clean digits, and nothing at logsnr_min.
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    start = rows.index(["logsnr", "accuracy"]) + 1
    levels = [(float(logsnr), float(share)) for logsnr, share in rows[start : start + 11]]
    assert levels[0][0] == -20 and abs(levels[0][1] - 0.1) < 0.06
    assert levels[-1][0] == 20 and levels[-1][1] >= 0.95
    assert len(list((tmp_path / "digits" / "samples").glob("*.png"))) == 1
    record = (tmp_path / "digits" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in record]
    assert losses[-1] < losses[0] / 2


def test_a_network_trained_on_the_mixture_comes_close_to_the_exact_denoiser(tmp_path):
    subprocess.run(
        [
            *(sys.executable, "-m", "launch.train", "--config=configs/mixture.py"),
            *(f"--workdir={tmp_path}", "--config.train.num_steps=2000"),
            "--config.train.preview_every=0",
        ],
        cwd=ROOT,
        env=environment(),
        check=True,
    )
    model = cfg_jax.load(tmp_path)
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


def trained(workdir, **overrides):
    flags = [f"--config.{field}={value}" for field, value in overrides.items()]
    subprocess.run(
        [
            *(sys.executable, "-m", "launch.train", "--config=configs/digits.py"),
            *(f"--workdir={workdir}", "--config.train.preview_every=0", *flags),
        ],
        cwd=ROOT,
        env=environment(),
        check=True,
    )
    return cfg_jax.load(workdir)


def test_a_learned_variance_needs_fewer_bits_than_any_constant_one(tmp_path):
    short = {"train.num_steps": 400, "train.checkpoint_every": 400}
    constant = trained(tmp_path / "constant", **short)
    learned = trained(
        tmp_path / "learned",
        **short,
        **{"diffusion.learned_variance": True, "diffusion.vlb_steps": 32},
    )
    source = likelihood.open_data(constant, "test")

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


def test_digits_are_evaluated_through_a_classifier_of_their_own(tmp_path):
    model = trained(tmp_path, **{"train.num_steps": 600, "train.checkpoint_every": 600})

    def evaluated():
        flags = ["--metrics=fid,is,precision_recall", "--num_samples=1000", "--w=0,3"]
        command = [sys.executable, "-m", "launch.evaluate", f"--workdir={tmp_path}", *flags]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), check=True, capture_output=True, text=True
        )
        return done.stdout

    said = evaluated()
    assert "Frechet distance in digits_features" in said and "FID" not in said
    # Nothing is drawn or trained a second time.
    again = evaluated()
    assert "images/s" in said and "images/s" not in again
    assert set(again.splitlines()) <= set(said.splitlines())
    results = map(evaluation.read_result, tmp_path.glob("evaluations/*/result_*.json"))
    plain, guided = sorted(results, key=lambda result: result.swept["w"])
    evaluation.check_comparable(plain, guided)
    # Guidance of 3 is sure of its classes, and gives up variety for it.
    assert guided.metrics["is"] > plain.metrics["is"] > 9
    assert guided.metrics["precision"] > plain.metrics["precision"]
    assert guided.metrics["recall"] < plain.metrics["recall"] - 0.2
    assert guided.metrics["fid"] > plain.metrics["fid"]
    judge = cfg_jax.load(tmp_path / "features")
    source = likelihood.open_data(model, "test")
    assert likelihood.accuracy(judge, source, [20.0])[20.0] >= 0.97
