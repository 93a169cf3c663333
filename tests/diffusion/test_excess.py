"""base + gain h, its clamp and the share of values it moves, and where a choice is defined."""

import numpy as np
import pytest

from ddpm_jax.diffusion import denoiser, process, schedules, timesteps, variances
from tests.oracle import pairs
from tests.oracle import schedules as oracle_schedules
from tests.oracle import variances as oracle_variances

SHORT = [0.1, 0.3, 0.5, 0.7]
EXCESS = np.array([np.nan, -0.2, 0.1, 50.0, 0.3])
TABLES = schedules.from_betas(SHORT)


def constant(h, **properties):
    """A choice whose h is an image, at every step."""
    return variances.from_excess(lambda step, x_t, prediction: h, **properties)


def looking(step, x_t, prediction):
    """An h that looks at x_t."""
    return prediction.eps


def one_step(t, eps_hat):
    """The step into s = 1 of a batch, with an eps_hat."""
    step = process.pairs(TABLES, np.array([1]), np.array([t]))
    return process.Steps(*(column[0] for column in step)), denoiser.Prediction(eps_hat, eps_hat)


@pytest.mark.parametrize("eta", [None, 0.0, 0.5])
def test_an_h_may_be_an_image(eta):
    h = np.random.default_rng(0).uniform(0.1, 0.9, (4, 2, 3, 1))
    steps = process.steps(TABLES, [1, 2, 3, 4], process.DDPM if eta is None else process.ddim(eta))
    got = np.exp(variances.table(constant(h), steps))
    for k, p in enumerate(pairs.chain(SHORT, [1, 2, 3, 4])):
        kernel = pairs.kernel(p, eta)
        np.testing.assert_allclose(got[k], kernel.base + kernel.gain * h[k], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["linear", "cosine", "quadratic"])
def test_the_four_forms_of_an_excess_agree(name):
    """tb + v h = (b/a)(1 - b (1 - h)/(1 - ab_t)) = the DDIM-type form at lambda^2 = tb = the x_0 form, to 1e-9."""
    rng = np.random.default_rng(0)
    betas = getattr(oracle_schedules, name)(1000)
    for t in rng.integers(2, 1001, 30):
        s = int(rng.integers(1, t))
        p, h = pairs.pair(betas, s, int(t)), rng.uniform(0.01, 0.99)
        kernels = pairs.kernel(p), pairs.kernel(p, eta=1.0)
        cov = p.noise_t / p.ab_t * h
        forms = [
            *(k.base + k.gain * h for k in kernels),
            p.b / p.a * (1 - p.b * (1 - h) / p.noise_t),
            oracle_variances.from_data_uncertainty(p, cov),
        ]
        steps = process.pairs(schedules.SCHEDULES[name](1000), np.array([s]), np.array([t]))
        ours = np.exp(variances.table(constant(np.array([h])), steps))[0]
        np.testing.assert_allclose(forms, ours, rtol=1e-9)


# ---------------------------------------------------------------- the clamp


@pytest.mark.parametrize("s", [0, 1])
def test_the_clamp_is_of_the_covariance_of_x_0(s):
    """Cov[x_0 | x_t] within [0, 1], so sigma^2 within [tb, tb + ab_s b^2/(1-ab_t)^2], by the oracle."""
    h = np.random.default_rng(1).normal(0, 2, 1000)
    held = variances.from_bounded_excess(lambda step, x_t, prediction: h)
    for t in (2, 3, 4):
        p, steps = pairs.pair(SHORT, s, t), process.pairs(TABLES, np.array([s]), np.array([t]))
        sigma2 = np.exp(held.log_var(steps, None, None))
        cov = np.clip(p.noise_t / p.ab_t * h, 0, 1)
        np.testing.assert_allclose(sigma2, oracle_variances.from_data_uncertainty(p, cov), rtol=1e-12, atol=1e-15)
        k = pairs.kernel(p)
        np.testing.assert_allclose(sigma2, k.base + k.gain * oracle_variances.held(h, p), rtol=1e-12, atol=1e-15)


