"""Bayes' rule over a finite set of data, dense and in float64."""

import numpy as np


def weights(images, ab_t, noise_t, x_t):
    """P(y_i | x_t) of one example, from its squared distances to all the data."""
    data = np.reshape(images, (len(images), -1)).astype(float)
    square = ((np.ravel(x_t) - np.sqrt(ab_t) * data) ** 2).sum(axis=1)
    unnormalised = np.exp(-(square - square.min()) / (2 * noise_t))
    return unnormalised / unnormalised.sum()


def moments(images, ab_t, noise_t, x_t):
    """E[x_0 | x_t] (D,) and the full Cov[x_0 | x_t] (D, D) of one example."""
    data = np.reshape(images, (len(images), -1)).astype(float)
    w = weights(images, ab_t, noise_t, x_t)
    mean = w @ data
    apart = data - mean
    return mean, (w[:, None] * apart).T @ apart
