"""Mixtures of diagonal Gaussians: their densities, draws and moments, and Bayes' rule, under which they stay mixtures.

Noise turns a mixture into a mixture, and so does observing it under noise. So the data, q(x_t), q(x_0 | x_t) and
q(x_s | x_t) are all of this one kind.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from ddpm_jax.diffusion import random_keys
from ddpm_jax.diffusion.denoiser import Images
from ddpm_jax.diffusion.random_keys import OneKey

Numbers = Float[Array, "..."] | Float[np.ndarray, "..."]
Coefficient = Numbers | float


class Mixture(NamedTuple):
    """sum_k w_k N(mean_k, variance_k), every covariance diagonal in pixels.

    Attributes:
      log_weights: (k,), or (b, k) for a mixture an example; the weights sum to 1.
      mean: (k, *x), or (b, k, *x).
      variance: broadcastable to the means; 0 makes a point.
    """

    log_weights: Numbers
    mean: Numbers
    variance: Numbers


def of(weights: np.ndarray, means: Float[np.ndarray, "k *x"], variances: np.ndarray) -> Mixture:
    """sum_k w_k N(m_k, c_k) of plain numbers, float64 on the host.

    Args:
      weights: w_k (k,), positive; they need not sum to 1.
      means: m_k.
      variances: c_k, (k,) for one variance a component, or (k, *x); at least 0.

    Raises:
      ValueError: numbers of components differ, a weight is not positive, or a variance is negative.
    """
    w, m, c = (np.asarray(part, np.float64) for part in (weights, means, variances))
    c = c.reshape(-1, *[1] * (m.ndim - 1)) if c.ndim == 1 else c
    if not len(w) == len(m) == len(c):
        raise ValueError(f"{len(w)} weights, {len(m)} means, {len(c)} variances: give one of each a component")
    if not ((w > 0).all() and (c >= 0).all()):
        raise ValueError(f"weights from {w.min():g}, variances from {c.min():g}: above 0 and at least 0")
    return Mixture(np.log(w / w.sum()), m, np.broadcast_to(c, m.shape))


def noisy(mixture: Mixture, signal: Coefficient, noise: Coefficient) -> Mixture:
    """The mixture of x = sqrt(signal) z + sqrt(noise) eps for z of `mixture`. Ho et al. 2020, equation 4.

    Args:
      mixture: of z.
      signal: share of z's variance that is left, alpha_bar_t for data.
      noise: variance of the noise, 1 - alpha_bar_t for data.
    """
    return Mixture(mixture.log_weights, np.sqrt(signal) * mixture.mean, signal * mixture.variance + noise)


def condition(mixture: Mixture, x: Images, signal: Coefficient, noise: Coefficient) -> Mixture:
    """q(z | x) for x = sqrt(signal) z + sqrt(noise) eps: the article's Bayes step with the data integrated out.

    With V_k = signal c_k + noise, component k has mean m_k + sqrt(signal) c_k/V_k (x - sqrt(signal) m_k), variance
    noise c_k/V_k and a weight proportional to w_k N(x; sqrt(signal) m_k, V_k).

    Args:
      mixture: of z, one for all examples.
      x: what is seen.
      signal: as in `noisy`; one number, or (b, 1, *1) one an example.
      noise: likewise, above 0.

    Numerics: residuals are formed before they are squared, so that the softmax stays right in float32 where the noise
    is small: components far from x err, and their weights vanish.
    """
    signal, noise, weights, m, c = (jnp.asarray(part, x.dtype) for part in (signal, noise, *mixture))
    root, weights, m, c = jnp.sqrt(signal), weights[None], m[None], c[None]
    total = signal * c + noise
    residual = x[:, None] - root * m
    log_weights = jax.nn.log_softmax(weights + _log_normal(residual, total), axis=1)
    mean = m + root * c / total * residual
    return Mixture(log_weights, mean, jnp.broadcast_to(noise * c / total, mean.shape))


def mean(mixture: Mixture) -> Images:
    """E[z] = sum_k w_k mean_k of a mixture an example, (b, *x)."""
    return jnp.sum(_weights(mixture) * mixture.mean, axis=1)


def variance(mixture: Mixture) -> Images:
    """Var[z] = sum_k w_k (variance_k + (mean_k - E z)^2) of a mixture an example, (b, *x)."""
    apart = mixture.mean - mean(mixture)[:, None]
    return jnp.sum(_weights(mixture) * (mixture.variance + apart**2), axis=1)


def log_prob(mixture: Mixture, x: Images) -> Float[Array, " b"]:
    """log p(x), nats per dimension: p(x) = sum_k w_k N(x; mean_k, variance_k), its logarithm over the size of x."""
    one_for_all = mixture.log_weights.ndim == 1
    weights, m, c = (jnp.asarray(part)[None] if one_for_all else part for part in mixture)
    logs = weights + _log_normal(x[:, None] - m, c)
    return jax.scipy.special.logsumexp(logs, axis=1) / x[0].size


def sample(key: OneKey, mixture: Mixture, n: int) -> Images:
    """n draws: z = mean_k + sqrt(variance_k) eps, k by the weights."""
    choice, noise = jax.random.split(random_keys.typed(key))
    k = jax.random.categorical(choice, jnp.asarray(mixture.log_weights), shape=(n,))
    m, c = jnp.asarray(mixture.mean)[k], jnp.asarray(mixture.variance)[k]
    return m + jnp.sqrt(c) * jax.random.normal(noise, m.shape, m.dtype)


def _weights(mixture: Mixture) -> Array:
    """The weights, shaped to multiply the means."""
    trailing = mixture.mean.ndim - mixture.log_weights.ndim
    return jnp.exp(mixture.log_weights).reshape(*mixture.log_weights.shape, *[1] * trailing)


def _log_normal(residual: Array, total: Any) -> Array:
    """log N of every example and component, (b, k), summed over dimensions."""
    terms = residual**2 / total + jnp.log(2 * np.pi * total)
    return -0.5 * jnp.sum(terms, axis=tuple(range(2, residual.ndim)))