def test_what_the_clamp_moves_is_reported():
    eps_hat = np.random.default_rng(2).normal(0.3, 1, (50, 2, 2, 1))
    for t in (2, 3, 4):
        step, prediction = one_step(t, eps_hat)
        choice = variances.from_bounded_excess(looking, headless=False)
        assert choice.clamped is not None
        p = pairs.pair(SHORT, 1, t)
        moved = (eps_hat < 0) | (eps_hat > p.ab_t / p.noise_t)
        assert 0.2 < moved.mean() < 0.99
        np.testing.assert_array_equal(choice.clamped(step, None, prediction), moved)


def test_a_fixed_table_reports_the_clamp_by_the_step():
    steps = process.steps(TABLES, [1, 2, 3, 4])
    choice = variances.analytic(EXCESS, clamp_cov=True)
    assert choice.clamped is not None
    # ab/(1 - ab) = 9, 1.7, .46, .104: -.2 is below 0, 50 and .3 are above
    np.testing.assert_array_equal(choice.clamped(steps, None, None), [True, False, True, True])


def test_without_a_clamp_there_is_no_share_and_h_stays_as_it_is():
    assert variances.estimated(looking, clamp_cov=False).clamped is None
    assert variances.estimated(looking, clamp_cov=True).clamped is not None
    step, prediction = one_step(3, np.full((1, 1, 1, 1), 7.0))
    p = pairs.pair(SHORT, 1, 3)
    free, held = (np.exp(variances.estimated(looking, c).log_var(step, None, prediction)) for c in (False, True))
    assert free.item() == pytest.approx(p.tb + 7 * p.v, rel=1e-12)
    assert held.item() == pytest.approx(p.tb + p.v * p.ab_t / p.noise_t, rel=1e-12)


def test_a_negative_h_of_a_head_is_not_hidden_without_the_clamp():
    """sigma^2 < 0 has no logarithm: NaN, not a small number."""
    step, prediction = one_step(3, np.full((1, 1, 1, 1), -50.0))
    assert np.isnan(variances.from_excess(looking).log_var(step, None, prediction)).all()
    held = variances.from_bounded_excess(looking).log_var(step, None, prediction)
    np.testing.assert_allclose(held, np.log(pairs.pair(SHORT, 1, 3).tb), rtol=1e-12)


# ---------------------------------------------------------------- where a choice is defined


def test_a_table_of_images_names_the_time_of_a_negative_value():
    h = np.full((4, 2, 2, 1), 0.5)
    h[2, 1, 0, 0] = -40.0
    with pytest.raises(ValueError, match="t = 3 is negative"):
        variances.table(constant(h), process.steps(TABLES, [1, 2, 3, 4]))


def fitted_on(times):
    return constant(0.5)._replace(times=times)


def test_a_choice_fitted_on_a_chain_is_refused_elsewhere():
    variances.check_steps(fitted_on((1, 2, 4)), process.steps(TABLES, [1, 2, 4]))
    for times in ([1, 4], [1, 3, 4], [1, 2, 3, 4], [2, 4], [1, 2]):
        with pytest.raises(ValueError, match=f"chain of 3 steps .* of a chain of {len(times)}"):
            variances.table(fitted_on((1, 2, 4)), process.steps(TABLES, times))
    assert variances.fits(fitted_on((1, 2, 4)), np.array([1, 2, 4]))
    assert not variances.fits(fitted_on((1, 2, 4)), np.array([1, 2, 3]))
    assert variances.fits(fitted_on(None), np.array([3]))


@pytest.mark.parametrize("of", ["linear", "cosine"])
def test_scaled_adds_a_logarithm_to_choices_that_look_at_x_t_too(of):
    steps = process.steps(schedules.SCHEDULES[of](100), timesteps.even(100, 4))
    step = process.Steps(*(column[2] for column in steps))
    prediction = denoiser.Prediction(np.full((2, 1, 1, 1), 0.3), np.zeros((2, 1, 1, 1)))
    choice = variances.from_excess(looking, headless=False)
    grown = variances.scaled(choice, 1.7).log_var(step, None, prediction) - choice.log_var(step, None, prediction)
    np.testing.assert_allclose(np.exp(grown), 1.7, rtol=1e-12)


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_factor_that_is_not_positive_is_refused_with_the_value(factor):
    with pytest.raises(ValueError, match=f"factor = {factor:g}"):
        variances.scaled(variances.small(), factor)
