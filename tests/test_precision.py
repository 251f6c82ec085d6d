"""Sampling with another type inside the network than it was trained with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.config import build, validate
from cfg_jax.sampling import program
from cfg_jax.sampling.identity import identity, upgraded
from cfg_jax.sampling.samples import Samples
from cfg_jax.sampling.settings import SamplingSettings
from configs import base
from tests.tiny import (
    pixel_model,
    random_model,
    randomised,
    small_unet,
    tiny_config,
    tiny_points,
)

LABELS = [1, 2]
EPSILON = 2.0**-8
"""Relative rounding error of bfloat16, which keeps 8 bits."""


@pytest.fixture(scope="module")
def model():
    return random_model(tiny_config(**{"model.num_blocks": 1, "model.dropout": 0.0}))


def draw(model, **arguments):
    arguments = {"w": 1.0, "solver": "dpmpp_2m"} | arguments
    return model.sample_x(jax.random.key(0), labels=LABELS, **arguments)


def products(draw, shared, batch):
    """The types of the inputs of each convolution, and of each matrix product, of a program."""
    found = {"conv_general_dilated": [], "dot_general": []}

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in found:
                types = {str(each.aval.dtype) for each in equation.invars}
                found[equation.primitive.name].append(types)
            for inner in jax.tree.leaves(equation.params, is_leaf=is_jaxpr):
                if is_jaxpr(inner):
                    visit(getattr(inner, "jaxpr", inner))

    visit(jax.make_jaxpr(draw)(shared, batch).jaxpr)
    return found["conv_general_dilated"], found["dot_general"]


def is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def requested(task, **settings):
    """The sampler of a request and its arguments, with parameters of zeros."""
    filled = SamplingSettings(num_steps=4, w=1.0, **settings).filled(tiny_config().sampling)
    spec, shared, batch = program.request(task, filled, jax.random.key(0), np.array(LABELS))
    params = jax.eval_shape(task.init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
    return program.make_draw(task, spec), {"params": zeros, **shared}, batch


def test_bfloat16_samples_are_near_those_of_float32_and_parameters_stay_float32(model):
    plain, rounded = draw(model), draw(model, dtype="bfloat16")
    assert rounded.dtype == np.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype("float32")}
    change = np.abs(plain - rounded)  # 14 and 1.9 times EPSILON: the four calls add up
    assert 0 < change.max() < 32 * EPSILON and change.mean() < 4 * EPSILON


@pytest.mark.parametrize("trained, sampled", [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_products_have_the_requested_type_and_by_default_that_of_training(trained, sampled):
    task = build.assemble(tiny_config(**{"model.dtype": trained}), (8, 8, 1), 10)
    for dtype, expected in (("", trained), (trained, trained), (sampled, sampled)):
        (*convolutions, last), matrix_products = products(*requested(task, dtype=dtype))
        assert last == {"float32"}  # it makes the output
        for found in (convolutions, matrix_products):
            assert found and all(types == {expected} for types in found), (dtype, found)


def test_the_default_program_is_the_one_of_the_network_as_it_was_trained():
    task = build.assemble(tiny_config(), (8, 8, 1), 10)
    programs = {}
    for dtype in (None, "", "float32", "bfloat16"):
        draw, *inputs = requested(task, **({} if dtype is None else {"dtype": dtype}))
        programs[dtype] = jax.jit(draw).lower(*inputs).as_text()
    assert programs[None] == programs[""] == programs["float32"] != programs["bfloat16"]
    assert "bf16" not in programs[""] and "bf16" in programs["bfloat16"]


def test_one_step_of_a_network_has_the_rounding_error_of_its_type():
    network = small_unet()
    inputs = jnp.ones((2, 8, 8, 1)), jnp.zeros(2), jnp.array([0, 1])
    params = randomised(jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"])

    def output(network):
        return jax.jit(network.apply)({"params": params}, *inputs).astype(jnp.float32)

    plain, rounded = output(network), output(network.clone(dtype="bfloat16"))
    error = jnp.sqrt(jnp.mean((plain - rounded) ** 2) / jnp.mean(plain**2))
    assert EPSILON / 16 < error < 8 * EPSILON  # 1.9 times EPSILON


def test_a_weaker_model_is_sampled_with_the_same_type():
    points = {"shape": (2,), "label_names": ("a", "b", "c")}
    model, exact = (random_model(tiny_points(), **points, key=key) for key in (0, 1))
    weaker = random_model(tiny_points(**{"model.dtype": "bfloat16"}), **points, key=1)
    expected = draw(model, weaker=exact)
    np.testing.assert_array_equal(draw(model, weaker=weaker, dtype="float32"), expected)
    assert 0 < np.abs(draw(model, weaker=weaker) - expected).max() < 16 * EPSILON


def test_configs_and_results_without_the_field_stay_what_they_were():
    values = validate.to_json(base.get_config())
    del values["sampling"]["dtype"]
    config = validate.from_json(values)
    assert config.sampling.dtype == "" and validate.to_json(config) != values
    validate.check_values(config)
    pixels = pixel_model(tiny_config())
    swept = Samples(pixels, 10, sampling=SamplingSettings()).swept()
    assert swept["dtype"] == "" and "dtype" not in identity(swept)
    older = {name: value for name, value in swept.items() if name != "dtype"}
    assert upgraded(older) == swept
    other = Samples(pixels, 10, sampling=SamplingSettings(dtype="bfloat16")).swept()
    assert identity(other)["dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", ["float16", "bf16", 16, np.float32])
def test_another_type_is_refused_in_one_line_before_anything_is_compiled(dtype, monkeypatch):
    pixels = pixel_model(tiny_config())
    monkeypatch.setattr(pixels, "_compiled", None)
    with pytest.raises(ValueError, match="dtype=.*: choose one of float32, bfloat16") as error:
        draw(pixels, dtype=dtype)
    assert "\n" not in str(error.value)
    config = base.get_config()
    config.sampling.dtype = "float16"
    with pytest.raises(ValueError, match="config.sampling.dtype='float16': need one of '', "):
        validate.check_values(config)
