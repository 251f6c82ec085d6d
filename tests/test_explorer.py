"""The explorer's pictures and its command line; `test_browser` moves its sliders."""

import dataclasses
import re
import shlex
import socket
import sys

import numpy as np
import pytest

import cfg_jax
from cfg_jax.config import build
from cfg_jax.io import images
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.study import explorer, explorer_page
from cfg_jax.study.explorer import Choice
from tests.programs import run_program
from tests.terminal import Terminal
from tests.tiny import pixel_model, tiny_config

CHOICE = Choice((3, 0, 7), 2.3, (-4.5, 6.0), "unipc_2", 4, seed=5)


@pytest.fixture(scope="module")
def model(tiny_run):
    return cfg_jax.load(tiny_run)


@pytest.fixture(scope="module")
def pixels():
    """A model of random parameters, which compiles immediately."""
    return pixel_model(tiny_config())


@pytest.mark.parametrize("solver", ["unipc_2", "ancestral"])
def test_the_command_draws_the_same_images(model, tiny_run, tmp_path, solver):
    choice = dataclasses.replace(CHOICE, solver=solver)
    line = explorer.command(choice, model.label_names, tiny_run)
    assert line.startswith("cfg-jax sample --workdir=")
    done = run_program("launch.sample", *shlex.split(line)[2:], f"--out={tmp_path}", devices=2)
    assert done.returncode == 0, done
    with np.load(next(tmp_path.glob("*.npz"))) as file:
        drawn, weights, labels = file["images"], file["w"], file["labels"]
    assert weights.tolist() == pytest.approx([0, 2.3]) and labels.tolist() == [3, 0, 7]
    x = explorer.strip(model, choice).draw()
    np.testing.assert_array_equal(images.to_images(x), drawn)
    (picture,) = tmp_path.glob("*.png")
    np.testing.assert_array_equal(
        np.asarray(explorer.samples(model, choice)),
        np.asarray(images.read_picture(picture)),
    )


def test_after_the_start_no_choice_compiles_the_network(monkeypatch):
    traced = []
    predict = build.Experiment.predict
    counting = lambda *a, **k: traced.append(1) or predict(*a, **k)  # noqa: E731
    monkeypatch.setattr(build.Experiment, "predict", counting)
    monkeypatch.setattr(explorer.figures, "telemetry", lambda found: found)
    model = pixel_model(tiny_config())
    solvers = explorer.solvers(model, [4])
    assert solvers[0] == "ancestral" and "unipc_2" in solvers and "ddim" not in solvers
    assert list(explorer.warm_up(model, solvers, [4])) == [
        "1 of 2: T = 4, ancestral",
        "2 of 2: T = 4, dpmpp_2m",
    ]
    compiled = len(traced)
    assert compiled == 6  # samples, trajectory and telemetry, of two kinds of solvers
    everything = explorer.interval_of_all_calls(model)
    for choice in (
        Choice((1,), 0.0, everything, "ancestral", 4),
        Choice((1, 2, 3), -1.0, (-2.0, 3.0), "ancestral", 4, seed=9),
        Choice(tuple(range(10)), 4.0, everything, "unipc_3", 4),
        *(Choice((9, 4), 1.5, (-12.0, 20.5), name, 4, seed=1) for name in solvers),
    ):
        for part in (explorer.samples, explorer.trajectory, explorer.telemetry):
            part(model, choice)
    assert len(traced) == compiled


def test_every_part_of_the_page_changes_with_w_and_with_the_interval(pixels):
    everything = explorer.interval_of_all_calls(pixels)
    first = Choice((1, 2), 1.0, everything, "unipc_2", 4)
    stronger = dataclasses.replace(first, w=6.0)
    shorter = dataclasses.replace(stronger, interval=(-6.0, 6.0))
    for part in (explorer.samples, explorer.trajectory, explorer.telemetry):
        shown = [np.asarray(part(pixels, choice)) for choice in (first, stronger, shorter)]
        assert (shown[0] != shown[1]).any() and (shown[1] != shown[2]).any(), part
    x = explorer.strip(pixels, dataclasses.replace(first, w=0.0)).draw()
    np.testing.assert_array_equal(x[:, :, 0], x[:, :, 1])


def test_the_last_frame_of_the_trajectory_is_the_sample(pixels):
    frames = np.asarray(explorer.trajectory(pixels, CHOICE))
    strip = np.asarray(explorer.samples(pixels, CHOICE))
    assert np.abs(frames[-198:, -66:].astype(int) - strip[-198:, -66:]).max() <= 1


def test_the_interval_of_all_calls_has_every_call_inside(pixels):
    interval = explorer.interval_of_all_calls(pixels)
    filled = pixels.filled(SamplingSettings(w=1.0, interval=interval, num_steps=64))
    assert filled.weights(pixels.experiment, 1).guided.all()


