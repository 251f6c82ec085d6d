"""Branches, weights per call, intervals, and the densities that guidance draws."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.core.oracles import triangle
from tests.solver_files import alpha_sigma, branches64, guided64, load, run

SHAPE = (4, 2, 2, 1)
LABELS = np.array([0, 1, 2, 1], np.int32)
NULL = 3


@pytest.fixture(scope="module")
def oracle():
    means = np.random.default_rng(1).standard_normal((3, 2, 2, 1))
    return cfg_jax.GaussianMixture(means, [0.1, 0.2, 0.3], [0.2, 0.3, 0.5])


def plan_of(solver="dpmpp_2m", points=9, **options):
    return cfg_jax.plan(np.linspace(-6, 6, points), solver, **options)


def draw(guided, plan, **options):
    options = {"clip_x": False} | options
    return cfg_jax.sample(jax.random.key(0), guided, SHAPE, plan, **options)


class Counting:
    """A Predict that counts its evaluations at run time by their batch size."""

    def __init__(self, predict):
        self.predict, self.sizes = predict, []

    def __call__(self, z, logsnr, labels):
        jax.debug.callback(lambda _: self.sizes.append(len(labels)), logsnr[0])
        return self.predict(z, logsnr, labels)


@pytest.mark.parametrize("solver, points", [("dpmpp_2m", 9), ("heun", 5), ("dpmpp_3s", 4)])
def test_the_second_branch_is_evaluated_in_the_guided_calls_only(oracle, solver, points):
    counting = Counting(oracle.predict)
    plan = plan_of(solver, points)
    w = cfg_jax.weights(plan, 2.0, interval=(-3.0, 2.0))
    draw(cfg_jax.guide(cfg_jax.branches(counting, LABELS, null_label=NULL), w), plan)
    jax.effects_barrier()
    assert 0 < w.guided.sum() < plan.num_calls
    assert counting.sizes.count(8) == w.guided.sum()
    assert counting.sizes.count(4) == plan.num_calls - w.guided.sum()


def test_an_interval_draws_bit_for_bit_what_a_weight_of_zero_outside_draws(oracle):
    plan = plan_of("unipc_2", 12)
    every = cfg_jax.branches(oracle.predict, LABELS, null_label=NULL)
    skipped = cfg_jax.weights(plan, 2.0, interval=(-3.0, 2.0))
    full = skipped._replace(guided=np.ones_like(skipped.guided))
    x, expected = (draw(cfg_jax.guide(every, w), plan) for w in (skipped, full))
    np.testing.assert_array_equal(x, expected)


def test_an_interval_guides_whole_steps_as_the_program_of_its_authors():
    # Both Heun calls of a guided step are guided, also the one beyond the interval.
    golden = load("interval_edm")
    plan = cfg_jax.plan(golden["logsnrs"], "heun")
    first, last = golden["interval_steps"]
    low, high = golden["logsnrs"][first], golden["logsnrs"][last + 1]
    w = cfg_jax.weights(plan, float(golden["w_scalar"]), interval=(low, high))
    assert w.guided.sum() == golden["uncond_calls"]

    def x_hat(z, logsnr, call):
        return guided64(golden, z, logsnr, float(w.w[call, 0]))

    states, estimates = run(plan, x_hat, golden["z_1"])
    np.testing.assert_allclose(states, golden["call_z"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(estimates[-1], golden["x_final"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["cfgpp_ddim_lam0.6_cosine", "cfgpp_ddim_lam1.0_karras"])
def test_cfgpp_is_a_schedule_of_weights_in_ddim(name):
    golden = load(name)
    plan = cfg_jax.plan(golden["logsnrs"], "ddim")
    w = cfg_jax.weights(plan, float(golden["lam"]), schedule="cfgpp").w
    states, _ = run(
        plan,
        lambda z, logsnr, call: guided64(golden, z, logsnr, float(w[call, 0])),
        golden["z_1"],
    )
    np.testing.assert_allclose(states, golden["z"][: len(states)], rtol=0, atol=2e-6)


def test_schedules_keep_the_mean_weight_over_diffusion_time():
    # u = 2 / pi arctan(exp(-logsnr / 2)) is uniform on the unbounded cosine schedule.
    u = (np.arange(2000) + 0.5) / 2000
    logsnr = -2 * np.log(np.tan(np.pi / 2 * u))[::-1]
    for schedule in ("constant", "linear", "cosine"):
        w = cfg_jax.weights(logsnr, 3.0, schedule=schedule).w
        assert w.mean() == pytest.approx(3.0, rel=1e-5)
    rising = cfg_jax.weights(logsnr, 3.0, schedule="linear").w[:, 0]
    assert np.all(np.diff(rising) > 0) and rising[-1] == pytest.approx(6.0, rel=1e-3)
    pcs = cfg_jax.weights(logsnr, 3.0, schedule="pcs").w[:, 0]
    middle = np.argmin(np.abs(logsnr))
    assert pcs[middle] == pytest.approx(1.5 * (1 - math.cos(math.pi / 16)), rel=1e-2)
    assert pcs[0] == pytest.approx(0, abs=1e-6) and pcs[-1] == pytest.approx(3.0, rel=1e-3)
    clamped = cfg_jax.weights(logsnr, 3.0, schedule="linear", least=1.0).w
    np.testing.assert_allclose(clamped[:, 0], np.maximum(rising, 1.0))


def eps_of_density(oracle, z, logsnr, terms):
    """-sigma grad_z sum_j a_j log p(z | label_j), by automatic differentiation."""

    def log_density(z):
        return sum(a * oracle.log_prob(z, logsnr, labels).sum() for a, labels in terms)

    sigma = cfg_jax.alpha_sigma(logsnr)[1].reshape(-1, 1, 1, 1)
    return -sigma * jax.grad(log_density)(z)


@pytest.mark.parametrize("a", [[2.5, -1.5], [1.0, 0.7, -0.7], [-0.5, 0.9, 0.6]])
def test_linear_weights_give_the_score_of_the_product_of_densities(oracle, a):
    others = [np.full(4, NULL, np.int32), np.array([2, 2, 0, 0], np.int32)][: len(a) - 1]
    every = cfg_jax.branches(oracle.predict, LABELS, others=others)
    grid = np.linspace(-4, 4, 5)
    guided = cfg_jax.guide(every, cfg_jax.linear_weights(grid, a))
    z = jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE), jnp.float32)
    row = jax.tree.map(lambda leaf: leaf[2], guided.rows)
    eps, _ = guided.denoise(z, jnp.full(4, 0.5), row, ())
    terms = list(zip(a, [LABELS, *others], strict=True))
    expected = eps_of_density(oracle, z, jnp.full(4, 0.5), terms)
    np.testing.assert_allclose(eps, expected, rtol=0, atol=1e-5)


def test_the_order_of_branches_and_a_label_given_twice_do_not_matter(oracle):
    plan = plan_of()
    null, second = np.full(4, NULL, np.int32), np.array([2, 2, 0, 0], np.int32)

    def drawn(labels, others, a):
        every = cfg_jax.branches(oracle.predict, labels, others=others)
        return draw(cfg_jax.guide(every, cfg_jax.linear_weights(plan, a)), plan)

    first = drawn(LABELS, [null, second], [1.5, -1.0, 0.5])
    swapped = drawn(null, [second, LABELS], [-1.0, 0.5, 1.5])
    np.testing.assert_allclose(first, swapped, rtol=0, atol=1e-5)
    twice = drawn(LABELS, [LABELS, null], [1.5, 0.5, -1.0])
    once = drawn(LABELS, [null], [2.0, -1.0])
    np.testing.assert_allclose(twice, once, rtol=0, atol=1e-5)


def test_a_negative_class_takes_the_place_of_the_null_label(oracle):
    plan = plan_of()
    negative = np.array([2, 2, 0, 0], np.int32)
    w = cfg_jax.weights(plan, 1.5)
    plain = cfg_jax.guide(cfg_jax.branches(oracle.predict, LABELS, others=[negative]), w)
    every = cfg_jax.branches(oracle.predict, LABELS, others=[negative])
    linear = cfg_jax.guide(every, cfg_jax.linear_weights(plan, [2.5, -1.5]))
    np.testing.assert_allclose(draw(plain, plan), draw(linear, plan), rtol=0, atol=1e-5)


def test_guidance_without_the_algebra_draws_the_same(oracle):
    plan = plan_of()
    w = np.array([0.5, 1.0, 2.0, 3.0], np.float32)
    every = cfg_jax.branches(oracle.predict, LABELS, null_label=NULL)
    plain = cfg_jax.classifier_free_guidance(oracle.predict, LABELS, w, null_label=NULL)
    guided = cfg_jax.guide(every, cfg_jax.weights(plan, w))
    np.testing.assert_allclose(draw(guided, plan), draw(plain, plan), rtol=0, atol=1e-5)


def test_a_grid_and_a_step_rule_are_guided_too(oracle):
    grid = cfg_jax.logsnr_grid(cfg_jax.cosine_schedule(), 8)
    every = cfg_jax.branches(oracle.predict, LABELS, null_label=NULL)
    plain = cfg_jax.classifier_free_guidance(oracle.predict, LABELS, 2.0, null_label=NULL)
    guided = cfg_jax.guide(every, cfg_jax.weights(np.asarray(grid), 2.0))
    x, expected = (draw(each, grid, step=cfg_jax.ddim_step) for each in (guided, plain))
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-5)


def test_a_weaker_model_that_is_the_model_itself_changes_nothing(oracle):
    plan = plan_of()
    every = cfg_jax.branches(oracle.predict, LABELS, weaker=oracle.predict)
    x, expected = (draw(cfg_jax.guide(every, cfg_jax.weights(plan, w)), plan) for w in (3.0, 0.0))
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-5)


def test_a_weaker_model_without_labels_is_classifier_free_guidance(oracle):
    plan = plan_of()

    def weaker(z, logsnr, labels):
        return oracle.predict(z, logsnr, jnp.full_like(labels, NULL))

    def pair(z, logsnr, labels):
        return oracle.predict(z, logsnr, labels), weaker(z, logsnr, labels)

    w = cfg_jax.weights(plan, 2.0)
    kinds = {"weaker": weaker}, {"pair": pair}, {"null_label": NULL}
    x, paired, expected = (
        draw(cfg_jax.guide(cfg_jax.branches(oracle.predict, LABELS, **kind), w), plan)
        for kind in kinds
    )
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(paired, expected, rtol=0, atol=1e-5)


def test_blended_branches_are_one_branch_for_a_rule(oracle):
    plan = plan_of("unipc_2", 9)
    others = [np.full(4, NULL, np.int32), np.full(4, 2, np.int32)]
    blended = cfg_jax.branches(oracle.predict, LABELS, others=others, blend=[1.5, -0.5])
    x = draw(cfg_jax.guide(blended, cfg_jax.weights(plan, 2.0), cfg_jax.cfg()), plan)
    every = cfg_jax.branches(oracle.predict, LABELS, others=others)
    linear = cfg_jax.linear_weights(plan, [3.0, -3.0, 1.0])
    np.testing.assert_allclose(x, draw(cfg_jax.guide(every, linear), plan), rtol=0, atol=1e-5)


@pytest.mark.parametrize("blend", [[1.0], [0.5, 0.4], [[1.0, 0.0]], [float("nan"), 1.0]])
def test_weights_of_a_blend_that_do_not_sum_to_one_are_refused(blend):
    others = [LABELS, LABELS]
    with pytest.raises(ValueError, match="blend="):
        cfg_jax.branches(lambda z, logsnr, labels: z, LABELS, others=others, blend=blend)


def limit(variance):
    """The limit of infinitely many steps, for an error of order 1: Richardson's extrapolation."""
    return 2 * variance(2001) - variance(1001)


