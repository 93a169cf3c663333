"""Every reverse variance of one step."""

import numpy as np

from tests.oracle import pairs


def true_variance(p, c):
    """Q(c): the variance of the true reverse kernel for Gaussian data of variance c."""
    return pairs.marginal_reverse(p, 0.0, c, 0.0)[1]


def noise_variance(p, c):
    """Cov[eps | x_t] for Gaussian data of variance c: the exact excess, M_t and 1 - Gamma_t at once."""
    return pairs.noise_given(p, c, 0.0)[1]


def from_data_uncertainty(p, cov):
    """The reverse variance when x_0 has the covariance `cov` given x_t: what the posterior's mean inherits of it."""
    return p.tb + pairs.posterior_coefficients(p)[0] ** 2 * cov


def held(h, p):
    """h with Cov[x_0 | x_t] = (1 - ab_t)/ab_t h held within [0, 1]."""
    cov = np.minimum(np.maximum(p.noise_t / p.ab_t * h, 0.0), 1.0)
    return p.ab_t / p.noise_t * cov


def radial_means(values):
    """Every coefficient (i, j) of a colour replaced by the mean of those with the same rounded sqrt(i^2 + j^2).

    Of an image that is not square, frequencies count in cycles a longer side.
    """
    height, width, colours = values.shape
    side, result = max(height, width), np.empty_like(values)
    for c in range(colours):
        members = {}
        for i in range(height):
            for j in range(width):
                radius = round(((i * side / height) ** 2 + (j * side / width) ** 2) ** 0.5)
                members.setdefault(radius, []).append((i, j))
        for places in members.values():
            mean = sum(values[i, j, c] for i, j in places) / len(places)
            for i, j in places:
                result[i, j, c] = mean
    return result


def excess_of(name, p, *, c=1.0, excess=None, error=None, spectrum=None, head=None, eps_hat=0.0):
    """The h of a choice that has one: sigma^2 = base + gain h."""
    return {
        "small": lambda: 0.0,
        "large": lambda: p.ab_t,
        "family": lambda: noise_variance(p, c),
        "analytic": lambda: excess[p.t],
        "isotropic": lambda: error[p.t],
        "spectral": lambda: spectrum[p.t],
        "spectral_radial": lambda: radial_means(spectrum[p.t]),
        "npr": lambda: head,
        "sn": lambda: head - eps_hat**2,
        "ocm": lambda: 1 + head,
    }[name]()


HAS_EXCESS = (
    "small",
    "large",
    "family",
    "analytic",
    "isotropic",
    "spectral",
    "spectral_radial",
    "npr",
    "sn",
    "ocm",
)


def between(frac, p, betas):
    """sigma^2 the share frac of the way from tb to b in logarithms; tb(1, 2) stands for tb at s = 0."""
    floor = p.tb if p.s else pairs.pair(betas, 1, 2).tb
    return p.b**frac * floor ** (1 - frac)


def variance(name, p, betas, *, eta=None, frac=0.5, **numbers):
    """sigma^2 of a named choice at the step p with the kernel of `eta`."""
    if name == "zero":
        return 0.0
    if name == "interpolated":
        return between(frac, p, betas)
    if name == "learned_range":
        return between((numbers["head"] + 1) / 2, p, betas)
    if name == "learned":
        return np.exp(numbers["head"])
    k = pairs.kernel(p, eta)
    return k.base + k.gain * excess_of(name, p, **numbers)


def gaussian_head(name, p, betas, c, eps_hat=0.0):
    """What a perfectly trained head says of the step p when the data have variance c."""
    h, q = noise_variance(p, c), true_variance(p, c)
    low = between(0.0, p, betas)
    return {
        "npr": lambda: h,
        "sn": lambda: h + eps_hat**2,
        "ocm": lambda: h - 1,
        "learned": lambda: np.log(q),
        "learned_range": lambda: 2 * np.log(q / low) / np.log(p.b / low) - 1,
    }[name]()
