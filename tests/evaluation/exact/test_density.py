"""Densities of samples on a grid: Gaussian chains in closed form, mixtures by an oracle's sums and by the sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from ddpm_jax.diffusion import mixtures, process, sampler, toy, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import from_x_0
from ddpm_jax.diffusion.variances import Calibration, ReverseVariance
from ddpm_jax.evaluation.exact import density
from tests.oracle import densities, gaussian_world, pairs
from tests.oracle import variances as oracle_variances

FREE = Rules("noise", clip_x_0=False, clamp_cov=False)
QUIET = FREE._replace(last_step="mean")
WEIGHTS, MEANS, SPREADS = (0.3, 0.5, 0.2), (-1.5, 0.2, 1.1), (0.04, 0.09, 0.01)
TIMES = [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000]


def normal(x, mean, var):
    return np.exp(-((x - mean) ** 2) / (2 * var)) / np.sqrt(2 * np.pi * var)


def gaussian(tables, mean, c):
    return toy.gaussian(tables, np.full((1, 1, 1), mean), np.full((1, 1, 1), c))


def three_modes(tables):
    parts = (np.array(WEIGHTS), np.reshape(MEANS, (3, 1, 1, 1)), np.array(SPREADS))
    return mixtures.of(*parts), toy.mixture(tables, *parts)


@pytest.mark.parametrize("eta", [None, 0.7])
@pytest.mark.parametrize("name", ["small", "large", "zero"])
@pytest.mark.parametrize("rules", [FREE, QUIET], ids=["noise", "mean"])
def test_a_gaussian_chain_stays_the_gaussian_of_the_recursion(linear, eta, name, rules) -> None:
    times, c, m = [100, 400, 700, 1000], 0.6, 0.4
    steps = process.steps(linear, times, process.DDPM if eta is None else process.ddim(eta))
    chain = pairs.chain(linear.beta[1:], times)
    sigma2 = [oracle_variances.variance(name, p, linear.beta[1:], eta=eta) for p in chain]
    sigma2[0] *= rules.last_step == "noise"
    mean, var = gaussian_world.sample_moments(chain, sigma2, m, c, eta)
    x, choice = density.grid(), variances.build(name, Calibration(linear))
    found = density.propagate(x, steps, gaussian(linear, m, c).denoiser, choice, rules)
    np.testing.assert_allclose(np.exp(found), normal(x, mean, var), atol=2e-5 / np.sqrt(var))


def test_standard_normal_data_stay_standard_normal_under_large(linear) -> None:
    x, steps = density.grid(8.0, 1001), process.steps(linear, [250, 500, 750, 1000])
    found = density.propagate(x, steps, gaussian(linear, 0.0, 1.0).denoiser, variances.large(linear), FREE)
    np.testing.assert_allclose(np.exp(found), normal(x, 0, 1), atol=1e-8)
    assert density.kl(x, np.log(normal(x, 0, 1)), found) == pytest.approx(0, abs=1e-7)


CHOICES = {
    "small": lambda p, h, mean: p.tb,
    "large": lambda p, h, mean: p.b,
    "isotropic": lambda p, h, mean: p.tb + p.v * mean,
    "npr": lambda p, h, mean: p.tb + p.v * h,
}


@pytest.mark.parametrize(
    "name", ["npr", *(pytest.param(name, marks=pytest.mark.slow) for name in CHOICES if name != "npr")]
)
def test_three_modes_at_ten_steps_are_what_plain_sums_say(linear, name) -> None:
    """Within 1 % of another grid's distances, found without logarithms, splines or strides."""
    data, world = three_modes(linear)
    x, steps, moment = density.grid(), process.steps(linear, TIMES), np.full(1001, np.nan)
    moment[TIMES] = [density.mean_excess(x, data, world, linear, t) for t in TIMES]
    choice = variances.build(name, Calibration(linear, error=moment, clamp_cov=False))
    found = density.propagate(x, steps, toy.exact_heads(world, steps), choice, QUIET)
    wanted = density.log_mixture(x, data)
    ours = [of(x, wanted, found) for of in (density.kl, density.total_variation, density.wasserstein)]
    parts = (WEIGHTS, MEANS, SPREADS)
    samples = densities.propagate(
        pairs.chain(linear.beta[1:], TIMES), *parts, CHOICES[name], np.linspace(-4.6, 4.6, 2001)
    )
    np.testing.assert_allclose(ours, densities.distances(*samples, *parts), rtol=0.01)


def test_the_samplers_draws_have_the_density(linear) -> None:
    """Kolmogorov's distance of 20,000 draws; 2.2/sqrt(n) is exceeded once in 10^4 times."""
    n, times = 20_000, [1, 250, 500, 750, 1000]
    _, world = three_modes(linear)
    steps = process.steps(linear, times)
    denoiser, choice = toy.exact_heads(world, steps), variances.build("npr", Calibration(linear, clamp_cov=False))
    drawn = sampler.sample(jax.random.key(0), steps, denoiser, choice, (n, 1, 1, 1), QUIET)
    x = density.grid()
    below = np.cumsum(np.exp(density.propagate(x, steps, denoiser, choice, QUIET))) * (x[1] - x[0])
    exact = np.interp(np.sort(np.ravel(drawn)), x + (x[1] - x[0]) / 2, below)
    assert np.abs(exact - (np.arange(n) + 0.5) / n).max() < 2.2 / np.sqrt(n)