def test_autoguidance_of_gaussians_draws_the_variance_of_its_closed_form():
    # N(0, v) guided away from N(0, k v): DDIM ends at v^(1 + w) (k v)^-w in the limit of T.
    v, k, w = 1.0, 2.0, 1.0

    def x_hat(z, logsnr, call):
        alpha, sigma = alpha_sigma(logsnr)
        strong, weak = (sigma * z / (alpha**2 * var + sigma**2) for var in (v, k * v))
        return (z - sigma * ((1 + w) * strong - w * weak)) / alpha

    def variance(points):
        plan = cfg_jax.plan(np.linspace(-18, 18, points), "ddim")
        return run(plan, x_hat, np.ones((1, 1)))[1][-1, 0, 0] ** 2

    assert limit(variance) == pytest.approx(v ** (1 + w) * (k * v) ** -w, rel=2e-4)


def test_a_class_drawn_at_random_in_every_call_has_equal_frequencies(oracle):
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(4))
    every = cfg_jax.branches(oracle.predict, LABELS, independent=(keys, 3))
    z = jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE), jnp.float32)
    logsnr = jnp.full(4, -2.0)
    others = jax.vmap(lambda call: every.every(z, logsnr, call)[1])(jnp.arange(100))
    each = jnp.stack([oracle.predict(z, logsnr, jnp.full(4, k)) for k in range(3)])
    match = np.isclose(np.asarray(each)[:, None], np.asarray(others)[None], atol=1e-6)
    frequency = match.all(axis=(3, 4, 5)).mean(axis=(1, 2))
    np.testing.assert_allclose(frequency, 1 / 3, atol=0.1)  # 4 standard errors


