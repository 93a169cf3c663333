"""Data whose best denoiser is known: one point, Gaussians, mixtures of Gaussians, a finite set.

With them every claim about a variance is an equality to check, and "wrong variance" is told apart from "imperfect
network".
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Int

from ddpm_jax.diffusion import denoiser, finite_sets, mixtures, random_keys
from ddpm_jax.diffusion.bases import Basis
from ddpm_jax.diffusion.denoiser import Denoiser, Images, Prediction, from_x_0
from ddpm_jax.diffusion.gaussian import Gaussian
from ddpm_jax.diffusion.mixtures import Mixture
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.random_keys import OneKey
from ddpm_jax.diffusion.schedules import Schedule, Times, rows

Data = Float[Array, "n *x"] | Float[np.ndarray, "n *x"]


class ToyData(NamedTuple):
    """A distribution of data and what Bayes' rule says of it.

    Attributes:
      sample: (key, n) -> x_0 (n, *x).
      denoiser: the exact one, E[x_0 | x_t].
      cov: (x_t, t) -> Cov[x_0 | x_t], its diagonal in pixels (b, *x).
      reverse_kernel: (x_t, s, t) -> the true q(x_s | x_t).
      bounded: the data lie in [-1, 1], so that clips and the covariance clamp make sense.
    """

    sample: Callable[[OneKey, int], Images]
    denoiser: Denoiser
    cov: Partial
    reverse_kernel: Callable[[Images, int, int], Gaussian | Mixture]
    bounded: bool


def gaussian(schedule: Schedule, mean: np.ndarray, variance: np.ndarray) -> ToyData:
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

    def draw(key: OneKey, n: int) -> Images:
        noise = jax.random.normal(random_keys.typed(key), (n, *m.shape), jnp.float32)
        return jnp.asarray(m[None], jnp.float32) + jnp.sqrt(jnp.asarray(c[None], jnp.float32)) * noise

    def reverse_kernel(x_t: Images, s: int, t: int) -> Gaussian:
        ratio = schedule.alpha_bar[t] / schedule.alpha_bar[s]
        slope = np.sqrt(ratio) * total(s) / total(t)
        with np.errstate(divide="ignore"):
            log_var = np.log((1 - ratio) * total(s) / total(t))
        means = np.sqrt(schedule.alpha_bar[s]) * m, np.sqrt(schedule.alpha_bar[t]) * m
        at_s, at_t, gain, log = (jnp.asarray(part[None], x_t.dtype) for part in (*means, slope, log_var))
        return Gaussian(at_s + gain * (x_t - at_t), log)

    denoiser, cov = Partial(_gaussian_denoiser, m, c, schedule), Partial(_gaussian_cov, c, schedule)
    return ToyData(draw, denoiser, cov, reverse_kernel, bounded=False)


def _gaussian_denoiser(
    m: Array | np.ndarray, c: Array | np.ndarray, schedule: Schedule, x_t: Images, t: Int[Array, " b"]
) -> Prediction:
    alpha_bar, noise = rows(schedule.alpha_bar, t, x_t), rows(schedule.one_minus_alpha_bar, t, x_t)
    m, c = jnp.asarray(m[None], x_t.dtype), jnp.asarray(c[None], x_t.dtype)
    x_0 = m + jnp.sqrt(alpha_bar) * c / (alpha_bar * c + noise) * (x_t - jnp.sqrt(alpha_bar) * m)
    return from_x_0(schedule, x_t, t, x_0)


def _gaussian_cov(c: Array | np.ndarray, schedule: Schedule, x_t: Images, t: Int[Array, " b"]) -> Images:
    noise, c = rows(schedule.one_minus_alpha_bar, t, x_t), jnp.asarray(c[None], x_t.dtype)
    return jnp.broadcast_to(c * noise / (rows(schedule.alpha_bar, t, x_t) * c + noise), x_t.shape)


def point(schedule: Schedule, x: np.ndarray) -> ToyData:
    """Data that are one image x (*x): the article's first case, where the posterior variance is exact."""
    return gaussian(schedule, x, np.zeros_like(x))._replace(bounded=bool(np.abs(x).max() <= 1))


def mixture(schedule: Schedule, weights: np.ndarray, means: np.ndarray, variances: np.ndarray) -> ToyData:
    """Data sum_k w_k N(m_k, c_k), independent pixels within a component; Bayes' rule as in `mixtures.condition`.

    x_0_hat = sum_k r_k(x_t) E[x_0 | x_t, k], and Cov[x_0 | x_t] depends on x_t through the weights r_k.

    Args:
      schedule: the forward process.
      weights: see `mixtures.of`.
      means: (k, *x).
      variances: (k,) or (k, *x).
    """
    data = mixtures.of(weights, means, variances)

    def draw(key: OneKey, n: int) -> Images:
        return mixtures.sample(key, jax.tree.map(lambda part: jnp.asarray(part, jnp.float32), data), n)

    denoiser, cov = (Partial(function, data, schedule) for function in (_mixture_denoiser, _mixture_cov))
    bounded = bool((data.variance == 0).all() and np.abs(data.mean).max() <= 1)
    return ToyData(draw, denoiser, cov, Partial(_mixture_reverse, data, schedule), bounded)