@pytest.mark.slow
@pytest.mark.parametrize(("rules", "points"), [(QUIET, 3001), (FREE, 6001)])
def test_the_grid_does_not_matter(linear, rules, points) -> None:
    data, world = three_modes(linear)
    steps, choice = process.steps(linear, [1, 100, 400, 1000]), variances.small()
    values = []
    for x in (density.grid(points=4001), density.grid(points=points)):
        pair = density.log_mixture(x, data), density.propagate(x, steps, world.denoiser, choice, rules)
        values.append([of(x, *pair) for of in (density.kl, density.total_variation, density.wasserstein)])
    np.testing.assert_allclose(*values, rtol=3e-3)


def test_a_mean_that_is_steep_against_the_noise_leaves_no_gaps(linear) -> None:
    """Images of neighbouring grid points lie four deviations of the noise apart; y = tanh(8 x) has a known density."""
    steps, x = process.steps(linear, [1000]), density.grid(points=3001)
    narrow = ReverseVariance(lambda step, x_t, prediction: 0 * step.log_b + np.log(1e-4))
    found = density.propagate(x, steps, lambda x, t: from_x_0(linear, x, t, jnp.tanh(8 * x)), narrow, FREE)
    y = x[np.abs(x) < 0.8]
    exact = normal(np.arctanh(y) / 8, 0, 1) / (8 * (1 - y**2))
    np.testing.assert_allclose(np.exp(found)[np.abs(x) < 0.8], exact, rtol=0.02)


def test_the_distances_of_two_gaussians(linear) -> None:
    x = density.grid()
    q, p = (np.log(normal(x, mean, var)) for mean, var in ((0.3, 0.5), (-0.2, 0.8)))
    assert density.kl(x, q, p) == pytest.approx(0.5 * (0.5 / 0.8 + 0.25 / 0.8 - 1 - np.log(0.5 / 0.8)), rel=1e-6)
    assert density.wasserstein(x, q, p) == pytest.approx(np.sqrt(0.25 + (np.sqrt(0.5) - np.sqrt(0.8)) ** 2), rel=1e-4)
    shifted = np.log(normal(x, 0.7, 0.5))
    assert density.total_variation(x, q, shifted) == pytest.approx(2 * ndtr(0.2 / np.sqrt(0.5)) - 1, rel=1e-5)


@pytest.mark.parametrize("t", [1, 112, 1000])
def test_the_mean_excess_is_that_of_a_gaussian(linear, t) -> None:
    parts = (np.ones(1), np.full((1, 1, 1, 1), 0.2), np.array([0.4]))
    found = density.mean_excess(density.grid(), mixtures.of(*parts), toy.mixture(linear, *parts), linear, t)
    assert found == pytest.approx(oracle_variances.noise_variance(pairs.pair(linear.beta[1:], 0, t), 0.4), rel=1e-6)


def test_the_clip_of_x_0_is_applied(linear) -> None:
    """Clipped, the samples of wide data are 1 at most, but for the last step's noise."""
    x, steps = density.grid(20.0, 2001), process.steps(linear, [500, 1000])
    denoiser = gaussian(linear, 0.0, 9.0).denoiser
    free, clipped = (
        density.propagate(x, steps, denoiser, variances.large(linear), FREE._replace(clip_x_0=clip))
        for clip in (False, True)
    )
    beyond, bound = np.abs(x) > 6, np.sqrt(steps.b[0])
    assert np.exp(clipped)[beyond].sum() * 0.02 <= 2 * ndtr(-5 / bound) * (1 + 1e-6)
    assert np.exp(free)[beyond].sum() * 0.02 > 1e-4


def test_what_the_grid_cannot_hold_is_refused(linear) -> None:
    denoiser, two = gaussian(linear, 0.0, 1.0).denoiser, process.steps(linear, [1, 1000])
    with pytest.raises(density.Unresolved, match="the grid needs 2"):
        density.propagate(density.grid(points=501), two, denoiser, variances.small(), QUIET)
    one = process.steps(linear, [1000])
    with pytest.raises(density.Unresolved, match="of the probability: give it more points"):
        density.propagate(density.grid(2.0, 501), one, denoiser, variances.large(linear), FREE)
    with pytest.raises(ValueError, match="folds"):
        density.propagate(density.grid(), one, lambda x, t: from_x_0(linear, x, t, -5 * x), variances.zero(), QUIET)
    with pytest.raises(ValueError, match="2 points up to 7"):
        density.grid(points=2)
