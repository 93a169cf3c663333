"""Diagonal Gaussians: sampling, divergence, density, and the likelihood of quantised pixels.

All the article's kernels are Gaussians; this file is all that the project knows of them. Likelihoods are in nats per
dimension (the mean over the D values of an example), so that images of any size compare.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr
from jaxtyping import Bool, Float

from ddpm_jax.basis import PIXEL, Basis


class Gaussian(NamedTuple):
    """N(mean, covariance), the covariance diagonal in `basis`.

    Attributes:
      mean: (b, *x), in pixels.
      log_var: log of the variances, in nats, broadcastable to the mean; -inf makes a point.
      basis: where the covariance is diagonal.
    """

    mean: Float[Array, "b *x"]
    log_var: Float[Array, "..."]
    basis: Basis = PIXEL


def sample(gaussian: Gaussian, noise: Float[Array, "b *x"]) -> Float[Array, "b *x"]:
    """The draw that standard-normal `noise` becomes: x = mean + sqrt(covariance) noise.

    The root is the symmetric one: like covariances make like samples of one noise, whatever their bases.
    """
    return gaussian.mean + gaussian.basis.inverse(jnp.exp(gaussian.log_var / 2) * gaussian.basis.forward(noise))


def kl(q: Gaussian, p: Gaussian) -> Float[Array, " b"]:
    """KL(q || p), nats per dimension. Both in p's basis. Ho et al. 2020, equation 5's terms."""
    difference = p.basis.forward(q.mean - p.mean)
    log_ratio = q.log_var - p.log_var
    return _per_dimension(0.5 * (jnp.exp(log_ratio) + difference**2 * jnp.exp(-p.log_var) - 1 - log_ratio))


def log_prob(gaussian: Gaussian, x: Float[Array, "b *x"]) -> Float[Array, " b"]:
    """log density at x, nats per dimension: -1/2 [r^2/sigma^2 + log(2 pi sigma^2)] with r = x - mean in the basis."""
    residual = gaussian.basis.forward(x - gaussian.mean)
    return _per_dimension(-0.5 * (residual**2 * jnp.exp(-gaussian.log_var) + gaussian.log_var + jnp.log(2 * jnp.pi)))


def discretised_log_prob(gaussian: Gaussian, x: Float[Array, "b *x"], levels: int) -> Float[Array, " b"]:
    """log P(x) of quantised pixels, nats per dimension. Ho et al. 2020, equation 13; pixel basis only.

    Args:
      gaussian: the decoder p(x_0 | x_1) before quantisation.
      x: values on the grid linspace(-1, 1, levels).
      levels: number of grey levels of the data; a pixel's bin reaches half a spacing to each side, the outermost bins
        reach to infinity.

    Raises:
      ValueError: fewer than two levels, or another basis.
    """
    if levels < 2:
        raise ValueError(f"levels = {levels}: quantised data have at least 2")
    if gaussian.basis.name != PIXEL.name:
        raise ValueError(f"the likelihood of pixels needs the pixel basis, not {gaussian.basis.name}")
    half = 1 / (levels - 1)
    return _per_dimension(discretised_log_mass(x - gaussian.mean, gaussian.log_var, half, x < half - 1, x > 1 - half))


def discretised_log_mass(
    residual: Float[Array, "*x"],
    log_var: Float[Array, "..."],
    half_spacing: float,
    lowest: Bool[Array, "*x"],
    highest: Bool[Array, "*x"],
) -> Float[Array, "*x"]:
    """log of the normal mass within half a spacing of `residual`, element by element, in nats.

    log [Phi((r + d)/sigma) - Phi((r - d)/sigma)], d = half_spacing, open at the ends. Ho et al. 2020, equation 13.

    Numerics: mirrored to the lower tail, where log Phi(u) - log Phi(l) is formed with the quadratic part taken out
    ((u - l)(u + l)/2 exactly), so no floor is needed and the result is finite in float32 for any pixel and mean.
    Differs from: Ho et al.'s code, which floors the mass at 1e-12.
    """
    scale = jnp.exp(-0.5 * log_var)
    upper = (half_spacing - jnp.abs(residual)) * scale
    width = 2 * half_spacing * scale
    inside = log_ndtr(upper) + _log1mexp(_log_cdf_ratio(upper, width))
    open_below = log_ndtr((half_spacing + residual) * scale)
    open_above = log_ndtr((half_spacing - residual) * scale)
    return jnp.where(lowest, open_below, jnp.where(highest, open_above, inside))


def _log_cdf_ratio(upper: Array, width: Array) -> Array:
    """log Phi(upper) - log Phi(upper - width) > 0, accurate in the lower tail."""
    lower = upper - width
    tail = jnp.minimum(upper, 0.0)
    in_tail = width * (-tail + width / 2) + _log_scaled_tail(tail) - _log_scaled_tail(tail - width)
    return jnp.where(upper < 0, in_tail, log_ndtr(upper) - log_ndtr(lower))


def _log_scaled_tail(z: Array) -> Array:
    """log Phi(z) + z^2/2 for z <= 0: log Phi near 0, its asymptotic series (to 1e-6) far out.

    Differs from: log(erfcx(-z/sqrt 2)/2), whose JAX version is 0 in float32 for arguments near 9.3.
    """
    near = jnp.maximum(z, -8.0)
    far = jnp.minimum(z, -8.0)
    r = 1 / far**2
    series = -jnp.log(-far) - 0.5 * jnp.log(2 * jnp.pi) + jnp.log1p(-r * (1 - 3 * r * (1 - 5 * r * (1 - 7 * r))))
    return jnp.where(z > -8.0, log_ndtr(near) + near**2 / 2, series)


def _log1mexp(d: Array) -> Array:
    """log(1 - exp(-d)) for d > 0."""
    return jnp.where(d < 0.7, jnp.log(-jnp.expm1(-d)), jnp.log1p(-jnp.exp(-d)))


def _per_dimension(values: Array) -> Array:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))
