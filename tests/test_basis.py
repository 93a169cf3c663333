"""Bases are orthonormal: there and back is the identity, and lengths are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import basis


@pytest.mark.parametrize("chosen", [basis.PIXEL])
def test_a_basis_keeps_lengths_and_inverts(chosen):
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    there = chosen.forward(x)
    assert there.shape == x.shape
    np.testing.assert_allclose(chosen.inverse(there), x, atol=1e-6)
    np.testing.assert_allclose(jnp.sum(there**2, (1, 2, 3)), jnp.sum(x**2, (1, 2, 3)), rtol=1e-5)
