"""A person's mistakes at the command line: one line, a code other than 0, nothing lost."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cfg_jax.config.validate import to_json
from cfg_jax.interop import run_folder
from tests.tiny import DIGITS, random_model, tiny_classifier

ROOT = Path(__file__).parents[1]

TRAIN = ["launch.train", "--config=configs/digits.py"]

SAMPLE = ["launch.sample", "--workdir={run}"]

# name: (arguments, what the line must say). {run} is a finished run, {classifier} another of a
# noisy classifier, {larger} of one for larger images, {new} a folder not made yet, {file} a file
# where a folder is wanted.
MISTAKES = {
    "an unknown field": ([*TRAIN, "--workdir={new}", "--config.optim.lrr=1"], "lrr"),
    "a wrong type": ([*TRAIN, "--workdir={new}", "--config.train.num_steps=many"], "num_steps"),
    "not a number": (
        [*TRAIN, "--workdir={new}", "--config.optim.learning_rate=nan"],
        "config.optim.learning_rate=nan: need a finite number",
    ),
    "a batch that does not divide": (
        [*TRAIN, "--workdir={new}", "--config.train.batch_size=63"],
        "batch_size=63 on 2 devices",
    ),
    "noise above data": (
        [*TRAIN, "--workdir={new}", "--config.diffusion.logsnr_min=21."],
        "logsnr_min=21.0 is not below logsnr_max=20.0",
    ),
    "no such config": (["launch.train", "--config=configs/no.py", "--workdir={new}"], "no.py"),
    "no workdir": (TRAIN, "workdir"),
    "a workdir that is a file": ([*TRAIN, "--workdir={file}"], "cannot be written"),
    "a stray argument": ([*TRAIN, "--workdir={new}", "fast"], "unexpected argument 'fast'"),
    "data that is not prepared": (
        [
            "launch.train",
            "--config=configs/cifar10.py",
            "--workdir={new}",
            "--config.data.data_dir={new}",
        ],
        "python -m launch.prepare --dataset=cifar10",
    ),
    "no checkpoint": (["launch.sample", "--workdir={new}"], "python -m launch.train"),
    "a foreign checkpoint": (["launch.sample", "--workdir={foreign}"], "of another program"),
    "a label out of range": (["launch.sample", "--workdir={run}", "--labels=3,11"], "0..9"),
    "a label that is a word": (
        ["launch.sample", "--workdir={run}", "--labels=cat"],
        "--labels=cat",
    ),
    "a w that is no number": (["launch.sample", "--workdir={run}", "--w=1,x"], "--w=1,x"),
    "a w that is not finite": (["launch.sample", "--workdir={run}", "--w=nan"], "finite"),
    "one step": (["launch.sample", "--workdir={run}", "--num_steps=1"], "num_steps"),
    "an infinite label": (["launch.sample", "--workdir={run}", "--labels=inf"], "whole numbers"),
    "accuracies that do not match": (
        ["launch.judge", "--workdir={run}", "--w=0,1"],
        "one accuracy",
    ),
    "an unknown metric": (
        ["launch.evaluate", "--workdir={run}", "--metrics=fid,kid"],
        "metrics=fid,kid: choose some of fid, sfid, is, precision_recall",
    ),
    "samples that no plan of labels covers": (
        ["launch.evaluate", "--workdir={run}", "--metrics=fid", "--num_samples=1001"],
        "take 1010",
    ),
    "weights of Inception that are not there": (
        [
            *("launch.evaluate", "--workdir={run}", "--metrics=fid", "--num_samples=10"),
            "--inception={new}/inception.safetensors",
        ],
        "get pt_inception-2015-12-05",
    ),
    "a classifier without its weight": (
        [*SAMPLE, "--classifier_workdir={classifier}"],
        "--classifier_w=: give both, or neither",
    ),
    "a classifier's weight without one": ([*SAMPLE, "--classifier_w=1"], "give both, or neither"),
    "weights that do not pair": (
        [*SAMPLE, "--w=0,1", "--classifier_workdir={classifier}", "--classifier_w=1,2,3"],
        "2 guidance weights with 3 of the classifier",
    ),
    "a model to guide another": (
        [*SAMPLE, "--classifier_workdir={run}", "--classifier_w=1"],
        "holds no classifier",
    ),
    "samples of a classifier": (
        ["launch.sample", "--workdir={classifier}"],
        "holds a classifier: give the workdir of a diffusion model",
    ),
    "a classifier of larger images": (
        [*SAMPLE, "--classifier_workdir={larger}", "--classifier_w=1"],
        "the classifier takes images of (16, 16, 1), the model makes (8, 8, 1)",
    ),
    "a classifier towards no label": (
        [*SAMPLE, "--labels=10", "--classifier_workdir={classifier}", "--classifier_w=1"],
        "label 10 stands for none",
    ),
    "timesteps of a continuous schedule": (
        [*SAMPLE, "--respacing=ddim25"],
        "this model's schedule is continuous",
    ),
    "an upsampler that is none": (
        [*SAMPLE, "--upsampler_workdir={run}"],
        "without a low_res image",
    ),
    "nothing to evaluate": (["launch.evaluate", "--workdir={run}"], "say what to measure"),
    "the likelihood of a classifier": (
        ["launch.evaluate", "--workdir={classifier}", "--likelihood"],
        "give the workdir of a diffusion model",
    ),
    "the accuracy of a model": (
        ["launch.evaluate", "--workdir={run}", "--accuracy"],
        "holds no classifier",
    ),
    "a split that is not there": (
        ["launch.evaluate", "--workdir={run}", "--likelihood", "--split=dev"],
        "dev",
    ),
    "a bound beyond the schedule": (
        ["launch.evaluate", "--workdir={run}", "--likelihood", "--logsnr_max=30"],
        "logsnr_max=30.0",
    ),
    "a name that OpenAI did not use": (
        ["launch.import_openai", "--checkpoint={file}", "--name=32x32", "--workdir={new}"],
        "64x64_diffusion",
    ),
    "a figure without spread": (["launch.mixture", "--std=0", "--out={new}/a.png"], "--std=0"),
}


def write_classifier(workdir, side=8):
    """A run of an untrained classifier of square images with the digits' labels."""
    model = random_model(tiny_classifier(), shape=(side, side, 1))
    data = {"shape": [side, side, 1], "label_names": list(DIGITS), "fingerprint": {}}
    run_folder.write(workdir, model.params, config=to_json(model.config), meta={"data": data})
    return workdir