def test_a_random_class_stands_for_no_label_at_high_noise_only():
    # p(k | z) - p(k) is of order alpha. docs/sampling.md has these numbers.
    mixture = cfg_jax.GaussianMixture(triangle(), 0.15**2, np.ones(3))
    labels = jnp.arange(3000) % 3
    x = mixture.draw(jax.random.key(1), labels)
    eps = jax.random.normal(jax.random.key(2), x.shape)

    def missed(logsnr):
        """Error of the mean over random classes, as a fraction of the guidance c - u, rms."""
        z, every = cfg_jax.diffuse(x, eps, logsnr), jnp.full(len(x), logsnr)
        of_class = lambda k: mixture.predict(z, every, jnp.full(len(x), k))  # noqa: E731
        mean, none = (of_class(0) + of_class(1) + of_class(2)) / 3, of_class(3)
        return float(jnp.std(mean - none) / jnp.std(mixture.predict(z, every, labels) - none))

    assert missed(-6.0) / missed(-8.0) == pytest.approx(math.e, rel=0.02)
    found = [missed(logsnr) for logsnr in (-8.0, -4.0, -2.0, 0.0)]
    np.testing.assert_allclose(found, [0.013, 0.097, 0.26, 0.78], rtol=0.05)


def test_a_state_of_a_rule_advances_with_steps_and_not_with_calls():
    # In Heun's second call the momentum of projected guidance is that of the step.
    states = []

    def apply(x_cond, x_other, w, state):
        return x_cond, state + 1

    rule = cfg_jax.cfg()._replace(apply=apply, init=lambda shape: jnp.zeros(()))
    plan = plan_of("heun", 5)
    every = cfg_jax.branches(lambda z, logsnr, labels: z, LABELS, null_label=NULL)
    guided = cfg_jax.guide(every, cfg_jax.weights(plan, 1.0), rule)
    state = guided.init(SHAPE)
    for call in range(plan.num_calls):
        row = jax.tree.map(lambda leaf, call=call: leaf[call], guided.rows)
        _, state = guided.denoise(jnp.zeros(SHAPE), jnp.zeros(4), row, state)
        states.append(int(state))
    assert states == [1, 1, 2, 2, 3, 3, 4, 4, 5]


