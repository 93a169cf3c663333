"""The training loss: per example, per dimension, of the quantity asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import objective, predict, worlds
from tests.oracle import pairs, schedules, variances

SHORT = [0.1, 0.3, 0.5, 0.7]
SHAPE = (6, 2, 2, 1)
T_EACH = jnp.asarray([1, 2, 3, 4, 4, 1])


def crooked(x_t, t):
    """A denoiser that is wrong."""
    return predict.Prediction(jnp.tanh(x_t), x_t - 0.2)


def draws():
    return (jax.random.normal(jax.random.key(i), SHAPE) for i in (0, 1))


def test_simple_is_the_mean_squared_error_of_eps_per_example(short):
    x_0, eps = draws()
    ab = schedules.alpha_bar(SHORT)[np.asarray(T_EACH)].reshape(-1, 1, 1, 1)
    x_t = np.sqrt(ab) * x_0 + np.sqrt(1 - ab) * eps
    expected = ((np.tanh(x_t) - np.asarray(eps)) ** 2).mean((1, 2, 3))
    loss = objective.simple()(short, crooked, x_0, T_EACH, eps)
    assert loss.shape == (6,)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(objective.OBJECTIVES))
@pytest.mark.parametrize("kind", sorted(predict.PREDICTIONS))
def test_a_perfect_prediction_costs_nothing(short, name, kind):
    x_0, eps = draws()
    loss = objective.OBJECTIVES[name](kind)(short, lambda x_t, t: predict.Prediction(eps, x_0), x_0, T_EACH, eps)
    np.testing.assert_allclose(loss, 0, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "factor"),
    [("x_0", lambda ab: (1 - ab) / ab), ("v", lambda ab: 1 / ab)],
)
def test_other_targets_differ_from_eps_by_a_factor_of_t_alone(short, kind, factor):
    """eps_hat and x_0_hat add up to the same x_t as eps and x_0, so x_0's error is eps's by 1/SNR and v's by 1/ab."""
    x_0, eps = draws()
    world = worlds.gaussian(short, np.zeros(SHAPE[1:]), np.full(SHAPE[1:], 0.5))
    ab = schedules.alpha_bar(SHORT)[np.asarray(T_EACH)]
    losses = [objective.simple(k)(short, world.denoiser, x_0, T_EACH, eps) for k in ("eps", kind)]
    np.testing.assert_allclose(losses[1], losses[0] * factor(ab), rtol=1e-4)


def test_the_expected_loss_of_the_exact_denoiser_is_the_variance_of_eps_given_x_t(short):
    n, c = 50_000, 0.25
    world = worlds.gaussian(short, np.full((1, 1, 1), 0.3), np.full((1, 1, 1), c))
    x_0, eps = world.sample(jax.random.key(0), n), jax.random.normal(jax.random.key(1), (n, 1, 1, 1))
    for t in (1, 3, 4):
        loss = np.asarray(objective.simple()(short, world.denoiser, x_0, jnp.full(n, t), eps), float)
        h = variances.noise_variance(pairs.pair(SHORT, 0, t), c)
        assert loss.mean() == pytest.approx(h, abs=5 * loss.std() / np.sqrt(n))


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match=r"(?s)score.*eps.*x_0.*v"):
        objective.simple("score")
