"""Dropout: its rate, one key an example, and the bits that jax.random draws."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models.layers import at_places, dropout, threefry


def test_it_drops_its_rate_and_depends_on_the_example_alone() -> None:
    x = jnp.ones((4, 32, 32, 4))
    keys = jax.random.split(jax.random.key(0), 4)
    dropped = dropout(x, 0.25, keys)
    assert abs(float((dropped == 0).mean()) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / x.size)
    np.testing.assert_allclose(dropped[dropped > 0], 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(dropped[2:3], dropout(x[2:3], 0.25, keys[2:3]))
    assert (dropout(x, 0.25, keys[::-1]) != dropped).any()
    assert dropout(x, 0.25, None) is x


def test_every_place_folds_its_index_into_the_keys() -> None:
    keys = jax.random.split(jax.random.key(3), 2)
    folded = at_places(keys, 5)
    for place in range(5):
        for key, found in zip(keys, folded[place], strict=True):
            assert found == jax.random.fold_in(key, place)
    assert len(folded) == 5 and at_places(None, 3) == [None] * 3


@pytest.mark.parametrize(("rate", "shape"), [(0.1, (5, 7, 3)), (0.25, (33,)), (0.999, (64, 64))])
def test_what_is_kept_is_what_jax_random_draws(rate: float, shape: tuple[int, ...]) -> None:
    """On CPUs as on all others, whose branch this is."""
    keys = jax.random.split(jax.random.key(7), 3)
    found = dropout(jnp.ones((3, *shape)), rate, keys) > 0
    for key, kept in zip(keys, found, strict=True):
        np.testing.assert_array_equal(kept, jax.random.bernoulli(key, 1 - rate, shape))


def test_the_hash_is_that_of_its_authors() -> None:
    """The answer to a key and a place of zeros in Random123's list of known answers, threefry2x32 of 20 rounds."""
    zero = jnp.zeros(1, jnp.uint32)
    assert int(threefry(zero, zero, zero)[0]) == 0x6B200159 ^ 0x99BA4EFE


def test_cpus_make_the_bits_once_and_keep_a_byte() -> None:
    """For a gradient: no round of the hash is done again, and a byte a number is kept; by JAX's way words are."""
    x = jax.ShapeDtypeStruct((2, 2**17), jnp.float32)
    kept = jax.ShapeDtypeStruct(x.shape, bool)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))

    def given(x: jax.Array, kept: jax.Array) -> jax.Array:
        return jnp.where(kept, x / 0.7, 0)

    def drawn(x: jax.Array, keys: jax.Array) -> jax.Array:
        return given(x, jax.vmap(lambda key: jax.random.bernoulli(key, 0.7, x.shape[1:]))(keys))

    def ours(x: jax.Array, keys: jax.Array) -> jax.Array:
        return dropout(x, 0.3, keys)

    def loss(drop: Callable, x: jax.Array, what: jax.Array) -> jax.Array:
        return (drop(x, what).sum(1) ** 2).sum()

    def compiled(function: Callable, what: jax.ShapeDtypeStruct = keys) -> jax.stages.Compiled:
        return jax.jit(function).lower(x, what).compile()

    def rounds(program: jax.stages.Compiled) -> int:
        lines = (program.as_text() or "").splitlines()
        return sum(" shift-left(" in line and "[2,131072]" in line for line in lines)

    def bytes_a_number(program: jax.stages.Compiled) -> float:
        memory = program.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes / x.size

    gradient = compiled(jax.grad(partial(loss, ours)))
    assert rounds(gradient) == rounds(compiled(partial(loss, ours))) > 0
    nothing = bytes_a_number(compiled(jax.grad(partial(loss, given)), kept))
    theirs = bytes_a_number(compiled(jax.grad(partial(loss, drawn))))
    assert bytes_a_number(gradient) - nothing < 2 and theirs - nothing >= 4
