"""Bits/dim from definitions: the prior's divergence, one divergence a step, the decoder."""

import math

import numpy as np

from tests.oracle import gaussians


def step_kl(p, sigma2, squared_error):
    """KL of the posterior and a model kernel whose mean is off because eps_hat is off by sqrt(squared_error)."""
    miss = math.sqrt(p.v * squared_error)
    return gaussians.kl(0.0, p.tb, miss, sigma2)


def diagonal_kl(p, sigma2, squares):
    """The mean of `step_kl` over coefficients with variances sigma2 and squared errors of their own."""
    quadratic = (p.tb + p.v * np.asarray(squares)) / sigma2
    return np.mean(0.5 * (quadratic - 1 - np.log(p.tb / np.asarray(sigma2))))


def prior_kl(x_0, ab_T, noise_T):
    """KL(q(x_T | x_0) || N(0, 1)) in nats per dimension, one image."""
    values = np.ravel(x_0)
    return np.mean([gaussians.kl(math.sqrt(ab_T) * x, noise_T, 0.0, 1.0) for x in values])


def per_image(chain, sigma2, error, prior, decoder):
    """Bits/dim of each image: error (n, T+1), prior (n,), decoder (n, T+1), all nats/dim."""
    totals = []
    for i in range(len(prior)):
        nats = prior[i] + decoder[i, chain[0].t]
        for p, var in zip(chain[1:], sigma2[1:], strict=True):
            nats += step_kl(p, var, error[i, p.t])
        totals.append(nats / math.log(2))
    return np.array(totals)
