"""Dropout with one key per example, so that it does not depend on how a batch is split over devices."""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Key, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def at_places(keys: Key[Array, " b"] | None, places: int) -> Key[Array, "places b"] | list[None]:
    """The keys of so many places in a network, by their index: folded at once, a place would cost a loop of its own.

    Args:
      keys: one an example; None turns dropout off.
      places: how many.
    """
    if keys is None:
        return [None] * places
    return jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(keys, jnp.arange(places))


def dropout(x: Array, rate: float, keys: Key[Array, " b"] | None) -> Array:
    """Dropout; what is kept is divided by 1 - rate. Srivastava et al. 2014.

    Args:
      x: (b, *x).
      rate: share that is dropped.
      keys: one an example, of this place; None turns dropout off.
    """
    if keys is None or rate == 0:
        return x
    draw, hashed = (partial(of, 1 - rate, x.shape[1:]) for of in (_drawn, _hashed))
    return jnp.where(jax.lax.platform_dependent(keys, cpu=hashed, default=draw), x / (1 - rate), 0)


def _drawn(share: float, shape: tuple[int, ...], keys: Key[Array, " b"]) -> Bool[Array, "b *x"]:
    """True with probability `share`."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, share, shape))(keys)


@partial(jax.jit, static_argnums=(0, 1))
def _hashed(share: float, shape: tuple[int, ...], keys: Key[Array, " b"]) -> Bool[Array, "b *x"]:
    """The same of keys of JAX's default kind, bit for bit, for CPUs.

    There JAX makes its random bits in a loop over arrays in memory, and XLA keeps two words a number for the gradient.
    Written out, the bits are made in one pass that leaves a byte. XLA would make them again for the gradient, but it
    makes no division twice.
    """
    words = jax.random.key_data(keys).reshape(len(keys), -1, *[1] * len(shape))
    place = jnp.arange(prod(shape), dtype=jnp.uint32).reshape(1, *shape)
    mantissa = threefry(words[:, 0], words[:, 1], place) >> 9  # as jax.random.uniform makes it
    kept = mantissa < np.uint32(np.ceil(np.float32(share) * 2**23))
    return jax.lax.div(3 * kept.astype(jnp.uint8), np.uint8(3)) == 1


def threefry(
    first: UInt32[Array, "*#x"], second: UInt32[Array, "*#x"], place: UInt32[Array, "*#x"]
) -> UInt32[Array, "*x"]:
    """The 32 random bits that `jax.random.bits` puts at a place below 2^32.

    Salmon et al. 2011, section 3.2, Threefry-2x32 of 20 rounds.

    Args:
      first: word of the key.
      second: word of the key.
      place: index in the flat array of bits.
    """
    words = (first, second, first ^ second ^ np.uint32(PARITY))
    a, b = first, place + second
    for i in range(5):
        for rotation in ROTATIONS[i % 2]:
            a = a + b
            b = (b << rotation | b >> 32 - rotation) ^ a
        a, b = a + words[(i + 1) % 3], b + words[(i + 2) % 3] + np.uint32(i + 1)
    return a ^ b
