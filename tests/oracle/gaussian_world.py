"""A chain whose denoiser is exact for data N(m, c): every marginal is Gaussian, found by a recursion."""

import numpy as np

from tests.oracle import pairs


def mean_slope(p, c, eta=None):
    """d mean / d x_t of one reverse step with the exact denoiser, by two evaluations of a linear function."""
    k = pairs.kernel(p, eta)

    def reverse_mean(x_t):
        x_0_hat = pairs.data_given(p, 0.0, c, x_t)[0]
        eps_hat = (x_t - np.sqrt(p.ab_t) * x_0_hat) / np.sqrt(p.noise_t)
        return k.mean_x_0 * x_0_hat + k.mean_eps * eps_hat

    return reverse_mean(1.0) - reverse_mean(0.0)


def sample_moments(chain, sigma2, m, c, eta=None):
    """Mean and variance of the samples of a chain (ascending pairs) with the reverse variances `sigma2`.

    The error of the mean is x_s's mean less sqrt(ab_s) m; x_T is standard normal.
    """
    variance, error = 1.0, -np.sqrt(chain[-1].ab_t) * m
    for p, noise in zip(reversed(chain), reversed(list(sigma2)), strict=True):
        slope = mean_slope(p, c, eta)
        variance, error = slope**2 * variance + noise, slope * error
    return m + error, variance
