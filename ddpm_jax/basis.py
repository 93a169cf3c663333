"""Orthonormal bases in which a covariance is diagonal.

A reverse variance is diagonal in some basis. In pixels every choice of the literature is diagonal.
"""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array
from jaxtyping import Float


class Basis(NamedTuple):
    """An orthonormal change of coordinates of images, and its inverse.

    Attributes:
      name: what it is called in tables.
      forward: (..., H, W, C) pixels -> coefficients of the same shape.
      inverse: coefficients -> pixels.
    """

    name: str
    forward: Callable[[Float[Array, "*x"]], Float[Array, "*x"]]
    inverse: Callable[[Float[Array, "*x"]], Float[Array, "*x"]]


def _identity(x: Float[Array, "*x"]) -> Float[Array, "*x"]:
    return x


PIXEL = Basis("pixel", _identity, _identity)
