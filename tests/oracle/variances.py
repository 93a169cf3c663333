"""Every reverse variance of one step."""

import math

from tests.oracle import pairs


def true_variance(p, c):
    """Q(c): the variance of the true reverse kernel for Gaussian data of variance c."""
    return pairs.marginal_reverse(p, 0.0, c, 0.0)[1]


def noise_variance(p, c):
    """Cov[eps | x_t] for Gaussian data of variance c: the exact excess, M_t and 1 - Gamma_t at once."""
    return pairs.noise_given(p, c, 0.0)[1]


def excess_of(name, p, *, c=1.0, excess=None, error=None):
    """The h of a choice that has one: sigma^2 = base + gain h."""
    return {
        "small": lambda: 0.0,
        "large": lambda: p.ab_t,
        "family": lambda: noise_variance(p, c),
        "analytic": lambda: excess[p.t],
        "isotropic": lambda: error[p.t],
    }[name]()


HAS_EXCESS = ("small", "large", "family", "analytic", "isotropic")


def variance(name, p, betas, *, eta=None, frac=0.5, **numbers):
    """sigma^2 of a named choice at the step p with the kernel of `eta`."""
    if name == "zero":
        return 0.0
    if name == "interpolated":
        floor = p.tb if p.s else pairs.pair(betas, 1, 2).tb
        return math.exp(frac * math.log(p.b) + (1 - frac) * math.log(floor))
    k = pairs.kernel(p, eta)
    return k.base + k.gain * excess_of(name, p, **numbers)