@pytest.fixture(scope="module")
def outcomes(tiny_run, tmp_path_factory):
    """Every mistake made once, two at a time."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "file").write_text("kept")
    foreign = folder / "foreign" / "checkpoints" / "7" / "weights"
    foreign.mkdir(parents=True)
    (foreign / "data").write_text("kept")
    places = {
        "run": tiny_run,
        "new": folder / "new",
        "file": folder / "file",
        "foreign": folder / "foreign",
        "classifier": write_classifier(folder / "classifier"),
        "larger": write_classifier(folder / "larger", 16),
    }
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}

    def attempt(arguments):
        filled = [argument.format(**places) for argument in arguments]
        return subprocess.run(
            [sys.executable, "-m", *filled],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    before = {p: p.read_bytes() for p in tiny_run.rglob("*") if p.is_file()}
    with ThreadPoolExecutor(2) as pool:
        done = dict(
            zip(MISTAKES, pool.map(attempt, (m[0] for m in MISTAKES.values())), strict=True)
        )
    assert {p: p.read_bytes() for p in tiny_run.rglob("*") if p.is_file()} == before
    assert (folder / "file").read_text() == (foreign / "data").read_text() == "kept"
    assert not (folder / "new").exists() or not list((folder / "new").rglob("*.png"))
    return done


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line_and_nothing_on_disk(outcomes, mistake):
    done = outcomes[mistake]
    lines = [line for line in done.stderr.splitlines() if "OpenCV" not in line]
    said = [line for line in lines if MISTAKES[mistake][1] in line]
    assert done.returncode != 0
    assert said, done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines) <= 2, done.stderr


def test_a_figure_of_the_mixture_is_drawn(tmp_path):
    from PIL import Image

    path = tmp_path / "mixture.png"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "launch.mixture",
            f"--out={path}",
            "--w=0,4",
            "--num_steps=16",
            "--count=20",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(path).size == (600, 620)


def test_guided_densities_are_densities_and_move_away_from_the_other_classes():
    import numpy as np

    from cfg_jax.study import mixture_figure

    mixture = mixture_figure.three_gaussians(0.5)
    cell = 2 * mixture_figure.REACH / 150
    heights = []
    for w in (0.0, 1.0, 4.0):
        densities = mixture_figure.guided_densities(mixture, w, 151)
        np.testing.assert_allclose(densities.sum((1, 2)) * cell**2, 1, rtol=1e-6)
        axis = np.linspace(-mixture_figure.REACH, mixture_figure.REACH, 151)
        heights.append((densities[0].sum(1) * axis).sum() * cell**2)
    # Class 0 is the upper one, at (0, 1); without guidance its mean is there.
    np.testing.assert_allclose(heights[0], 1.0, atol=2e-3)
    assert heights[0] < heights[1] < heights[2]
