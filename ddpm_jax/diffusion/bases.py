"""Orthonormal bases in which a covariance is diagonal: pixels, and the 2-D DCT along colour axes.

A reverse variance is diagonal in some basis. In pixels every choice of the literature is diagonal; what a denoiser gets
wrong in photographs is nearer to diagonal in frequencies, where most of its variance lies in few of them.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt8

Axes = tuple[tuple[float, ...], ...]


class Basis(NamedTuple):
    """An orthonormal change of coordinates of images, and its inverse.

    Attributes:
      name: what it is called in tables.
      forward: (..., H, W, C) pixels -> coefficients of the same shape.
      inverse: coefficients -> pixels.
      colours: the colour axes, one a row; empty where colours stay as they are.
    """

    name: str
    forward: Callable[[Float[Array, "*x"]], Float[Array, "*x"]]
    inverse: Callable[[Float[Array, "*x"]], Float[Array, "*x"]]
    colours: Axes = ()


def _identity(x: Float[Array, "*x"]) -> Float[Array, "*x"]:
    return x


PIXEL = Basis("pixel", _identity, _identity)


@lru_cache
def dct(colours: Axes) -> Basis:
    """The orthonormal 2-D DCT of every colour axis: coefficient (i, j, c) is frequency (i, j) of axis c.

    The cosines cos(pi (n + 1/2) i / H), scaled to length 1: DCT-II, Ahmed et al. 1974, equation 2. One object for equal
    axes, so that jitted users recognise it.

    Args:
      colours: C orthonormal axes of length C, one a row, for example from `colour_axes`.

    Raises:
      ValueError: the axes are not orthonormal.
    """
    axes = np.asarray(colours)
    if axes.ndim != 2 or not np.allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-6):
        raise ValueError(f"colour axes {axes.tolist()} are not orthonormal rows: take them from bases.colour_axes")
    return Basis("dct", partial(_turn, axes, False), partial(_turn, axes, True), colours)


def _cosines(n: int) -> Float[np.ndarray, "n n"]:
    """Row i is the i-th cosine at n points."""
    i = np.arange(n)
    rows = np.cos(np.pi * np.outer(i, i + 0.5) / n) * np.sqrt(2 / n)
    return np.where(i[:, None] == 0, np.sqrt(1 / n), rows)


def _turn(axes: Float[np.ndarray, "c c"], back: bool, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
    """The three matrices along the last three dimensions, or their transposes."""
    matrices = (_cosines(x.shape[-3]), _cosines(x.shape[-2]), axes)
    rows, columns, colours = (jnp.asarray(m.T if back else m, x.dtype) for m in matrices)
    return jnp.einsum("ai,bj,ck,...ijk->...abc", rows, columns, colours, x, precision="highest")


def colour_axes(images_uint8: UInt8[np.ndarray, "n h w c"]) -> Axes:
    """The principal axes of the colours of all pixels, the widest first: of photographs, brightness and two hues.

    Covariance C = sum of lambda_i a_i a_i^T; the sign of an axis is fixed by its largest entry, which is positive.
    """
    pixels = images_uint8.reshape(-1, images_uint8.shape[-1]).astype(np.float64)
    _, vectors = np.linalg.eigh(np.atleast_2d(np.cov(pixels.T)))
    axes = vectors.T[::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return tuple(map(tuple, (axes * np.sign(largest)).tolist()))


def radial_bins(shape: tuple[int, ...]) -> Int[np.ndarray, "h w c"]:
    """The bin of every DCT coefficient of an image (H, W, C): r = round(sqrt(i^2 + j^2)) at frequency (i, j), by axis.

    Sizes of images that are not square count in cycles a longer side.
    """
    height, width, colours = shape
    side = max(height, width)
    i, j = np.arange(height) * side / height, np.arange(width) * side / width
    radius = np.round(np.hypot(i[:, None], j)).astype(int)
    return radius[..., None] + (radius.max() + 1) * np.arange(colours)


def averaged(values: Float[np.ndarray, "... h w c"], bins: Int[np.ndarray, "h w c"]) -> Float[np.ndarray, "... h w c"]:
    """Every coefficient replaced by the mean of its bin: m_b = sum of v_j over the bin / its size."""
    which = np.unique(bins.ravel(), return_inverse=True)[1]
    member = np.eye(which.max() + 1)[which]
    flat = values.reshape(*values.shape[: values.ndim - bins.ndim], -1)
    means = flat @ member / member.sum(axis=0)
    return means[..., which].reshape(values.shape)