@pytest.mark.parametrize(
    ("names", "number", "text"),
    [
        (("cat", "dog"), 1, "1"),
        (("0", "1"), 1, "1"),
        (("1", "0"), 1, "0"),  # "1" is the name of class 0
        (("1", "a b;c"), 1, "a b;c"),
    ],
)
def test_a_class_is_written_so_that_sample_reads_the_same(names, number, text):
    choice = Choice((number,), 1.0, (-1.0, 1.0), "heun", 4)
    line = explorer.command(choice, names, "runs/my digits;", 7)
    assert f"--labels={text}" in shlex.split(line)
    assert "--workdir=runs/my digits;" in shlex.split(line)
    assert "--checkpoint=7" in shlex.split(line)


def test_a_class_that_no_flag_can_name_is_refused():
    choice = Choice((1,), 1.0, (-1.0, 1.0), "heun", 4)
    with pytest.raises(ValueError, match="class 1 has a name that --labels cannot have"):
        explorer.command(choice, ("1", "a,b"), "run")


def test_values_of_the_page_that_cannot_be_shown_cost_one_line(pixels):
    with pytest.raises(ValueError, match="guided from 3 to 3: move the first below the second"):
        explorer_page.choice_of([1], 1, 3, 3, "heun", 4, 0)
    with pytest.raises(ValueError, match="a box is empty"):
        explorer_page.choice_of([1], None, -3, 3, "heun", 4, 0)
    with pytest.raises(ValueError, match="11 classes: choose 10 at most"):
        explorer_page.choice_of([1] * 11, 1, -3, 3, "heun", 4, 0)
    with pytest.raises(ValueError, match="no class is chosen: choose one or more"):
        explorer.samples(pixels, explorer_page.choice_of([], 1, -3, 3, "unipc_2", 4, 0))


def test_an_error_is_a_line_of_the_page_and_the_pictures_stay(pixels):
    crossed = ([1], 1, 3, -3, "unipc_2", 4, 0)
    said, *rest = explorer_page._draws("as before", pixels, lambda choice: "a > b", *crossed)
    assert said.startswith('<p class="error">guided from 3 to -3: move the first below the second.')
    assert rest == ["as before"] * 2
    assert explorer_page._follows("as before", pixels, *crossed) == ("as before",) * 2
    right = ([1], 1, -3, 3, "unipc_2", 4, 0)
    said, picture, line = explorer_page._draws(None, pixels, lambda choice: "a line", *right)
    assert (said, line) == ("", "a line") and picture.width > 100
    assert explorer_page._element("p", "a < b") == "<p>a &lt; b</p>"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"diffusion.p_uncond": 0.0}, "p_uncond=0.0: the explorer moves w"),
        ({"diffusion.low_res_size": 4}, r"low_res of shape \(4, 4, 1\): the explorer needs"),
    ],
)
def test_a_run_that_w_does_not_guide_is_refused(overrides, said):
    with pytest.raises(ValueError, match=said):
        explorer.check_model(pixel_model(tiny_config(**overrides)))


def test_numbers_of_calls_are_those_that_the_solver_of_the_run_can_make(pixels):
    assert explorer.default_steps(pixels) == [4, 2]
    three = pixel_model(tiny_config(**{"sampling.num_steps": 3}))
    assert explorer.default_steps(three) == [3]  # half of it is a single call
    assert "dpmpp_2s" not in explorer.solvers(pixels, [4, 1])
    with pytest.raises(ValueError, match=r"num_steps=\[0\]: no solver fits this run"):
        explorer.solvers(pixels, [0])


def test_solvers_that_are_left_out_are_named_with_the_reason(pixels):
    found = explorer.solvers(pixels, [4])
    said = explorer.left_out(pixels, found, [4])
    assert said.startswith(
        "Left out: heun, pcg (not with these T and the grid of the run); ddim (a"
    )
    named = [name for name in explorer.SOLVERS if name in re.findall(r"\w+", said)]
    assert sorted(found + named) == sorted(explorer.SOLVERS)
    assert explorer.left_out(pixels, [*explorer.SOLVERS], [4]) == ""


def test_every_measurement_of_the_page_is_explained():
    assert explorer.MEANINGS.keys() == explorer.figures.MEASURED.keys()


def test_a_choice_leaves_no_line_in_the_terminal(pixels, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    explorer.samples(pixels, CHOICE)
    assert screen.getvalue() == ""


def test_without_gradio_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"not installed: run `pip install '\.\[explore\]'`"):
        explorer_page.load_gradio()


def test_a_port_in_use_costs_one_line_before_a_run_is_read(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_program("launch.explore", f"--workdir={tmp_path}/none", f"--port={port}")
    said = f"error: --host=127.0.0.1 --port={port}: Address already in use: give another --port"
    assert done.returncode == 1 and done.stderr.startswith(said), done
    assert done.stderr.count("\n") == 1


def test_classes_of_the_same_name_have_a_curve_each(monkeypatch):
    monkeypatch.setattr(explorer.figures, "telemetry", lambda found: found)
    model = pixel_model(tiny_config())
    model.label_names = ("cat", "dog", "cat", *model.label_names[3:])
    found = explorer.telemetry(model, Choice((0, 1, 2), 1.0, (-9.0, 9.0), "unipc_2", 4))
    assert list(found) == ["cat (0)", "dog", "cat (2)"]
