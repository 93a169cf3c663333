"""Sampling, divergence, density and the quantised likelihood against general formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from ddpm_jax.diffusion import bases, gaussian
from tests.oracle import gaussians

SHAPE = (3, 2, 2, 1)
D = 4
log_mass = jax.jit(gaussian.discretised_log_mass, static_argnums=2)
log_prob = jax.jit(
    lambda mean, log_var, x, levels: gaussian.discretised_log_prob(gaussian.Gaussian(mean, log_var), x, levels),
    static_argnums=3,
)


def draws(seed):
    return np.asarray(jax.random.normal(jax.random.key(seed), SHAPE))


def make(seed, log_var):
    return gaussian.Gaussian(jnp.asarray(draws(seed)), jnp.asarray(log_var, jnp.float32))


def test_a_sample_is_mean_plus_scaled_noise():
    log_var, noise = draws(1), draws(2)
    g = make(0, log_var)
    np.testing.assert_allclose(
        gaussian.sample(g, jnp.asarray(noise)), draws(0) + np.exp(log_var / 2) * noise, rtol=1e-5
    )


def test_log_variance_minus_infinity_is_a_point():
    g = make(0, -jnp.inf)
    np.testing.assert_array_equal(gaussian.sample(g, jnp.asarray(draws(1))), g.mean)


def test_kl_is_the_general_formula_per_dimension():
    q_log_var, p_log_var = draws(2), draws(3)
    q, p = make(0, q_log_var), make(1, p_log_var)
    expected = [
        gaussians.kl(
            draws(0)[i].ravel(),
            np.diag(np.exp(q_log_var[i].ravel().astype(float))),
            draws(1)[i].ravel(),
            np.diag(np.exp(p_log_var[i].ravel().astype(float))),
        )
        / D
        for i in range(3)
    ]
    np.testing.assert_allclose(gaussian.kl(q, p), expected, rtol=1e-5)


def test_kl_takes_a_scalar_log_variance_and_vanishes_between_equals():
    q = make(0, -1.5)
    assert gaussian.kl(q, q).shape == (3,)
    np.testing.assert_allclose(gaussian.kl(q, q), 0, atol=1e-6)
    np.testing.assert_allclose(gaussian.kl(q, make(0, 0.5)), gaussians.kl(0, np.exp(-1.5), 0, np.exp(0.5)), rtol=1e-5)


def test_log_prob_is_scipys_per_dimension():
    log_var = draws(1)
    expected = norm.logpdf(draws(2), draws(0), np.exp(log_var / 2)).mean((1, 2, 3))
    np.testing.assert_allclose(gaussian.log_prob(make(0, log_var), jnp.asarray(draws(2))), expected, rtol=1e-5)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("log_var", [-12.0, -4.0, 0.0, 2.0])
def test_the_probabilities_of_all_levels_sum_to_one(levels, log_var):
    x = jnp.linspace(-1, 1, levels)[:, None, None, None]
    total = np.exp(np.asarray(log_prob(jnp.full_like(x, 0.37), jnp.float32(log_var), x, levels), float)).sum()
    # float32: each probability near 1/levels carries a relative error of up to 1e-4 (see the next test).
    assert total == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("log_var", range(-14, 3))
def test_the_decoder_is_finite_and_right_in_float32_for_every_level_and_mean(log_var):
    levels = jnp.linspace(-1, 1, 256, dtype=jnp.float32)[:, None, None, None]
    means = jnp.linspace(-5, 5, 501, dtype=jnp.float32)[None, None, :, None]
    x = jnp.broadcast_to(levels, (256, 1, 501, 1))
    mass = log_mass(x - means, jnp.float32(log_var), 1 / 255, x < -1 + 1 / 255, x > 1 - 1 / 255)
    mass = np.asarray(mass, np.float64)
    assert np.isfinite(mass).all()
    residual_exact = gaussians.discretised_log_mass(np.asarray(x), np.asarray(means), float(log_var), 256)
    np.testing.assert_allclose(mass, residual_exact, rtol=1e-4, atol=1e-5)


def test_the_decoder_near_its_mean_is_right_in_float32():
    """Residuals of a fraction of sigma, where a sharp decoder puts real networks."""
    log_var = np.log(5.453188e-5)
    residual = np.linspace(-0.05, 0.05, 2001, dtype=np.float32)
    inside = jnp.zeros(residual.shape, bool)
    mass = log_mass(jnp.asarray(residual), jnp.float32(log_var), 1 / 255, inside, inside)
    expected = gaussians.discretised_log_mass(residual, 0.0, np.float32(log_var), 256)
    np.testing.assert_allclose(mass, expected, rtol=1e-4, atol=1e-5)


def test_discretised_log_prob_finds_the_open_ends_itself():
    x = jnp.asarray([-1.0, -1 / 3, 1 / 3, 1.0], jnp.float32).reshape(2, 2, 1, 1)
    mean = jnp.asarray([0.2, -0.4, 0.1, 0.9], jnp.float32).reshape(2, 2, 1, 1)
    result = log_prob(mean, jnp.float32(-1), x, 4)
    expected = gaussians.discretised_log_mass(np.asarray(x), np.asarray(mean), -1.0, 4).mean((1, 2, 3))
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_fewer_than_two_levels_are_refused_with_the_value():
    with pytest.raises(ValueError, match="1"):
        gaussian.discretised_log_prob(make(0, 0.0), jnp.zeros(SHAPE), 1)


def test_in_any_basis_the_noise_is_the_same() -> None:
    """sqrt(covariance) is symmetric: with one variance for all coefficients a sample is what it is in pixels."""
    mean, noise = (jax.random.normal(jax.random.key(i), (3, 6, 4, 2)) for i in range(2))
    dct = bases.dct(((0.6, 0.8), (-0.8, 0.6)))
    log_var = jnp.float32(-1.3)
    found, pixels = (gaussian.sample(gaussian.Gaussian(mean, log_var, of), noise) for of in (dct, bases.PIXEL))
    np.testing.assert_allclose(found, pixels, atol=1e-5)
