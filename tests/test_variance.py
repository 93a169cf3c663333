"""Every reverse variance against the oracle, over the registry."""

import inspect

import numpy as np
import pytest

from ddpm_jax import process, schedule, trajectory, variance
from tests.oracle import pairs, schedules, variances

SHORT = [0.1, 0.3, 0.5, 0.7]
LINEAR = schedules.linear(1000)
NAMES = sorted(variance.VARIANCES)
EVERY_CHAIN = [[4], [1, 4], [2, 3, 4], [1, 2, 3, 4], [3]]


def measured(T, seed=0):
    """Made-up 1 - Gamma_t and M_t in (0, 1); the row of the data is never read."""
    rng = np.random.default_rng(seed)
    excess, error = rng.uniform(0.05, 0.95, (2, T + 1))
    excess[0] = error[0] = np.nan
    return excess, error


def calibration(tables, **changes):
    excess, error = measured(tables.T)
    known = variance.Calibration(tables, frac=0.3, c=0.6, excess=excess, error=error, clamp_cov=False)
    return known._replace(**changes)


def oracle_log_var(name, betas, times, eta=None):
    excess, error = measured(len(betas))
    known = {} if name in ("zero", "interpolated") else {"c": 0.6, "excess": excess, "error": error}
    values = [
        variances.variance(name, p, betas, eta=eta, frac=0.3, **known)
        for p in pairs.chain(betas, [int(t) for t in times])
    ]
    with np.errstate(divide="ignore"):
        return np.log(values)


def test_the_registry_is_what_the_oracle_knows():
    assert set(NAMES) == {*variances.HAS_EXCESS, "interpolated", "zero"}


