"""Densities that samplers draw under guidance, against their closed forms."""

import numpy as np
import pytest

from cfg_jax.study import exactness


@pytest.mark.parametrize("w", [0.5, 1.0, 2.0])
def test_constant_guidance_draws_the_variances_of_the_closed_forms(w):
    # Bradley & Nakkiran 2024. One corrector of twice the weight is ancestral sampling.
    ancestral = (2 - 2 ** (-2 * w)) / (2 * w + 1)
    found = {
        "ddim": exactness.limit("ddim", w, 501),
        "ancestral": exactness.limit("ancestral", w, 501),
        "pcg": exactness.limit("pcg", 2 * w, 501),
    }
    expected = {"ddim": 2**-w, "ancestral": ancestral, "pcg": ancestral}
    assert found == pytest.approx(expected, rel=1e-3)


def test_more_correctors_approach_the_density_that_guidance_asks_for():
    four, sixteen = (exactness.limit("pcg", 1.0, 401, corrections=count) for count in (4, 16))
    # .687 and .671 against 2 / 3, as measured elsewhere
    assert (four, sixteen) == pytest.approx((0.687, 0.671), abs=2e-3)


def test_the_table_has_closed_forms_beside_measured_numbers(monkeypatch):
    monkeypatch.setattr(exactness, "limit", lambda solver, w, **options: 0.25)
    said = exactness.table(exactness.rows([2.0], corrections=[4])).splitlines()
    assert said[2] == "| 2 | ddim | 0.2500 | 0.2500 |"
    assert said[-2] == "| 2 | pcg, K = 4 |  | 0.2500 |"
    assert said[-1] == "| 2 | target | 0.5000 |  |"


def test_the_density_asked_for_is_the_quotient_of_the_exact_densities():
    x = np.linspace(-2, 2.5, 901)
    classes = [
        np.exp(-((x - mean) ** 2) / (2 * var)) / np.sqrt(2 * np.pi * var)
        for mean, var in ((0.3, 0.1), (-0.5, 0.15))
    ]
    w = 1.5
    expected = classes[0] ** (1 + w) * (sum(classes) / 2) ** -w
    expected /= expected.sum() * (x[1] - x[0])
    np.testing.assert_allclose(exactness.target_density(w, x), expected, atol=2e-3)


def test_samples_are_narrower_than_asked_for_and_their_weights_correct_the_mean():
    w, options = 1.5, {"count": 4000, "seed": 0, "num_points": 120}
    axis = np.linspace(-2, 2.5, 901)
    target = exactness.target_density(w, axis)
    mean = np.average(axis, weights=target)
    ddim, _ = exactness.draw_mixture("ddim", w, **options)
    ancestral, log_weight = exactness.draw_mixture("ancestral", w, **options)
    share = np.exp(log_weight - log_weight.max())
    weighted = np.average(ancestral, weights=share)
    assert ddim.var() < ancestral.var() < np.average((axis - mean) ** 2, weights=target)
    assert abs(weighted - mean) < abs(ancestral.mean() - mean) < abs(ddim.mean() - mean)
