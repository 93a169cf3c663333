"""The small arrays of a tree joined in one, so that an update is a few dozen operations and not hundreds.

Two thirds of a U-Net's arrays are biases and scales, a thousandth of its numbers. Whatever treats every number alike (a
sum of squares, Adam) gives the same on packed trees. An operation costs compilers time and, on CPUs, the program they
make 3 KiB of memory, however few numbers there are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

SMALL = 4096  # numbers in an array, at most


def pack(tree: Any) -> list[Array]:
    """The large arrays of a tree of float arrays, in order, and then the small ones as one vector, if there are any."""
    leaves = jax.tree.leaves(tree)
    small = [leaf.ravel() for leaf in leaves if leaf.size <= SMALL]
    return [leaf for leaf in leaves if leaf.size > SMALL] + ([jnp.concatenate(small)] if small else [])


def unpack(packed: list[Array], like: Any) -> Any:
    """The inverse of `pack`.

    Args:
      packed: what was made of a tree.
      like: a tree of the same shapes.
    """
    leaves, build = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves if leaf.size <= SMALL])
    large, small = iter(packed), iter(jnp.split(packed[-1], ends[:-1]) if len(ends) else [])
    back = [next(small).reshape(leaf.shape) if leaf.size <= SMALL else next(large) for leaf in leaves]
    return jax.tree.unflatten(build, back)
