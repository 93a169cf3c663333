"""Mixtures and Bayes' rule for them, against conditioning joint Gaussians and plain quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import mixtures
from ddpm_jax.diffusion.mixtures import Mixture
from tests.oracle import mixtures as oracle_mixtures
from tests.oracle import pairs

SHORT = [0.1, 0.3, 0.5, 0.7]
WEIGHTS = np.array([0.5, 0.2, 0.3])
MEANS = np.array([[0.3, -1.0], [-0.8, 0.4], [1.5, 0.0]])
VARIANCES = np.array([[0.25, 0.04], [1.0, 0.5], [0.0, 2.0]])
DATA = Mixture(np.log(WEIGHTS), MEANS, VARIANCES)


@pytest.mark.parametrize(("s", "t"), [(0, 1), (0, 4), (1, 2), (2, 4)])
def test_bayes_rule_is_that_of_every_component_and_of_the_weights(s: int, t: int) -> None:
    p = pairs.pair(SHORT, s, t)
    x_t = 1.5 * jax.random.normal(jax.random.key(0), (6, 2))
    found = mixtures.condition(mixtures.noisy(DATA, p.ab_s, p.noise_s), x_t, p.a, p.b)
    for i in range(6):
        weights, means, variances = oracle_mixtures.given(p, WEIGHTS, MEANS, VARIANCES, np.asarray(x_t[i], float))
        np.testing.assert_allclose(np.exp(found.log_weights[i]), weights, atol=1e-5)
        np.testing.assert_allclose(found.mean[i], means, atol=1e-5)
        np.testing.assert_allclose(found.variance[i], variances, rtol=1e-5, atol=1e-7)
        mean, variance = oracle_mixtures.moments(weights, means, variances)
        np.testing.assert_allclose(mixtures.mean(found)[i], mean, atol=1e-5)
        np.testing.assert_allclose(mixtures.variance(found)[i], variance, rtol=1e-4, atol=1e-6)


def test_the_density_is_the_sum_of_the_components_over_the_dimensions() -> None:
    x = np.array([[0.2, -0.9], [-3.0, 2.0]])
    data = DATA._replace(variance=VARIANCES + 0.1)
    found = mixtures.log_prob(data, jnp.asarray(x, jnp.float32))
    for i in range(2):
        of_component = [
            np.prod([np.exp(oracle_mixtures.log_normal(*triple)) for triple in zip(x[i], m, c + 0.1, strict=True)])
            for m, c in zip(MEANS, VARIANCES, strict=True)
        ]
        assert found[i] == pytest.approx(np.log(WEIGHTS @ of_component) / 2, rel=1e-5)


def test_draws_have_the_mixtures_moments_and_shares() -> None:
    n = 40_000
    x = np.asarray(mixtures.sample(jax.random.key(1), DATA, n), float)
    mean, variance = oracle_mixtures.moments(WEIGHTS, MEANS, VARIANCES)
    fourth = ((x - mean) ** 4).mean(axis=0)
    np.testing.assert_array_less(np.abs(x.mean(axis=0) - mean), 5 * np.sqrt(variance / n))
    np.testing.assert_array_less(np.abs(x.var(axis=0) - variance), 5 * np.sqrt((fourth - variance**2) / n))
    share = (x[:, 0] == 1.5).mean()  # the component with no variance there
    assert share == pytest.approx(0.3, abs=5 * np.sqrt(0.3 * 0.7 / n))


def test_far_from_every_component_nothing_overflows() -> None:
    x = jnp.full((1, 2), 50.0)
    found = mixtures.condition(DATA, x, 0.9999, 1e-4)
    assert np.isfinite(mixtures.mean(found)).all()
    assert np.exp(found.log_weights).sum() == pytest.approx(1.0, rel=1e-5)
