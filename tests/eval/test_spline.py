"""Between the nodes: exact for exponentials, close for smooth functions, and 0 stays all but 0."""

import numpy as np

from ddpm_jax.eval import spline

NODES = np.linspace(-2.0, 3.0, 12)
AT = np.random.default_rng(0).uniform(-2, 3, 50)


def test_the_exponential_of_a_cubic_is_met_exactly() -> None:
    cubic = lambda x: 0.3 * x**3 - x**2 + 0.5 * x - 4  # noqa: E731
    found = spline.between(NODES, np.exp(np.stack([cubic(NODES), 2 * NODES])), AT)
    np.testing.assert_allclose(found, np.exp(np.stack([cubic(AT), 2 * AT])), rtol=1e-12)


def test_nothing_costs_nothing() -> None:
    assert (spline.between(NODES, np.zeros(12), AT) < 1e-29).all()
