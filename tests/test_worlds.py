"""Worlds whose denoiser is known, against conditioning the joint Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import process, variance, worlds
from tests.oracle import pairs, variances

SHORT = [0.1, 0.3, 0.5, 0.7]
MEAN = np.array([0.3, -0.5, 0.0, 1.0]).reshape(2, 2, 1)
VARIANCE = np.array([0.25, 4.0, 1.0, 0.0]).reshape(2, 2, 1)
EACH = list(zip(MEAN.ravel(), VARIANCE.ravel(), strict=True))


@pytest.fixture(scope="module")
def world(short):
    return worlds.gaussian(short, MEAN, VARIANCE)


def x_t_draws():
    return 1.5 * jax.random.normal(jax.random.key(3), (6, 2, 2, 1))


@pytest.mark.parametrize("t", [1, 2, 4])
def test_the_denoiser_is_the_conditional_mean(world, t):
    x_t = x_t_draws()
    prediction = world.denoiser(x_t, jnp.full(6, t))
    p = pairs.pair(SHORT, 0, t)
    expected = [
        [pairs.data_given(p, m, c, y)[0] for (m, c), y in zip(EACH, row.ravel(), strict=True)]
        for row in np.asarray(x_t)
    ]
    np.testing.assert_allclose(prediction.x_0.reshape(6, 4), expected, atol=1e-5)
    np.testing.assert_allclose(np.sqrt(p.ab_t) * prediction.x_0 + np.sqrt(p.noise_t) * prediction.eps, x_t, atol=1e-5)


def test_the_denoiser_takes_one_time_per_example(world):
    x_t, t = x_t_draws(), jnp.asarray([1, 2, 3, 4, 2, 1])
    together = world.denoiser(x_t, t).x_0
    for i in range(6):
        np.testing.assert_allclose(together[i], world.denoiser(x_t[i : i + 1], t[i : i + 1]).x_0[0], rtol=1e-6)


@pytest.mark.parametrize("t", range(1, 5))
def test_cov_is_the_conditional_variance_of_the_data(world, t):
    p = pairs.pair(SHORT, 0, t)
    expected = [pairs.data_given(p, m, c, 0.0)[1] for m, c in EACH]
    np.testing.assert_allclose(np.ravel(world.cov(t)), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("s", "t"), [(s, t) for t in range(1, 5) for s in range(t)])
def test_the_reverse_kernel_is_bayes_rule_with_the_data_integrated_out(world, s, t):
    x_t, p = x_t_draws(), pairs.pair(SHORT, s, t)
    kernel = world.reverse_kernel(x_t, s, t)
    for i in range(6):
        for j, ((m, c), y) in enumerate(zip(EACH, np.ravel(x_t[i]), strict=True)):
            mean, var = pairs.marginal_reverse(p, m, c, float(y))
            assert np.ravel(kernel.mean[i])[j] == pytest.approx(mean, abs=1e-5)
            sigma2 = np.exp(np.ravel(np.broadcast_to(kernel.log_var, (2, 2, 1)))[j])
            assert sigma2 == pytest.approx(var, rel=1e-5, abs=1e-12)


def test_the_reverse_kernels_mean_is_the_posterior_mean_at_the_denoised_data(world, short):
    x_t = x_t_draws()
    x_0_hat = world.denoiser(x_t, jnp.full(6, 4)).x_0
    np.testing.assert_allclose(
        world.reverse_kernel(x_t, 2, 4).mean, process.posterior(short, x_0_hat, x_t, 2, 4).mean, atol=1e-5
    )


def test_samples_have_the_worlds_mean_and_variance(world):
    n = 20_000
    x = np.asarray(world.sample(jax.random.key(0), n), float).reshape(n, 4)
    for j, (m, c) in enumerate(EACH):
        assert x[:, j].mean() == pytest.approx(m, abs=5 * np.sqrt(c / n) + 1e-6)
        assert x[:, j].var() == pytest.approx(c, abs=5 * c * np.sqrt(2 / n) + 1e-6)


@pytest.mark.parametrize("c", [0.25, 1.0, 4.0])
def test_the_denoisers_error_and_excess_are_the_exact_h(short, c):
    """M_t = 1 - Gamma_t = ab_t c/V_t: what `isotropic` and `analytic` measure in this world."""
    n, world = 50_000, worlds.gaussian(short, np.full((1, 1, 1), 0.3), np.full((1, 1, 1), c))
    x_0, eps = world.sample(jax.random.key(1), n), jax.random.normal(jax.random.key(2), (n, 1, 1, 1))
    for t in (1, 2, 4):
        eps_hat = world.denoiser(process.diffuse(short, x_0, t, eps), jnp.full(n, t)).eps
        h = variances.noise_variance(pairs.pair(SHORT, 0, t), c)
        for values in ((eps - eps_hat) ** 2, eps**2 - eps_hat**2):
            values = np.asarray(values, float)
            assert values.mean() == pytest.approx(h, abs=5 * values.std() / np.sqrt(n))


def test_the_family_at_the_worlds_own_variance_is_its_reverse_kernel(short):
    world = worlds.gaussian(short, np.zeros((2, 2, 1)), np.full((2, 2, 1), 2.5))
    steps = process.steps(short, [1, 3, 4])
    log_var = variance.table(variance.family(2.5, short), steps)
    for k in range(3):
        kernel = world.reverse_kernel(x_t_draws(), int(steps.s[k]), int(steps.t[k]))
        np.testing.assert_allclose(kernel.log_var, log_var[k], rtol=1e-5)


def test_a_point_is_known_at_every_time(short, linear):
    x = np.array([0.5, -1.0, 0.0, 0.25]).reshape(2, 2, 1)
    for tables in (short, linear):
        world = worlds.point(tables, x)
        for t in (1, tables.T):
            x_0_hat = world.denoiser(x_t_draws(), jnp.full(6, t)).x_0
            np.testing.assert_allclose(x_0_hat, np.broadcast_to(x, (6, 2, 2, 1)), atol=1e-6)
            np.testing.assert_array_equal(world.cov(t), np.zeros((2, 2, 1)))
        np.testing.assert_allclose(world.sample(jax.random.key(0), 3), np.broadcast_to(x, (3, 2, 2, 1)), atol=1e-7)


def test_only_data_inside_the_range_are_called_bounded(short, world):
    assert not world.bounded
    assert worlds.point(short, np.full((1, 1, 1), 0.5)).bounded
    assert not worlds.point(short, np.full((1, 1, 1), 1.5)).bounded


def test_a_negative_variance_is_refused_with_the_value(short):
    with pytest.raises(ValueError, match=r"-0\.5"):
        worlds.gaussian(short, np.zeros((1, 1, 1)), np.full((1, 1, 1), -0.5))