@pytest.mark.parametrize(
    "rule",
    [cfg_jax.rescale(0.7), cfg_jax.apg(r=2.5, beta=-0.5), cfg_jax.zero_star(), cfg_jax.cfg()],
)
def test_every_rule_draws_finite_samples_with_every_kind_of_solver(oracle, rule):
    every = cfg_jax.branches(oracle.predict, LABELS, null_label=NULL)
    for plan in (plan_of("heun", 5), plan_of("dpmpp_2m", eta=1.0)):
        guided = cfg_jax.guide(every, cfg_jax.weights(plan, 2.0, interval=(-4, 4)), rule)
        x, expected = draw(guided, plan), draw(guided.then(lambda denoiser: denoiser), plan)
        assert np.isfinite(x).all()
        np.testing.assert_array_equal(x, expected)


GRID = np.linspace(-4, 4, 5)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: cfg_jax.weights(GRID, np.nan), "w=nan: need finite guidance weights"),
        (lambda: cfg_jax.weights(GRID, np.ones((4, 3))), r"w has shape \(4, 3\)"),
        (lambda: cfg_jax.weights(GRID, 1.0, schedule="ramp"), "schedule='ramp': choose one of co"),
        (lambda: cfg_jax.weights(GRID, 1.0, interval=(2, -2)), r"interval=\(2, -2\): need \(lo"),
        (lambda: cfg_jax.weights(GRID, 1.0, interval=3.0), "interval=3.0: need"),
        (lambda: cfg_jax.weights(GRID, 1.0, interval=(0, math.nan)), "interval=.*: need"),
        (lambda: cfg_jax.linear_weights(GRID, [1.0, 0.5]), "sum to 1.5: need 1"),
        (lambda: cfg_jax.linear_weights(GRID, 1.0), "a has shape"),
        (
            lambda: cfg_jax.guide(
                cfg_jax.branches(branches64, LABELS, null_label=3),
                cfg_jax.linear_weights(GRID, [1.0, 0.5, -0.5]),
            ),
            "3 weights for 2 branches",
        ),
        (
            lambda: cfg_jax.guide(
                cfg_jax.branches(branches64, LABELS, others=[LABELS, LABELS]),
                cfg_jax.weights(GRID, 1.0),
            ),
            "3 branches with one weight",
        ),
        (lambda: cfg_jax.branches(branches64, LABELS), "branches with none of null_label, others"),
        (
            lambda: cfg_jax.branches(branches64, LABELS, null_label=3, weaker=branches64),
            "branches with null_label and weaker of",
        ),
    ],
)
def test_guidance_that_cannot_be_meant_is_refused_in_one_line(make, said):
    with pytest.raises(ValueError, match=said) as error:
        make()
    assert "\n" not in str(error.value)


