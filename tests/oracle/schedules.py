"""The beta schedules, one time after another."""

import math
from decimal import Decimal, localcontext

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


def zero_terminal(betas):
    """The betas after shift and scale of sqrt(alpha_bar), algorithm 1 of Lin et al. as written, in 60 digits."""
    with localcontext(prec=60):
        product, roots = Decimal(1), []
        for beta in betas:
            product *= 1 - Decimal(float(beta))
            roots.append(product.sqrt())
        first, last = roots[0], roots[-1]
        alpha_bars = [((root - last) * first / (first - last)) ** 2 for root in roots]
        return [float(1 - now / before) for before, now in zip([Decimal(1), *alpha_bars], alpha_bars, strict=False)]


def linear_zero_terminal(T):
    """`linear` with no data left at T."""
    return zero_terminal(linear(T))


def cosine_zero_terminal(T):
    """`cosine` with no data left at T."""
    return zero_terminal(cosine(T))


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
