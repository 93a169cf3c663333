"""The beta schedules, one time after another."""

import math

import numpy as np


def linear(T, beta_1=1e-4, beta_T=0.02):
    """beta_1..beta_T, evenly spaced."""
    return [beta_1 + (beta_T - beta_1) * i / (T - 1) for i in range(T)]


def quadratic(T, beta_1=1e-4, beta_T=0.02):
    """Evenly spaced square roots."""
    low, high = math.sqrt(beta_1), math.sqrt(beta_T)
    return [(low + (high - low) * i / (T - 1)) ** 2 for i in range(T)]


def constant(T, beta=0.02):
    """The same beta at every time."""
    return [beta] * T


def sigmoid(T, beta_1=1e-4, beta_T=0.02):
    """A logistic curve over [-6, 6] between the two ends."""
    return [beta_1 + (beta_T - beta_1) / (1 + math.exp(6 - 12 * i / (T - 1))) for i in range(T)]


def jsd(T):
    """1/(T - t + 1)."""
    return [1 / (T - t + 1) for t in range(1, T + 1)]


def cosine(T):
    """Ratios of a squared cosine, at most .999."""

    def f(t):
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - f(t) / f(t - 1), 0.999) for t in range(1, T + 1)]


def alpha_bar(betas):
    """The running product of 1 - beta, with the data's 1 in front."""
    rows = [1.0]
    for beta in betas:
        rows.append(rows[-1] * (1 - beta))
    return np.array(rows)


def one_minus_alpha_bar(betas):
    """The noise's variance by its own recursion: x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) eps."""
    rows = [0.0]
    for beta in betas:
        rows.append((1 - beta) * rows[-1] + beta)
    return np.array(rows)
