"""Likelihoods of the power-law Gaussian, one direction and one step after another."""

import math

import numpy as np

from tests.oracle import bits, pairs
from tests.oracle import variances as oracle_variances


def spectrum(p, f0, side=32, shares=(0.9, 0.075, 0.025), mean=0.25):
    """c[i][j][axis], in plain loops."""
    values = np.zeros((side, side, len(shares)))
    for i in range(side):
        for j in range(side):
            for axis, share in enumerate(shares):
                values[i, j, axis] = share * math.sqrt(i * i + j * j + f0 * f0) ** -p
    return values / values.mean() * mean


def mean_error(p, cs):
    """M_t: Cov[eps | x_t] averaged over directions."""
    return np.mean([oracle_variances.noise_variance(p, c) for c in cs])


def bits_without_decoder(chain, sigma2, cs):
    """(L_T + sum of KL)/ln 2; sigma2 has one number a step, or one a step and direction."""
    last = chain[-1]
    nats = np.mean([bits.prior_kl([math.sqrt(c)], last.ab_t, last.noise_t) for c in cs])
    for p, var in zip(chain[1:], sigma2[1:], strict=True):
        each = np.broadcast_to(var, len(cs))
        nats += np.mean(
            [bits.step_kl(p, v, oracle_variances.noise_variance(p, c)) for v, c in zip(each, cs, strict=True)]
        )
    return nats / math.log(2)


def first_variance(betas, t, cs):
    """tb + v M_t of the step t -> 1."""
    p = pairs.pair(betas, 1, t)
    return p.tb + p.v * mean_error(p, cs)
