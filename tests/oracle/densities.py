"""The samples of a chain in one dimension by plain sums: every step a full matrix, no logarithms, one even grid."""

import numpy as np
from scipy.special import erf

from tests.oracle import mixtures as oracle_mixtures
from tests.oracle import pairs


def reverse_step(p, weights, means, variances, x):
    """x_0_hat and Cov[x_0 | x_t] of a mixture at the points x, component by component."""
    logs, centres, spreads = [], [], []
    for w, m, c in zip(weights, means, variances, strict=True):
        total = p.ab_t * c + p.noise_t
        logs.append(np.log(w) + oracle_mixtures.log_normal(x, np.sqrt(p.ab_t) * m, total))
        (at_0, spread), (at_1, _) = pairs.data_given(p, m, c, 0.0), pairs.data_given(p, m, c, 1.0)
        centres.append(at_0 + (at_1 - at_0) * x)
        spreads.append(spread)
    shares = np.exp(np.array(logs) - np.max(logs, axis=0))
    shares /= shares.sum(axis=0)
    x_0 = (shares * centres).sum(axis=0)
    second = (shares * (np.array(spreads)[:, None] + np.array(centres) ** 2)).sum(axis=0)
    return x_0, second - x_0**2


def propagate(chain, weights, means, variances, choose, x):
    """(y, p_0(y), dy): the samples' density at uneven points, the images of x under the last step, which adds no noise.

    `choose(p, h)` is the variance of a step, given h = ab/(1-ab) Cov[x_0 | x_t] at the points and h averaged.
    """
    dx = x[1] - x[0]
    p_t = np.exp(oracle_mixtures.log_normal(x, 0.0, 1.0))
    for p in reversed(chain):
        x_0, cov = reverse_step(p, weights, means, variances, x)
        true = oracle_mixtures.density(
            x, weights, [np.sqrt(p.ab_t) * m for m in means], [p.ab_t * c + p.noise_t for c in variances]
        )
        h = p.ab_t / p.noise_t * cov
        on_x_0, on_x_t = pairs.posterior_coefficients(p) if p.s else (1.0, 0.0)
        mean = on_x_0 * x_0 + on_x_t * x
        if p.s == 0:
            return mean, p_t / np.gradient(mean, dx), np.gradient(mean)
        sigma = np.sqrt(choose(p, h, (true * h).sum() * dx) * np.ones_like(x))
        kernel = np.exp(-((x[:, None] - mean) ** 2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)
        p_t = kernel @ p_t * dx


def distances(y, p, dy, weights, means, variances):
    """KL(data || samples) in nats, total variation and W2, from p at the points y with spacings dy."""
    q = oracle_mixtures.density(y, weights, means, variances)
    seen = (q > 1e-12) & (p > 1e-290)
    kl = (q[seen] * np.log(q[seen] / p[seen]) * dy[seen]).sum()
    of_p = np.cumsum(p * dy) - p * dy / 2
    of_q = sum(w * (1 + erf((y - m) / np.sqrt(2 * c))) / 2 for w, m, c in zip(weights, means, variances, strict=True))
    u = (np.arange(200_000) + 0.5) / 200_000
    w2 = np.sqrt(((np.interp(u, of_p / of_p[-1], y) - np.interp(u, of_q, y)) ** 2).mean())
    return kl, (np.abs(q - p) * dy).sum() / 2, w2
