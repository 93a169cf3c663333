"""Bayes' rule for a finite set of data: the denoiser that a perfect network for real images would be.

The weight of y_i given x_t is softmax_i(-||x_t - sqrt(alpha_bar_t) y_i||^2 / (2 (1 - alpha_bar_t))). Blocks of data are
visited one after another with a running maximum, so that memory grows with the block and not with the set.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from ddpm_jax.diffusion.denoiser import Images, Prediction, from_x_0
from ddpm_jax.diffusion.schedules import Schedule, rows

BLOCK = 1024  # data of one block


class Blocks(NamedTuple):
    """A finite set and how it is visited: `size` rows from each start, every datum weighing in one block only.

    Attributes:
      values: (n, D) the data, flat, float32.
      centre: (D,) their mean.
      start: (blocks,) first row of each block; the last block is moved back to end with the data.
      half_norm: (blocks, size) ||y - centre||^2/2; infinite for what an earlier block holds, which so weighs nothing.
    """

    values: Float[Array, "n d"]
    centre: Float[Array, " d"]
    start: Int[Array, " blocks"]
    half_norm: Float[Array, "blocks size"]


class _Sums(NamedTuple):
    """What one pass over the data leaves for each example: weights are relative to exp(highest)."""

    highest: Float[Array, " b"]
    weight: Float[Array, " b"]
    first: Float[Array, "b d"]
    second: Float[Array, "b d"]


def blocks(images: Float[Array, "n *x"] | Float[np.ndarray, "n *x"], size: int = BLOCK) -> Blocks:
    """The set, ready to be visited; the images are copied once.

    Args:
      images: the data.
      size: of a block; the results do not depend on it, memory does.

    Raises:
      ValueError: no data, or size < 1.
    """
    n = len(images)
    if not n or size < 1:
        raise ValueError(f"{n} images in blocks of {size}: need at least 1 of each")
    values = jnp.asarray(images.reshape(n, -1), jnp.float32)
    centre, size = values.mean(axis=0), min(size, n)
    first = np.arange(0, n, size)
    start = np.minimum(first, n - size)
    row = start[:, None] + np.arange(size)
    half_norm = jax.lax.map(lambda at: (_block(values, centre, at, size) ** 2).sum(axis=1) / 2, jnp.asarray(start))
    return Blocks(values, centre, jnp.asarray(start), jnp.where(row < first[:, None], jnp.inf, half_norm))


def _block(values: Array, centre: Array, start: Array, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(values, start, size) - centre[None]


def denoiser(data: Blocks, schedule: Schedule, x_t: Images, t: Int[Array, " b"]) -> Prediction:
    """x_0_hat = sum_i w_i y_i, exact."""
    sums = _visit(data, schedule, x_t, t)
    return from_x_0(schedule, x_t, t, (data.centre[None] + sums.first / sums.weight[:, None]).reshape(x_t.shape))


def cov(data: Blocks, schedule: Schedule, x_t: Images, t: Int[Array, " b"]) -> Images:
    """Cov[x_0 | x_t] = sum_i w_i y_i^2 - x_0_hat^2 for each dimension.

    Numerics: of centred data in one pass, so the error is 1e-6 of the data's variance, far below any tb; where that
    would make it negative it is 0, as for one datum that has all the weight.
    """
    sums = _visit(data, schedule, x_t, t)
    mean = sums.first / sums.weight[:, None]
    return jnp.maximum(sums.second / sums.weight[:, None] - mean**2, 0).reshape(x_t.shape)


def _visit(data: Blocks, schedule: Schedule, x_t: Images, t: Int[Array, " b"]) -> _Sums:
    """The sums over all data of w, w y and w y^2.

    The logit of y is (sqrt(alpha_bar) x . y - alpha_bar ||y||^2/2)/(1 - alpha_bar): what all data share cancels.
    """
    flat = x_t.reshape(len(x_t), -1)
    signal, noise = rows(schedule.alpha_bar, t, flat), rows(schedule.one_minus_alpha_bar, t, flat)
    x = flat - jnp.sqrt(signal) * data.centre[None]
    highest = jax.lax.Precision.HIGHEST

    def add(sums: _Sums, block: tuple[Array, Array]) -> tuple[_Sums, None]:
        start, half_norm = block[0], block[1][None]
        values = _block(data.values, data.centre, start, half_norm.size)
        products = jnp.matmul(x, values.T, precision=highest)
        here = jnp.isfinite(half_norm)
        norm = jnp.where(here, half_norm, 0)  # or a signal of 0 makes it NaN before it is left out
        logits = jnp.where(here, (jnp.sqrt(signal) * products - signal * norm) / noise, -jnp.inf)
        top = jnp.maximum(sums.highest, logits.max(axis=1))
        weights, kept = jnp.exp(logits - top[:, None]), jnp.exp(sums.highest - top)
        first, second = (jnp.matmul(weights, power, precision=highest) for power in (values, values**2))
        old = kept[:, None]
        return _Sums(
            top, kept * sums.weight + weights.sum(axis=1), old * sums.first + first, old * sums.second + second
        ), None

    none = _Sums(jnp.full(len(x), -jnp.inf, x.dtype), jnp.zeros(len(x), x.dtype), jnp.zeros_like(x), jnp.zeros_like(x))
    return jax.lax.scan(add, none, (data.start, data.half_norm))[0]