def _mixture_given(data: Mixture, schedule: Schedule, x_t: Images, t: Times) -> Mixture:
    """q(x_0 | x_t)."""
    signal, noise = (rows(table, t, x_t[:, None]) for table in (schedule.alpha_bar, schedule.one_minus_alpha_bar))
    return mixtures.condition(data, x_t, signal, noise)


def _mixture_denoiser(data: Mixture, schedule: Schedule, x_t: Images, t: Int[Array, " b"]) -> Prediction:
    return from_x_0(schedule, x_t, t, mixtures.mean(_mixture_given(data, schedule, x_t, t)))


def _mixture_cov(data: Mixture, schedule: Schedule, x_t: Images, t: Int[Array, " b"]) -> Images:
    return mixtures.variance(_mixture_given(data, schedule, x_t, t))


def _mixture_reverse(data: Mixture, schedule: Schedule, x_t: Images, s: int, t: int) -> Mixture:
    """q(x_s | x_t): x_t = sqrt(a) x_s + sqrt(b) eps, and x_s is of a mixture."""
    a = schedule.alpha_bar[t] / schedule.alpha_bar[s]
    at_s = mixtures.noisy(data, schedule.alpha_bar[s], schedule.one_minus_alpha_bar[s])
    return mixtures.condition(at_s, x_t, a, 1 - a)


def finite(schedule: Schedule, images: Data, block: int = finite_sets.BLOCK) -> ToyData:
    """Data drawn from a finite set with replacement: a perfect network for real images.

    x_0_hat = sum_i w_i y_i with the weights of `finite_sets`. Its reverse kernel is a mixture of n points' posteriors,
    (b, n, *x) numbers: for small sets.

    Args:
      schedule: the forward process.
      images: y_i, on [-1, 1]'s scale.
      block: data visited at a time; the results do not depend on it, memory does.
    """
    data = finite_sets.blocks(images, block)
    shape = images.shape[1:]

    def draw(key: OneKey, n: int) -> Images:
        drawn = jax.random.randint(random_keys.typed(key), (n,), 0, len(data.values), jnp.int32)
        return data.values[drawn].reshape(n, *shape)

    def reverse_kernel(x_t: Images, s: int, t: int) -> Mixture:
        points = data.values.reshape(-1, *shape)
        equal = np.full(len(points), -np.log(len(points)))
        return _mixture_reverse(Mixture(equal, points, jnp.zeros_like(points)), schedule, x_t, s, t)

    denoiser, cov = (Partial(function, data, schedule) for function in (finite_sets.denoiser, finite_sets.cov))
    bounded = bool(data.values.min() >= -1 and data.values.max() <= 1)
    return ToyData(draw, denoiser, cov, reverse_kernel, bounded)


def in_basis(schedule: Schedule, images: Data, basis: Basis) -> ToyData:
    """The finite set seen in an orthonormal basis: its Cov[x_0 | x_t] is the diagonal in that basis.

    An orthonormal change of coordinates keeps all distances, so the weights of y_i given x_t = U x are those in pixels.

    Args:
      schedule: the forward process.
      images: the finite set, in pixels.
      basis: of the data; their x_t are coefficients.
    """
    return finite(schedule, basis.forward(jnp.asarray(images, jnp.float32)))


def exact_heads(toy_data: ToyData, steps: Steps) -> Denoiser:
    """The exact denoiser with the heads that perfect training would give, for the steps of one chain.

    With h = alpha_bar_t/(1 - alpha_bar_t) Cov[x_0 | x_t]: npr = h, sn = h + eps_hat^2, ocm = h - 1,
    learned = log(base + gain h) in nats, and learned_range the head with which (head + 1)/2 of the way from log tb to
    log b is that same log sigma^2. The last two are of the pair that t ends in the chain.

    Args:
      toy_data: see `ToyData`.
      steps: the chain; other times are answered with a neighbour's pair.
    """
    return Partial(_with_heads, denoiser.as_argument(toy_data.denoiser), toy_data.cov, steps)


def _with_heads(denoiser: Denoiser, cov: Partial, steps: Steps, x_t: Images, t: Int[Array, " b"]) -> Prediction:
    """Numerics: where base + gain h = 0 (s = 0, one datum with all the weight) it is the smallest normal number."""
    k = jnp.searchsorted(jnp.asarray(steps.t), t)
    columns = (steps.base, steps.gain, steps.excess_max, steps.log_tb_floored, steps.log_b)
    base, gain, unit, low, high = (rows(column, k, x_t) for column in columns)
    prediction = denoiser(x_t, t)
    h = unit * cov(x_t, t)
    log_var = jnp.log(jnp.maximum(base + gain * h, jnp.finfo(h.dtype).tiny))
    head = 2 * (log_var - low) / (high - low) - 1
    heads = dict(npr=h, sn=h + prediction.eps**2, ocm=h - 1, learned=log_var, learned_range=head)
    return prediction._replace(heads=heads)
