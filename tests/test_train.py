import functools
import shutil

import chex
import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.runtime import devices
from cfg_jax.training.objectives import area_mean, diffusion_loss_fn
from cfg_jax.training.run import train
from cfg_jax.training.step import create_optimizer, create_train_state, make_train_step
from tests.tiny import RUN_ONCE, parameters, randomised, records, tiny_config, tiny_points


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of `tiny_points`."""
    workdir = tmp_path_factory.mktemp("finished")
    train(tiny_points(**{"train.checkpoint_every": 1, "checkpoint.keep_every": 1}), workdir)
    return workdir


@pytest.mark.compat
def test_a_run_leaves_checkpoints_numbers_events_and_a_preview(tiny_run):
    assert sorted(p.name for p in (tiny_run / "checkpoints").iterdir()) == ["2", "4"]
    assert [record["step"] for record in records(tiny_run)] == [2, 4]
    assert (tiny_run / "previews" / "step_00000004.png").exists()
    assert list((tiny_run / "events").iterdir())


def test_the_record_tells_losses_bands_drop_rate_norms_and_speed(tiny_run):
    last = records(tiny_run)[-1]
    assert {
        "loss",
        "loss_conditional",
        "drop_rate",
        "grad_norm",
        "param_norm",
        "skipped",
        "images_per_second",
        "learning_rate",
        "loss_logsnr_-inf_to_-2",
        "loss_logsnr_2_to_inf",
    } <= last.keys()
    assert 0 <= last["drop_rate"] <= 1 and last["skipped"] == 0
    # A network that starts at zero predicts v_hat = 0, and v has unit variance at noise, which puts
    # E|v|^2 between the data's mean square and 1.
    assert 0.4 < records(tiny_run)[0]["loss"] < 1.2
    # Warm-up from 0 in two steps, so that the first line is a mean of 0 and half the rate.
    rate = tiny_config().optim.learning_rate
    logged = [record["learning_rate"] for record in records(tiny_run)]
    assert logged == pytest.approx([rate / 4, rate])


def test_tensorboard_has_tags_in_groups_the_preview_and_the_config(tiny_run):
    events = EventAccumulator(str(tiny_run / "events"))
    events.Reload()
    tags = events.Tags()
    assert {"loss/all", "loss/logsnr_2_to_inf", "grad/norm", "optimizer/learning_rate"} <= set(
        tags["scalars"]
    )
    assert {tag.split("/")[0] for tag in tags["scalars"]} == {
        *("data", "grad", "loss", "optimizer", "params", "speed")
    }
    assert tags["images"] == ["preview"] and tags["tensors"] == ["config/text_summary"]


def test_the_fraction_of_the_peak_is_logged_where_the_peak_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr("cfg_jax.runtime.devices.peak_flops", lambda kind: 1e12)
    train(tiny_points(**{"train.num_steps": 4}), tmp_path)
    ratios = [
        record["flop_utilisation"] / record["images_per_second"] for record in records(tmp_path)
    ]
    assert len(ratios) == 2 and ratios[0] == pytest.approx(ratios[1])
    assert 0 < ratios[0] < 1e-6  # an image costs less than a million FLOPs in this network


@pytest.mark.compat
def test_a_run_cut_in_the_middle_and_resumed_ends_bit_for_bit_as_the_unbroken_one(
    finished, tmp_path
):
    half = tmp_path / "resumed"
    train(tiny_points(**{"train.num_steps": 2}), half)
    train(tiny_points(**{"train.num_steps": 4}), half)
    chex.assert_trees_all_equal(parameters(half), parameters(finished))
    assert [record["loss"] for record in records(half)] == [
        record["loss"] for record in records(finished)
    ]


def test_what_is_loaded_is_the_average_and_not_the_last_parameters(finished):
    # Replayed: three good steps precede step 4, so its decay is (1 + 3) / (10 + 3).
    from orbax.checkpoint import StandardCheckpointer

    def saved(step, item):
        tree = StandardCheckpointer().restore(finished / "checkpoints" / str(step) / item)
        return jax.device_get(tree["params"] if item == "state" else tree)

    raw, average = saved(4, "state"), jax.device_get(parameters(finished))
    replayed = jax.tree.map(lambda e, p: 4 / 13 * e + 9 / 13 * p, saved(3, "ema"), raw)
    chex.assert_trees_all_close(average, replayed, rtol=1e-5, atol=1e-7)
    gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), average, raw)
    assert max(jax.tree.leaves(gaps)) > 1e-5


def test_dropout_acts_in_training():
    # A network of dropout only: equal batch and noise give another loss without dropout.
    source = data.open_source("mixture", "train", std=0.25, size=64)
    batch = data.batches(source, seed=0, batch_size=16)[0]
    keys = jax.random.split(jax.random.key(0), 16)
    losses = []
    for rate in (0.0, 0.5):
        described = build.assemble(
            tiny_points(**{"model.dropout": rate}), source.shape, source.num_classes
        )
        params = randomised(jax.eval_shape(described.init, jax.random.key(0)))
        loss_fn = diffusion_loss_fn(described, p_uncond=0.3, weighting="eps")
        losses.append(jax.jit(loss_fn, compiler_options=RUN_ONCE)(params, keys, batch)[0])
    assert np.abs(losses[0] - losses[1]).min() > 1e-4


def test_an_upsampler_is_trained_on_means_of_squares_of_pixels():
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype(np.float32)
    small = area_mean(x, 2)
    assert small.shape == (2, 2, 2, 3)
    for row, column in np.ndindex(2, 2):
        square = x[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        np.testing.assert_allclose(small[:, row, column], square.mean(axis=(1, 2)), rtol=1e-5)


def test_the_diffusion_step_with_dropout_agrees_on_one_device_and_on_several():
    config = tiny_points(**{"train.batch_size": 16})
    source = data.open_source("mixture", "train", std=0.25, size=64)
    described = build.assemble(config, source.shape, source.num_classes)
    optimizer = create_optimizer(
        learning_rate=0.1, warmup_steps=0, b1=0.9, b2=0.99, grad_clip=0.5, weight_decay=0.0
    )
    params = randomised(jax.eval_shape(described.init, jax.random.key(0)))
    settings = dict(seed=1, ema_decay=0.9)
    loss_fn = diffusion_loss_fn(described, p_uncond=0.3, weighting="eps")
    one = jax.jit(make_train_step(loss_fn, optimizer, **settings))
    several = devices.pmap_step(
        make_train_step(loss_fn, optimizer, axis_name=devices.AXIS, **settings)
    )
    alone = create_train_state(params, optimizer)
    spread = devices.replicate(alone)
    order = data.batches(source, seed=0, batch_size=16)
    for k in range(3):
        alone, metrics = one(alone, order[k])
        spread, spread_metrics = several(spread, devices.split_batch(order[k]))
        for name, pair in metrics.items():
            np.testing.assert_allclose(spread_metrics[name], pair, rtol=2e-4, atol=1e-4)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, spread.params, alone.params)


def test_an_unreadable_newest_checkpoint_is_set_aside_and_the_one_before_used(
    finished, tmp_path, capsys
):
    copy = tmp_path / "damaged"
    shutil.copytree(finished, copy)
    for file in (copy / "checkpoints" / "4").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:500])
    train(tiny_points(), copy)
    assert "resuming from step 3" in capsys.readouterr().out
    assert (copy / "checkpoints.corrupt").exists()
    chex.assert_trees_all_equal(parameters(copy), parameters(finished))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 7}, "seed=7"),
        ({"train.batch_size": 32}, "train.batch_size=32"),
        ({"data.split": "test"}, "data.split='test'"),
        ({"model.channels": 16}, r"model.channels=16, but .* with 8: .* another shape"),
    ],
)
def test_a_workdir_of_another_run_is_refused_and_left_as_it_was(finished, tmp_path, change, said):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=said):
        train(tiny_points(**({"train.num_steps": 6} | change)), copy)
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(("decay", "warns"), [(0.9, True), (0.5, False)])
def test_a_run_shorter_than_the_average_of_its_parameters_is_told_so(
    tmp_path, caplog, decay, warns
):
    train(tiny_points(**{"optim.ema_decay": decay, "train.num_steps": 4}), tmp_path)
    assert ("average over about 10 steps" in caplog.text) == warns


def test_an_empty_workdir_is_refused_and_not_taken_for_the_current_folder():
    with pytest.raises(ValueError, match="^workdir is empty"):
        train(tiny_points(), "")


def test_a_workdir_that_is_a_file_is_refused_before_anything_is_compiled(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="cannot be written"):
        train(tiny_points(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_steps_that_are_never_finite_stop_the_run_and_keep_the_last_good_checkpoint(
    finished, tmp_path, monkeypatch
):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    whole = data.batches

    def poisoned(*args, **kwargs):
        return whole(*args, **kwargs).map(lambda batch: batch | {"x": batch["x"] * np.nan})

    monkeypatch.setattr(data, "batches", poisoned)
    config = tiny_points(
        **{
            "train.num_steps": 40,
            "train.max_skipped_in_row": 3,
            "train.log_every": 40,
            "train.checkpoint_every": 40,
        }
    )
    with pytest.raises(FloatingPointError, match="steps 5 to 7, 3 in a row; step 4 is saved"):
        train(config, copy)
    chex.assert_trees_all_equal(parameters(copy), parameters(finished))
