"""Divergence, density and quantised likelihood of Gaussians."""

import numpy as np
from scipy.special import log_ndtr


def kl(mean_q, cov_q, mean_p, cov_p):
    """KL(q || p) in nats, full covariances: 1/2 [tr(P^-1 Q) + d' P^-1 d - k + log det P - log det Q]."""
    mean_q, mean_p = np.atleast_1d(mean_q), np.atleast_1d(mean_p)
    cov_q, cov_p = np.atleast_2d(cov_q), np.atleast_2d(cov_p)
    d = mean_p - mean_q
    logdet = np.linalg.slogdet(cov_p)[1] - np.linalg.slogdet(cov_q)[1]
    return 0.5 * (np.trace(np.linalg.solve(cov_p, cov_q)) + d @ np.linalg.solve(cov_p, d) - len(d) + logdet)


def discretised_log_mass(x, mean, log_var, levels):
    """log P of a grey level x under N(mean, exp(log_var)) cut at half the level spacing; outermost bins are open.

    A bin in the upper tail is mirrored to the lower one, so that the two log Phi are never both near 0.
    """
    x, mean, log_var = np.broadcast_arrays(*(np.asarray(z, np.float64) for z in (x, mean, log_var)))
    half, scale = 1 / (levels - 1), np.exp(-log_var / 2)
    upper, lower = (x + half - mean) * scale, (x - half - mean) * scale
    mirror = lower > 0
    upper, lower = np.where(mirror, -lower, upper), np.where(mirror, -upper, lower)
    high, low = log_ndtr(upper), log_ndtr(lower)
    inside = high + np.log(-np.expm1(low - high))
    at_bottom, at_top = x < -1 + half, x > 1 - half
    open_below, open_above = log_ndtr((x + half - mean) * scale), log_ndtr(-(x - half - mean) * scale)
    return np.where(at_bottom, open_below, np.where(at_top, open_above, inside))
