"""Between the nodes: exact for exponentials, close for smooth functions, and 0 stays all but 0."""

import numpy as np
from scipy.interpolate import CubicSpline

from ddpm_jax.evaluation import step_kl

NODES = np.linspace(-2.0, 3.0, 12)
AT = np.random.default_rng(0).uniform(-2, 3, 50)


def test_the_exponential_of_a_cubic_is_met_exactly() -> None:
    cubic = lambda x: 0.3 * x**3 - x**2 + 0.5 * x - 4  # noqa: E731
    found = step_kl.interpolate(NODES[0], NODES[-1], np.exp(np.stack([cubic(NODES), 2 * NODES])), AT)
    np.testing.assert_allclose(found, np.exp(np.stack([cubic(AT), 2 * AT])), rtol=1e-12)


def test_it_is_the_spline_of_the_logarithms() -> None:
    costs = np.random.default_rng(1).uniform(0.1, 9, (3, 12))
    expected = np.exp(CubicSpline(NODES, np.log(costs), axis=-1)(AT))
    np.testing.assert_allclose(step_kl.interpolate(NODES[0], NODES[-1], costs, AT), expected, rtol=1e-12)


def test_nothing_costs_nothing() -> None:
    assert (step_kl.interpolate(NODES[0], NODES[-1], np.zeros(12), AT) < 1e-29).all()
