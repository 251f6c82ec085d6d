"""JiT's loss and sampler, by this package's own: golden files of the authors' program."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.core import flow
from cfg_jax.core.losses import squared_error, weight_of
from cfg_jax.interop import jit, jit_names
from cfg_jax.models import positions
from tests.test_jit import FOLDER, jit_weights

LOSSES = ("loss_scale1", "loss_scale2")
RUNS = ("euler", "heun", "heun25", "heun_nointerval", "heun_scale2")


@functools.cache
def opened(name):
    """(network, arrays with NHWC images) of a golden file."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    config = json.loads(str(arrays["config"])) | {"noise_scale": float(arrays["noise_scale"])}
    side = config["input_size"] // config["patch_size"]
    table = positions.position_table(side, side, config["hidden_size"])[None]
    weights = jit_weights(jit.expected_shapes(config)) | {"pos_embed": table}
    for key in [key for key in arrays if key.endswith("_nchw")]:
        arrays[key.removesuffix("_nchw")] = np.moveaxis(arrays.pop(key), -3, -1)
    return jit.from_state_dict(weights, config), arrays


@functools.cache
def loss_and_gradient(name):
    network, arrays = opened(name)
    noise_scale, t_eps = float(arrays["noise_scale"]), float(arrays["t_eps"])
    schedule = cfg_jax.FlowSchedule(noise_scale=noise_scale)
    logsnr = flow.logsnr_of(arrays["t"], noise_scale)
    x, eps = arrays["x"], arrays["e"]
    z = cfg_jax.diffuse(x, eps, logsnr)

    def losses(network):
        output = network.predict(z, logsnr, arrays["y"])
        weight = weight_of("flow", logsnr, schedule, t_eps)
        each = squared_error(z, output, x, eps, logsnr, weight)
        return each.mean(), each

    (_, each), grads = jax.value_and_grad(losses, has_aux=True)(network)
    return each, grads.params


@pytest.mark.parametrize("name", LOSSES)
def test_the_flow_weighted_loss_is_that_of_the_program(name):
    arrays = opened(name)[1]
    each, _ = loss_and_gradient(name)
    np.testing.assert_allclose(each, arrays["loss_each_float64"], rtol=1e-5)
    assert np.mean(each) == pytest.approx(float(arrays["loss_float64"]), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_every_gradient_of_the_loss_is_that_of_the_program(name):
    network, arrays = opened(name)
    _, grads = loss_and_gradient(name)
    norms = json.loads(str(arrays["grad_norms"]))
    entries = jit_names.entries(network.network, network.params)
    assert {*entries} - {*norms} == {"pos_embed"}  # frozen
    for key, entry in entries.items():
        leaf = functools.reduce(lambda tree, part: tree[part], entry.path.split("/"), grads)
        ours = np.asarray(leaf if entry.block is None else leaf[entry.block], np.float64)
        assert np.sqrt(np.sum(ours**2)) == pytest.approx(norms.get(key, 0.0), rel=1e-5)
        if f"grad:{key}" in arrays:
            theirs = entry.convert(arrays[f"grad:{key}"])
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", RUNS)
def test_every_state_of_a_golden_run_is_drawn_by_the_solver_of_the_tables(name):
    network, golden = opened(f"sample_{name}")
    noise_scale, t_eps = float(golden["noise_scale"]), float(golden["t_eps"])
    low, high = map(float, golden["interval"])
    schedule = cfg_jax.FlowSchedule(noise_scale=noise_scale)
    solver = {"euler": "ddim", "heun": "heun_flow"}[str(golden["method"])]
    scale = {"noise_scale": noise_scale} if solver == "heun_flow" else {}
    plan = cfg_jax.plan(schedule.grid(int(golden["steps"])), solver, **scale)
    # Theirs is open, so neither t = low nor t = high is guided.
    ends = (float(flow.logsnr_of(t, noise_scale)) for t in (low, min(high, 1 - 1e-7)))
    interval = [end + margin for end, margin in zip(ends, (1e-4, -1e-4), strict=True)]
    w = cfg_jax.weights(plan, float(golden["cfg_scale"]) - 1, interval=interval)
    times = flow.time_of(plan.logsnr, noise_scale)
    np.testing.assert_allclose(times, golden["call_t"], atol=1e-6)
    np.testing.assert_array_equal(w.guided, golden["call_guided"])
    labels = jnp.asarray(golden["y"])

    @jax.jit
    def draw(network, z_init):
        predict = flow.clamped(network.predict, noise_scale, t_eps)
        null = network.network.num_classes
        guided = cfg_jax.guide(cfg_jax.branches(predict, labels, null_label=null), w)
        given = {"clip_x": False, "z_init": z_init, "record": lambda call: call.z}
        return cfg_jax.sample(jax.random.key(0), guided, z_init.shape, plan, **given)

    x, states = draw(network, jnp.asarray(golden["noise"]))
    scales = np.asarray(flow.scale_of(plan.logsnr, noise_scale))[:, None, None, None, None]
    starts = np.asarray(plan.starts)
    ours = np.concatenate([(states * scales)[starts], x[None]])
    np.testing.assert_allclose(ours, golden["z"], rtol=0, atol=5e-5)
