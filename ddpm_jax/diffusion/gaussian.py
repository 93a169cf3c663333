"""Diagonal Gaussians: sampling, divergence, density, and the likelihood of quantised pixels.

All the article's kernels are Gaussians; this file is all that the project knows of them. Likelihoods are in nats per
dimension (the mean over the D values of an example), so that images of any size compare.
"""

from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from numpy.polynomial import chebyshev

from ddpm_jax.diffusion.bases import PIXEL, Basis


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
    ((u - l)(u + l)/2 exactly), so no floor is needed and the result is finite in float32 for any pixel and mean. Both
    edges' tails are looked up once; with JAX's log_ndtr, which evaluates three branches, it took 2.3 times as long.
    Differs from: Ho et al.'s code, which floors the mass at 1e-12.
    """
    scale = jnp.exp(-0.5 * log_var)
    near, far = (half_spacing - jnp.abs(residual)) * scale, (half_spacing + jnp.abs(residual)) * scale
    near_tail, far_tail = _log_scaled_tail(jnp.abs(near)), _log_scaled_tail(far)
    below_near = jnp.where(near < 0, near_tail - near**2 / 2, _log1mexp(near**2 / 2 - near_tail))
    below_minus_far = far_tail - far**2 / 2
    in_tail = 2 * half_spacing * scale * jnp.abs(residual) * scale + near_tail - far_tail  # (far^2 - near^2)/2 first
    inside = below_near + _log1mexp(jnp.where(near < 0, in_tail, below_near - below_minus_far))
    open_towards_the_mean = jnp.where(lowest, residual > 0, residual < 0)
    open_ended = jnp.where(open_towards_the_mean, _log1mexp(-below_minus_far), below_near)
    return jnp.where(lowest | highest, open_ended, inside)


DEGREE, POINTS = 11, 400


@cache
def _tail() -> list[float]:
    """Coefficients in v = (2 - a)/(2 + a) of log Phi(-a) + a^2/2 + log(1 + a/2), a >= 0, by Chebyshev's points.

    At most 5e-8 off. The form is that of Press et al. 2007 (Numerical Recipes), section 6.2.2, for erfc.
    """
    from scipy.special import erfcx  # takes as long to import as NumPy: --help need not wait for it

    v = np.cos(np.pi * (np.arange(POINTS) + 0.5) / POINTS)
    a = 2 * (1 - v) / (1 + v)
    return chebyshev.cheb2poly(
        chebyshev.chebfit(v, np.log(erfcx(a / np.sqrt(2)) / 2) + np.log1p(a / 2), DEGREE)
    ).tolist()


def _log_scaled_tail(a: Array) -> Array:
    """log Phi(-a) + a^2/2 for a >= 0.

    Differs from: log(erfcx(a/sqrt 2)/2), whose JAX version is 0 in float32 for arguments near 9.3.
    """
    return jnp.polyval(jnp.asarray(_tail()[::-1], a.dtype), (2 - a) / (2 + a)) - jnp.log1p(a / 2)


def _log1mexp(d: Array) -> Array:
    """log(1 - exp(-d)) for d > 0."""
    return jnp.where(d < 0.7, jnp.log(-jnp.expm1(-d)), jnp.log1p(-jnp.exp(-d)))


def _per_dimension(values: Array) -> Array:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))
