"""Packing: nothing is lost, every array comes back to its place, and sums of all numbers are those of the tree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.training.optimizers import SMALL, pack, unpack


def tree(*sizes: int) -> dict:
    keys = jax.random.split(jax.random.key(0), len(sizes))
    shapes = [(size // 4, 2, 2) if size % 4 == 0 and size else (size,) for size in sizes]
    return {f"array {i}": jax.random.normal(*of) for i, of in enumerate(zip(keys, shapes, strict=True))}


@pytest.mark.parametrize(
    ("sizes", "small", "large"),
    [
        ((5, SMALL + 4, 1, SMALL, 2 * SMALL, 12), 5 + 1 + SMALL + 12, 2),
        ((3, 8), 11, 0),
        ((SMALL + 1, SMALL + 8), 0, 2),
        ((1,), 1, 0),
    ],
)
def test_every_array_comes_back(sizes: tuple[int, ...], small: int, large: int) -> None:
    whole = tree(*sizes)
    packed = pack(whole)
    assert [array.size for array in packed[large:]] == [small] * bool(small)
    assert all(array.size > SMALL for array in packed[:large])
    back = unpack(packed, whole)
    assert jax.tree.structure(back) == jax.tree.structure(whole)
    for found, expected in zip(jax.tree.leaves(back), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_adam_does_not_tell_a_packed_tree_from_another() -> None:
    params, gradient = tree(5, SMALL + 4, 12), jax.tree.map(jnp.cos, tree(5, SMALL + 4, 12))
    optimizer = optax.adam(1e-2)
    expected, _ = optimizer.update(gradient, optimizer.init(params), params)
    updates, _ = optimizer.update(pack(gradient), optimizer.init(pack(params)), pack(params))
    for found, value in zip(*map(jax.tree.leaves, (unpack(updates, params), expected)), strict=True):
        np.testing.assert_array_equal(found, value)
    np.testing.assert_allclose(optax.tree.norm(pack(gradient)), optax.tree.norm(gradient), rtol=1e-6)
