"""Data whose best denoiser is known.

In such a world every claim about a variance is an equality to check, and "wrong variance" is told apart from "imperfect
network".
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Int, Key

from ddpm_jax.gaussian import Gaussian
from ddpm_jax.predict import Denoiser, Images, Prediction, from_x_0
from ddpm_jax.schedule import Schedule, rows


class World(NamedTuple):
    """A distribution of data and what Bayes' rule says of it.

    Attributes:
      sample: (key, n) -> x_0 (n, *x).
      denoiser: the exact one, E[x_0 | x_t].
      cov: t -> variances of x_0 given x_t, per dimension (*x).
      reverse_kernel: (x_t, s, t) -> the true q(x_s | x_t).
      bounded: the data lie in [-1, 1], so that clips and the covariance clamp make sense.
    """

    sample: Callable[[Key[Array, ""], int], Images]
    denoiser: Denoiser
    cov: Callable[[int], Float[np.ndarray, "*x"]]
    reverse_kernel: Callable[[Images, int, int], Gaussian]
    bounded: bool


def gaussian(schedule: Schedule, mean: np.ndarray, variance: np.ndarray) -> World:
    """Independent pixels N(mean, variance).

    With V_t = alpha_bar_t c + 1 - alpha_bar_t: x_0_hat = m + sqrt(alpha_bar_t) c / V_t (x_t - sqrt(alpha_bar_t) m),
    Cov[x_0 | x_t] = c (1 - alpha_bar_t) / V_t, and q(x_s | x_t) has variance b V_s / V_t (the article's two answers at
    c = 0 and c = 1).

    Args:
      schedule: the forward process.
      mean: m, of the data's shape (*x).
      variance: c, of the same shape, at least 0.

    Raises:
      ValueError: a variance is negative.
    """
    m, c = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    if (c < 0).any():
        raise ValueError(f"variance {c.min():g}: it is at least 0")

    def total(t: int) -> np.ndarray:
        return np.asarray(schedule.alpha_bar[t] * c + schedule.one_minus_alpha_bar[t])

    def draw(key: Key[Array, ""], n: int) -> Images:
        return jnp.asarray(m, jnp.float32) + jnp.sqrt(jnp.asarray(c, jnp.float32)) * jax.random.normal(
            key, (n, *m.shape)
        )

    def cov(t: int) -> np.ndarray:
        return c * schedule.one_minus_alpha_bar[t] / total(t)

    def reverse_kernel(x_t: Images, s: int, t: int) -> Gaussian:
        ratio = schedule.alpha_bar[t] / schedule.alpha_bar[s]
        slope = np.sqrt(ratio) * total(s) / total(t)
        residual = x_t - jnp.asarray(np.sqrt(schedule.alpha_bar[t]) * m, x_t.dtype)
        mean_s = jnp.asarray(np.sqrt(schedule.alpha_bar[s]) * m, x_t.dtype) + jnp.asarray(slope, x_t.dtype) * residual
        with np.errstate(divide="ignore"):
            return Gaussian(mean_s, jnp.asarray(np.log((1 - ratio) * total(s) / total(t)), x_t.dtype))

    return World(draw, Partial(_gaussian_denoiser, m, c, schedule), cov, reverse_kernel, bounded=False)


def _gaussian_denoiser(
    m: Array | np.ndarray, c: Array | np.ndarray, schedule: Schedule, x_t: Images, t: Int[Array, " b"]
) -> Prediction:
    alpha_bar, noise = rows(schedule.alpha_bar, t, x_t), rows(schedule.one_minus_alpha_bar, t, x_t)
    m, c = jnp.asarray(m, x_t.dtype), jnp.asarray(c, x_t.dtype)
    x_0 = m + jnp.sqrt(alpha_bar) * c / (alpha_bar * c + noise) * (x_t - jnp.sqrt(alpha_bar) * m)
    return from_x_0(schedule, x_t, t, x_0)


def point(schedule: Schedule, x: np.ndarray) -> World:
    """Data that are one image x (*x): the article's first case, where the posterior variance is exact."""
    return gaussian(schedule, x, np.zeros_like(x))._replace(bounded=bool(np.abs(x).max() <= 1))
