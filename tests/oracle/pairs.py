"""One step t -> s: coefficients, posteriors by Bayes' rule on a joint Gaussian, and the DDIM-type kernels."""

from typing import NamedTuple

import numpy as np


class Pair(NamedTuple):
    """The numbers of a step from t to s < t, named as in the formulas."""

    s: int
    t: int
    ab_s: float
    ab_t: float
    noise_s: float
    noise_t: float
    a: float
    b: float
    tb: float
    v: float
    rho: float
    u: float


def pair(betas, s, t):
    """All coefficients of a step, each from its definition."""
    a = 1.0
    b = 0.0
    ab_s, noise_s = 1.0, 0.0
    for i, beta in enumerate(betas[:t], start=1):
        if i <= s:
            ab_s, noise_s = ab_s * (1 - beta), (1 - beta) * noise_s + beta
        else:
            a, b = a * (1 - beta), (1 - beta) * b + beta
    ab_t, noise_t = ab_s * a, a * noise_s + b
    rho = noise_s / noise_t
    u = (ab_s / noise_s) / (ab_t / noise_t) - 1 if s and ab_t else np.inf
    return Pair(s, t, ab_s, ab_t, noise_s, noise_t, a, b, b * rho, b**2 / (a * noise_t) if a else np.inf, rho, u)


def chain(betas, times):
    """The pairs of a chain that visits ascending `times` and then the data."""
    return [pair(betas, s, t) for s, t in zip([0, *times[:-1]], times, strict=True)]


def condition(mean, cov, observed):
    """(gain, offset, variance) of the first of two jointly Gaussian variables given the second: linear algebra only."""
    mean, cov = np.asarray(mean, float), np.asarray(cov, float)
    gain = np.linalg.solve(cov[1:, 1:], cov[1:, 0])
    return mean[0] + gain @ (np.atleast_1d(observed) - mean[1:]), cov[0, 0] - gain @ cov[1:, 0]


def posterior(p, x_0, x_t):
    """Mean and variance of q(x_s | x_t, x_0): x_s and x_t are jointly Gaussian given x_0."""
    mean = [np.sqrt(p.ab_s) * x_0, np.sqrt(p.ab_t) * x_0]
    cross = np.sqrt(p.a) * p.noise_s
    return condition(mean, [[p.noise_s, cross], [cross, p.noise_t]], x_t)


def posterior_coefficients(p):
    """What multiplies x_0 and x_t in the posterior's mean."""
    return posterior(p, 1.0, 0.0)[0], posterior(p, 0.0, 1.0)[0]


def marginal_reverse(p, m, c, x_t):
    """Mean and variance of q(x_s | x_t) for data N(m, c): x_0 integrated out before conditioning."""
    mean = [np.sqrt(p.ab_s) * m, np.sqrt(p.ab_t) * m]
    var_s, var_t = p.ab_s * c + p.noise_s, p.ab_t * c + p.noise_t
    cross = np.sqrt(p.a) * var_s
    return condition(mean, [[var_s, cross], [cross, var_t]], x_t)


def data_given(p, m, c, x_t):
    """Mean and variance of x_0 given x_t for data N(m, c)."""
    cross = np.sqrt(p.ab_t) * c
    return condition([m, np.sqrt(p.ab_t) * m], [[c, cross], [cross, p.ab_t * c + p.noise_t]], x_t)


def noise_given(p, c, x_t):
    """Mean and variance of eps given x_t for data N(0, c)."""
    cross = np.sqrt(p.noise_t)
    return condition([0, 0], [[1, cross], [cross, p.ab_t * c + p.noise_t]], x_t)


class KernelCoefficients(NamedTuple):
    """A reverse kernel's mean as mean_x_0 x_0_hat + mean_eps eps_hat, its noise, and what an error in eps adds."""

    mean_x_0: float
    mean_eps: float
    base: float
    gain: float


def kernel(p, eta=None):
    """eta None: Bayes' posterior (DDPM). Else lambda = eta sqrt(tb): DDIM."""
    if eta is None:
        on_x_0, on_x_t = posterior_coefficients(p)
        x_0, eps, base = on_x_0 + on_x_t * np.sqrt(p.ab_t), on_x_t * np.sqrt(p.noise_t), p.tb
    else:
        x_0, base = np.sqrt(p.ab_s), eta**2 * p.tb
        eps = np.sqrt(p.noise_s - base)
    # x_0_hat = (x_t - sqrt(noise_t) eps_hat)/sqrt(ab_t): the mean as a function of eps_hat at fixed x_t has this slope.
    slope = eps - x_0 * np.sqrt(p.noise_t / p.ab_t)
    return KernelCoefficients(x_0, eps, base, slope**2)
