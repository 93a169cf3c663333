"""Mixtures of Gaussians: every component by conditioning a joint Gaussian, the weights by Bayes' rule; in one dimension
everything by plain quadrature as well.
"""

import numpy as np

from tests.oracle import pairs


def log_normal(x, mean, variance):
    """log N(x; mean, variance) of one number."""
    return -0.5 * (np.log(2 * np.pi * variance) + (x - mean) ** 2 / variance)


def given(p, weights, means, variances, x_t):
    """q(x_s | x_t) of one example (D,): weights (k,), means (k, D) and variances (k, D) of the components."""
    logs, parts = [], []
    for w, m, c in zip(weights, means, variances, strict=True):
        of_x_t = [log_normal(x, np.sqrt(p.ab_t) * a, p.ab_t * v + p.noise_t) for x, a, v in zip(x_t, m, c, strict=True)]
        logs.append(np.log(w) + sum(of_x_t))
        parts.append([pairs.marginal_reverse(p, a, v, x) for x, a, v in zip(x_t, m, c, strict=True)])
    shares = np.exp(np.array(logs) - max(logs))
    mean, variance = np.moveaxis(np.array(parts), 2, 0)
    return shares / shares.sum(), mean, variance


def moments(weights, means, variances):
    """Mean and variance of each dimension of a mixture."""
    mean = sum(w * m for w, m in zip(weights, means, strict=True))
    second = sum(w * (v + m**2) for w, m, v in zip(weights, means, variances, strict=True))
    return mean, second - mean**2


def density(x, weights, means, variances):
    """Of a one-dimensional mixture at the points x."""
    return sum(w * np.exp(log_normal(x, m, c)) for w, m, c in zip(weights, means, variances, strict=True))


def integrated(p, weights, means, variances, x_t):
    """Mean and variance of x_0 given x_t in one dimension, by a sum over x_0."""
    x_0 = np.linspace(-12, 12, 200_001)
    likelihood = np.exp(log_normal(x_t, np.sqrt(p.ab_t) * x_0, p.noise_t))
    joint = density(x_0, weights, means, variances) * likelihood
    mean = (x_0 * joint).sum() / joint.sum()
    return mean, ((x_0 - mean) ** 2 * joint).sum() / joint.sum()


TELLING_TIMES = (50, 80, 110, 140, 170, 200, 230, 260, 290, 320)  # of linear T = 1000: h varies from x_t to x_t


def four_by_four():
    """Weights, means (3, 4, 4, 1) and variances of images of three kinds, as wide apart as one noise level can tell."""
    cosine = np.cos(np.pi * (np.arange(4) + 0.5) / 4)
    patterns = [np.outer(np.ones(4), cosine), np.outer(cosine, np.ones(4)), -np.outer(cosine, cosine)]
    return np.array([0.4, 0.35, 0.25]), 0.6 * np.stack(patterns)[..., None], np.array([0.02, 0.15, 0.6])
