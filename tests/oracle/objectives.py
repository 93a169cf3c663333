"""Training losses of one example from their definitions: full covariances, one dimension after another."""

import numpy as np
from scipy.fft import idctn
from scipy.stats import multivariate_normal

from tests.oracle import gaussians, pairs


def basis_images(shape, axes):
    """Row j is the j-th image of the 2-D DCT along colour axes."""
    unit = np.eye(np.prod(shape)).reshape(-1, *shape)
    return (idctn(unit, axes=(1, 2), norm="ortho") @ np.asarray(axes)).reshape(len(unit), -1)


def covariance(sigma2, shape, axes=None):
    """The covariance with variances sigma2 in pixels, or in the DCT along `axes`."""
    diagonal = np.diag(np.broadcast_to(sigma2, shape).ravel())
    if axes is None:
        return diagonal
    rows = basis_images(shape, axes)
    return rows.T @ diagonal @ rows


def bound_term(p, x_0, x_t, x_0_hat, sigma2, levels, axes=None):
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), at s = 0 -log p(x_0 | x_t), in nats per dimension."""
    on_x_0, on_x_t = pairs.posterior_coefficients(p)
    x_0, x_t, x_0_hat = (np.asarray(x, float) for x in (x_0, x_t, x_0_hat))
    mean = on_x_0 * x_0_hat + on_x_t * x_t
    cov = covariance(sigma2, x_0.shape, axes)
    if p.s:
        right = (on_x_0 * x_0 + on_x_t * x_t).ravel()
        return gaussians.kl(right, p.tb * np.eye(right.size), mean.ravel(), cov) / right.size
    if levels is None:
        return -multivariate_normal.logpdf(x_0.ravel(), mean.ravel(), cov) / x_0.size
    return -gaussians.discretised_log_mass(x_0, mean, np.log(np.broadcast_to(sigma2, x_0.shape)), levels).mean()


def weighted(weighting, snr, x_0, x_0_hat):
    """The weighted error of x_0_hat: min-SNR with gamma = 5, or truncated SNR."""
    weight = {"min_snr": min(snr, 5.0), "truncated_snr": max(snr, 1.0)}[weighting]
    return weight * ((np.asarray(x_0, float) - np.asarray(x_0_hat, float)) ** 2).mean()