def test_correctors_alone_are_guided_and_advance_the_state_of_a_rule(oracle):
    plan = cfg_jax.plan(np.linspace(-3, 3, 5), "pcg")
    w = cfg_jax.weights(plan, 2.0)
    np.testing.assert_array_equal(w.guided, plan.corrects)
    np.testing.assert_array_equal(w.starts, plan.corrects)
    linear = cfg_jax.linear_weights(plan, [3.0, -2.0])
    np.testing.assert_array_equal(linear.guided, plan.corrects)
    every = cfg_jax.branches(oracle.predict, LABELS, null_label=NULL)
    x, expected = (draw(cfg_jax.guide(every, each), plan) for each in (linear, w))
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-5)


def test_what_a_schedule_or_a_watch_does_not_support_is_refused(oracle):
    with pytest.raises(ValueError, match="schedule='cfgpp' with a solver of several calls"):
        cfg_jax.weights(plan_of("heun", 5), 0.6, schedule="cfgpp")
    every = cfg_jax.branches(oracle.predict, LABELS, null_label=NULL)
    with pytest.raises(ValueError, match="watch with linear_weights"):
        cfg_jax.guide(every, cfg_jax.linear_weights(GRID, [2.0, -1.0]), watch=True)


def test_guidance_for_another_number_of_calls_is_refused(oracle):
    every = cfg_jax.branches(oracle.predict, LABELS, null_label=NULL)
    guided = cfg_jax.guide(every, cfg_jax.weights(GRID, 1.0))
    with pytest.raises(ValueError, match="need 9 rows, one per call"):
        draw(guided, plan_of())


@pytest.mark.filterwarnings("error")
def test_plans_and_weights_take_arrays_of_jax_but_no_traced_ones():
    grid = jnp.linspace(-6.0, 6.0, 5)
    plan = cfg_jax.plan(grid, "dpmpp_2m")
    w = cfg_jax.weights(plan, jnp.asarray(2.0), schedule="linear").w
    np.testing.assert_allclose(w, cfg_jax.weights(np.asarray(grid), 2.0, schedule="linear").w)
    np.testing.assert_allclose(
        cfg_jax.linear_weights(grid, jnp.array([3.0, -2.0])).a[0], [[3], [-2]]
    )
    with pytest.raises(ValueError, match="w is traced: call this outside of jax.jit"):
        jax.jit(lambda w: cfg_jax.weights(plan, w).w)(2.0)
    with pytest.raises(ValueError, match="logsnrs is traced: call this outside of jax.jit"):
        jax.jit(lambda grid: cfg_jax.plan(grid).matrix)(grid)
