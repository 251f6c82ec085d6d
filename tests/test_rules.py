"""Guidance rules: the originals' numbers, and their limits."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.core.diffusion import from_x, predict_x
from cfg_jax.core.rules import SPACES
from cfg_jax.core.types import eps_of
from tests.solver_files import load

RNG = np.random.default_rng(0)
COND, OTHER = (jnp.asarray(RNG.standard_normal((3, 4, 4, 2)), jnp.float32) for _ in range(2))
W = jnp.asarray([0.5, 1.0, 3.0])


def golden_cases():
    for key in load("guiders"):
        if match := re.fullmatch(r"cfg_s([\d.]+)", key):
            yield key, float(match[1]), cfg_jax.cfg()
        elif match := re.fullmatch(r"cfg_rescale([\d.]+)_s([\d.]+)", key):
            yield key, float(match[2]), cfg_jax.rescale(float(match[1]))
        elif match := re.fullmatch(r"apg_s([\d.]+)_eta([\d.]+)_r([\d.]+)_beta(\S+)", key):
            scale, eta, r = map(float, match.groups()[:3])
            beta = 0.0 if match[4] == "None" else float(match[4])
            yield key, scale, cfg_jax.apg(eta=eta, r=r, beta=beta)
        elif match := re.fullmatch(r"zero_star_s([\d.]+)", key):
            yield key, float(match[1]), cfg_jax.zero_star(zero_calls=0)


CASES = {key: (scale, rule) for key, scale, rule in golden_cases()}


def test_every_kind_of_guider_is_compared():
    assert len(CASES) == 4 * (1 + 2 + 4 + 1)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_gives_the_numbers_of_the_original_program(name):
    scale, rule = CASES[name]
    golden = load("guiders")
    state = rule.init(golden["cond"].shape[1:])
    for call, (cond, uncond) in enumerate(zip(golden["cond"], golden["uncond"], strict=True)):
        branches = (jnp.asarray(each, jnp.float32) for each in (cond, uncond))
        guided, state = rule(*branches, scale - 1, state)
        largest = max(1.0, np.abs(golden[name][call]).max())
        np.testing.assert_allclose(guided, golden[name][call], rtol=0, atol=1e-6 * largest)


RULES = {
    "cfg": cfg_jax.cfg(),
    "rescale": cfg_jax.rescale(0.7),
    "apg": cfg_jax.apg(eta=0.3, r=2.0, beta=-0.5),
    "zero_star": cfg_jax.zero_star(zero_calls=0),
}


@pytest.mark.parametrize("name", RULES)
def test_a_weight_of_zero_is_the_conditional_branch_bit_for_bit(name):
    guided, _ = RULES[name](COND, OTHER, 0.0, RULES[name].init(COND.shape))
    np.testing.assert_array_equal(guided, COND)


@pytest.mark.parametrize("name", RULES)
def test_a_sample_has_its_own_weight_and_does_not_see_the_others(name):
    rule = RULES[name]
    together, _ = rule(COND, OTHER, W, rule.init(COND.shape))
    alone, _ = rule(COND[1:2], OTHER[1:2], W[1:2], rule.init(COND[1:2].shape))
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("phi", [0.0, 1.0])
def test_rescaling_goes_from_plain_guidance_to_the_deviation_of_the_conditional_branch(phi):
    guided, _ = cfg_jax.rescale(phi)(COND, OTHER, W, ())
    plain, _ = cfg_jax.cfg()(COND, OTHER, W, ())
    if phi == 0:
        np.testing.assert_array_equal(guided, plain)
    else:
        axes = (1, 2, 3)
        np.testing.assert_allclose(np.std(guided, axes), np.std(COND, axes), rtol=1e-5)


def test_projected_guidance_without_projection_norm_and_momentum_is_the_plain_rule():
    rule = cfg_jax.apg(eta=1.0)
    guided, _ = rule(COND, OTHER, W, rule.init(COND.shape))
    np.testing.assert_allclose(guided, cfg_jax.cfg()(COND, OTHER, W, ())[0], rtol=0, atol=1e-5)


def test_projected_guidance_moves_orthogonally_and_no_further_than_its_norm():
    rule = cfg_jax.apg(eta=0.0, r=2.0)
    guided, _ = rule(COND, OTHER, W, rule.init(COND.shape))
    moved = np.asarray(guided - COND, np.float64).reshape(3, -1)
    inner = (moved * np.asarray(COND, np.float64).reshape(3, -1)).sum(1)
    np.testing.assert_allclose(inner, 0, atol=1e-4)
    assert np.all(np.linalg.norm(moved, axis=1) <= W * 2.0 + 1e-5)


def test_momentum_sums_the_directions_before_the_norm_is_cut():
    rule = cfg_jax.apg(eta=1.0, beta=-0.5)
    state = rule.init(COND.shape)
    _, state = rule(COND, OTHER, W, state)
    guided, _ = rule(2 * COND, OTHER, W, state)
    direction = (2 * COND - OTHER) - 0.5 * (COND - OTHER)
    expected = 2 * COND + W[:, None, None, None] * direction
    np.testing.assert_allclose(guided, expected, rtol=0, atol=1e-5)


def test_dynamic_thresholding_gives_the_numbers_of_diffusers():
    golden = load("dynamic_threshold")
    threshold = cfg_jax.dynamic_threshold(float(golden["ratio"]), float(golden["max_value"]))
    found = threshold(jnp.asarray(golden["x_hat"], jnp.float32))
    np.testing.assert_allclose(found, golden["out"], rtol=0, atol=1e-6)


def test_dynamic_thresholding_divides_by_the_largest_value_or_leaves_what_is_in_range():
    found = cfg_jax.dynamic_threshold(1.0)(3 * COND)
    largest = jnp.max(jnp.abs(3 * COND), axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, 3 * COND / largest, rtol=1e-6)
    small = COND / 100
    np.testing.assert_array_equal(cfg_jax.dynamic_threshold()(small), small)


@pytest.mark.parametrize("logsnr", [-6.0, 0.0, 6.0])
@pytest.mark.parametrize("space", SPACES)
def test_a_quantity_is_converted_there_and_back(space, logsnr):
    there, back = SPACES[space]
    z, logsnr = COND, jnp.full(3, logsnr)
    for output in (OTHER, from_x(z, predict_x(z, OTHER, logsnr), logsnr)):
        found = back(z, there(z, output, logsnr), logsnr)
        np.testing.assert_allclose(eps_of(found), OTHER, atol=2e-4)


@pytest.mark.parametrize("space", [None, "x", "v", "flow"])
def test_at_the_noise_end_a_guided_x_hat_keeps_its_digits(space):
    # eps_hat is z there to seven digits, so that x_hat cannot be had from it.
    z, logsnr = jnp.asarray(RNG.standard_normal(COND.shape), jnp.float32), jnp.full(3, -60.0)
    rule = cfg_jax.cfg()._replace(space=space)
    outputs = [from_x(z, COND, logsnr), from_x(z, OTHER, logsnr)]
    output, _ = rule.guided(z, logsnr, outputs, W, ())
    w = np.asarray(W)[:, None, None, None]
    expected = (1 + w) * np.asarray(COND, np.float64) - w * np.asarray(OTHER, np.float64)
    np.testing.assert_allclose(output.x_hat, expected, atol=1e-5)
    np.testing.assert_allclose(output.eps_hat, z, atol=1e-5)


def test_the_velocities_are_those_of_their_definitions():
    x, eps, logsnr = COND, OTHER, jnp.asarray([-1.0, 0.0, 2.0])
    alpha, sigma = (a[:, None, None, None] for a in cfg_jax.alpha_sigma(logsnr))
    z = alpha * x + sigma * eps
    np.testing.assert_allclose(SPACES["v"][0](z, eps, logsnr), alpha * eps - sigma * x, atol=1e-5)
    np.testing.assert_allclose(SPACES["flow"][0](z, eps, logsnr), eps - x, atol=1e-5)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: cfg_jax.rescale(1.5), "phi=1.5: need a number from 0 to 1"),
        (lambda: cfg_jax.rescale(0.5, space="z"), "space='z': choose one of eps, x, v, flow"),
        (lambda: cfg_jax.apg(r=-1.0), "r=-1.0: need a number from 0"),
        (lambda: cfg_jax.apg(eta=float("nan")), "eta=nan: need"),
        (lambda: cfg_jax.apg(beta="x"), "beta='x': need"),
        (lambda: cfg_jax.zero_star(-1), "zero_calls=-1: need an integer of at least 0"),
        (lambda: cfg_jax.dynamic_threshold(1.5), "quantile=1.5: need a number from 1e-06 to 1"),
        (lambda: cfg_jax.dynamic_threshold(0.9, 0.5), "most=0.5: need a number from 1"),
    ],
)
def test_a_number_out_of_range_is_refused(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()
