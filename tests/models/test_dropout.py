"""Dropout: its rate, one key an example, and the bits that jax.random draws."""

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
    """Of 2^18 numbers a gradient keeps a byte each: without it there were two words, of 4 bytes."""
    x = jax.ShapeDtypeStruct((2, 2**17), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))

    def loss(x: jax.Array, keys: jax.Array) -> jax.Array:
        return (dropout(x, 0.3, keys).sum(1) ** 2).sum()

    program = jax.jit(jax.grad(loss)).lower(x, keys).compile()
    memory, text = program.memory_analysis(), program.as_text()
    assert memory is not None and memory.temp_size_in_bytes < 1.1 * x.size
    rounds = [line for line in (text or "").splitlines() if " shift-left(" in line and "[2,131072]" in line]
    assert len(rounds) == 20
