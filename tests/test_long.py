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
from cfg_jax.oracles import triangle
from cfg_jax.train import train
from configs import mixture

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.long


def environment():
    """The suite's own, less its eight devices."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def test_the_demo_trains_samples_and_passes_its_own_judgement(tmp_path):
    command = ["bash", "launch/demo.sh"]
    settings = {"WORKDIR": str(tmp_path / "digits"), "VENV": sys.prefix}
    done = subprocess.run(
        command, cwd=ROOT, env=environment() | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "real images" in done.stdout and "w = 3" in done.stdout
    assert len(list((tmp_path / "digits" / "samples").glob("*.png"))) == 1
    record = (tmp_path / "digits" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in record]
    assert losses[-1] < losses[0] / 2


def test_a_network_trained_on_the_mixture_comes_close_to_the_exact_denoiser(tmp_path):
    config = mixture.get_config()
    config.train.preview_every = 0
    config.train.num_steps = 2_000
    train(config, tmp_path)
    model = cfg_jax.load(tmp_path)
    exact = cfg_jax.GaussianMixture(triangle(), config.data.std**2, np.ones(3))
    labels = jnp.arange(3000) % 4
    clean = exact.draw(jax.random.key(1), labels % 3)
    eps = jax.random.normal(jax.random.key(2), clean.shape)
    for logsnr in (-4.0, 0.0, 4.0):
        z = cfg_jax.diffuse(clean, eps, logsnr)
        every = jnp.full(len(labels), logsnr)
        wanted = exact.predict(z, every, labels)
        error = jnp.mean((model.predict(z, every, labels) - wanted) ** 2)
        assert error < 0.02 * jnp.mean(wanted**2) + 0.01, (logsnr, float(error))