@pytest.mark.parametrize("times", EVERY_CHAIN, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_choice_equals_the_oracle_on_short_chains(short, name, times):
    built = variance.build(name, calibration(short))
    log_var = variance.table(built, process.steps(short, times))
    assert log_var.shape == (len(times),) and log_var.dtype == np.float64
    np.testing.assert_allclose(log_var, oracle_log_var(name, SHORT, times), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("K", [1, 10, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_every_choice_equals_the_oracle_on_long_chains(linear, name, K):
    times = trajectory.even(1000, K)
    log_var = variance.table(variance.build(name, calibration(linear)), process.steps(linear, times))
    np.testing.assert_allclose(log_var, oracle_log_var(name, LINEAR, times), rtol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", variances.HAS_EXCESS)
def test_choices_with_an_h_are_base_plus_gain_h_for_every_kernel(short, name, eta):
    for times in EVERY_CHAIN:
        log_var = variance.table(
            variance.build(name, calibration(short)), process.steps(short, times, process.ddim(eta))
        )
        np.testing.assert_allclose(log_var, oracle_log_var(name, SHORT, times, eta), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_choices_without_an_h_are_refused_with_a_ddim_type_kernel(short, name):
    built = variance.build(name, calibration(short))
    steps = process.steps(short, [1, 2, 4], process.ddim(0.5))
    if built.has_excess:
        variance.table(built, steps)
    else:
        with pytest.raises(ValueError, match=r"(?i)ddim|kernel"):
            variance.table(built, steps)


def test_interpolated_has_no_h():
    assert not variance.interpolated(0.5).has_excess


# ---------------------------------------------------------------- the family that holds the article's two answers


def test_large_is_exactly_b(linear):
    for K in (1, 10, 1000):
        steps = process.steps(linear, trajectory.even(1000, K))
        np.testing.assert_allclose(
            variance.table(variance.large(linear), steps), np.log(steps.b), rtol=1e-12, atol=1e-12
        )


def test_small_is_exactly_tb(linear):
    steps = process.steps(linear, trajectory.even(1000, 10))
    np.testing.assert_array_equal(
        variance.table(variance.small(), steps), np.log(steps.tb, where=steps.tb > 0, out=np.full(10, -np.inf))
    )


def test_family_0_is_small_and_family_1_is_large(short):
    steps = process.steps(short, [1, 2, 3, 4])
    for c, other in ((0.0, variance.small()), (1.0, variance.large(short))):
        np.testing.assert_allclose(
            variance.table(variance.family(c, short), steps), variance.table(other, steps), rtol=1e-12
        )


@pytest.mark.parametrize("c", [0.25, 1.0, 4.0, 100.0])
@pytest.mark.parametrize(("s", "t"), [(0, 1), (1, 3), (0, 4), (2, 4)])
def test_family_is_the_variance_of_the_true_reverse_kernel(short, c, s, t):
    steps = process.pairs(short, np.array([s]), np.array([t]))
    log_var = variance.table(variance.family(c, short), steps)[0]
    assert np.exp(log_var) == pytest.approx(variances.true_variance(pairs.pair(SHORT, s, t), c), rel=1e-12)


def test_golden_family_linear_445_334(linear):
    steps = process.pairs(linear, np.array([334]), np.array([445]))
    expected = {0: 0.785777, 0.25: 0.845260, 1: 1.0, 4: 1.398457, 100: 2.299332, 1e12: 2.398113}
    for c, ratio in expected.items():
        sigma2 = np.exp(variance.table(variance.family(float(c), linear), steps)[0])
        assert sigma2 / steps.b[0] == pytest.approx(ratio, abs=5e-7)


def test_a_negative_c_is_refused_with_the_value(short):
    with pytest.raises(ValueError, match="-2"):
        variance.family(-2.0, short)


# ---------------------------------------------------------------- analytic


def test_four_forms_of_the_analytic_variance_agree():
    """At every kind of step of two schedules, float64."""
    rng = np.random.default_rng(0)
    for tables in (schedule.linear(), schedule.cosine()):
        t = rng.integers(2, 1001, 300)
        s = rng.integers(1, t)
        gamma = rng.uniform(0.01, 0.99, 1001)
        p = process.pairs(tables, s, t)
        noise_s, noise_t, ab_s = tables.one_minus_alpha_bar[s], tables.one_minus_alpha_bar[t], tables.alpha_bar[s]
        g, b, a = gamma[t], p.b, p.a
        cov_x_0 = noise_t / tables.alpha_bar[t] * (1 - g)
        ours = np.exp(variance.table(variance.analytic(1 - gamma, clamp_cov=False), p))
        np.testing.assert_allclose(p.tb + b**2 / (a * noise_t) * (1 - g), ours, rtol=1e-9)
        np.testing.assert_allclose(b / a * (1 - b * g / noise_t), ours, rtol=1e-9)
        ddim_gain = (np.sqrt(noise_t / a) - np.sqrt(noise_s - p.tb)) ** 2
        np.testing.assert_allclose(p.tb + ddim_gain * (1 - g), ours, rtol=1e-9)
        np.testing.assert_allclose(p.tb + ab_s * b**2 / noise_t**2 * cov_x_0, ours, rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_analytic_variance_keeps_its_bounds(name):
    rng = np.random.default_rng(1)
    tables = schedule.SCHEDULES[name](1000)
    t = np.concatenate([np.arange(1, 1001), rng.integers(2, 1001, 2000)])
    s = np.concatenate([np.arange(0, 1000), rng.integers(0, t[1000:])])
    steps = process.pairs(tables, s, t)
    slack = 1 + 1e-9
    for _ in range(3):
        excess = rng.uniform(0, 1, 1001)
        free = np.exp(variance.table(variance.analytic(excess, clamp_cov=False), steps))
        clamped = np.exp(variance.table(variance.analytic(excess, clamp_cov=True), steps))
        assert (steps.tb <= free * slack).all() and (free <= steps.b / steps.a * slack).all()
        data_bound = steps.tb + tables.alpha_bar[s] * steps.b**2 / tables.one_minus_alpha_bar[t] ** 2
        assert (steps.tb <= clamped * slack).all() and (clamped <= data_bound * slack).all()


def test_the_clamp_holds_the_covariance_of_x_0_in_0_1(short):
    steps = process.steps(short, [1, 2, 3, 4])
    excess = np.array([np.nan, -0.2, 0.1, 50.0, 0.3])
    sigma2 = np.exp(variance.table(variance.analytic(excess, clamp_cov=True), steps))
    cov_x_0 = [0.0, 0.1 * 0.37 / 0.63, 1.0, 0.3 * (1 - 0.0945) / 0.0945]
    cov_x_0[3] = min(cov_x_0[3], 1.0)
    for k, p in enumerate(pairs.chain(SHORT, [1, 2, 3, 4])):
        assert sigma2[k] == pytest.approx(p.tb + p.ab_s * p.b**2 / p.noise_t**2 * cov_x_0[k], rel=1e-12, abs=1e-15)


def test_an_estimate_that_makes_the_variance_negative_is_refused_with_its_time(short):
    excess = np.array([np.nan, 0.5, 0.5, -40.0, 0.5])
    with pytest.raises(ValueError, match="3"):
        variance.table(variance.analytic(excess, clamp_cov=False), process.steps(short, [1, 2, 3, 4]))


def test_an_unmeasured_time_is_refused_with_its_time(short):
    error = np.array([np.nan, 0.5, np.nan, 0.5, 0.5])
    with pytest.raises(ValueError, match="2"):
        variance.table(variance.isotropic(error), process.steps(short, [1, 2, 3, 4]))


# ---------------------------------------------------------------- interpolated, zero, scaled


@pytest.mark.parametrize("frac", [0.0, 0.5, 1.0])
def test_interpolated_is_finite_in_the_last_step_too(short, linear, frac):
    for tables in (short, linear):
        for times in ([1, 2, tables.T], [tables.T]):
            assert np.isfinite(variance.table(variance.interpolated(frac), process.steps(tables, times))).all()


def test_interpolated_ends_at_small_and_large(linear):
    steps = process.steps(linear, trajectory.even(1000, 10))
    np.testing.assert_allclose(variance.table(variance.interpolated(1.0), steps), np.log(steps.b), rtol=1e-12)
    low = variance.table(variance.interpolated(0.0), steps)
    np.testing.assert_allclose(low[1:], np.log(steps.tb[1:]), rtol=1e-12)
    assert np.exp(low[0]) == pytest.approx(5.453188e-5, rel=1e-6)


@pytest.mark.parametrize("frac", [-0.25, 1.5])
def test_a_fraction_outside_its_bounds_is_refused_with_the_value(frac):
    with pytest.raises(ValueError, match=str(frac)):
        variance.interpolated(frac)


def test_only_zero_has_no_likelihood_bound(short):
    known = calibration(short)
    assert [name for name in NAMES if not variance.build(name, known).bound] == ["zero"]


def test_zero_adds_no_noise_with_any_kernel(short):
    for kernel in (process.DDPM, process.ddim(0.0), process.ddim(0.5)):
        assert (variance.table(variance.zero(), process.steps(short, [1, 4], kernel)) == -np.inf).all()


def test_scaled_multiplies_the_variance_and_keeps_its_properties(short):
    steps = process.steps(short, [1, 2, 4])
    for base in (variance.large(short), variance.interpolated(0.5)):
        tilted = variance.scaled(base, 1.7)
        np.testing.assert_allclose(np.exp(variance.table(tilted, steps) - variance.table(base, steps)), 1.7, rtol=1e-12)
        assert (tilted.has_excess, tilted.bound, tilted.headless) == (base.has_excess, base.bound, base.headless)


# ---------------------------------------------------------------- the registry


def test_an_unknown_name_lists_what_there_is(short):
    with pytest.raises(ValueError, match="medium") as caught:
        variance.build("medium", calibration(short))
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize(("name", "missing"), [("analytic", "excess"), ("isotropic", "error")])
def test_a_choice_without_its_measurement_is_refused(short, name, missing):
    with pytest.raises(ValueError, match=r"(?i)needs|measure"):
        variance.build(name, calibration(short, **{missing: None}))


def test_a_choice_that_looks_at_x_t_has_no_table(short):
    looks = variance.from_excess(lambda step, x_t, prediction: prediction.eps**2, headless=False)
    with pytest.raises(ValueError, match="x_t"):
        variance.table(looks, process.steps(short, [1, 4]))


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_of_this_registry_is_headless(short, name):
    built = variance.build(name, calibration(short))
    assert built.headless and built.heads == 0


def test_factories_do_not_share_state(short):
    assert len(inspect.signature(variance.small).parameters) == 0
    first, second = variance.family(0.5, short), variance.family(2.0, short)
    steps = process.steps(short, [4])
    assert variance.table(first, steps) != variance.table(second, steps)
