"""The path of a chain as one joint Gaussian, scores of its samples by integration, and the best variances by trial."""

import numpy as np
from scipy import integrate, stats

from tests.oracle import gaussian_world, gaussians, pairs


def joint(variance_T, slopes, noises):
    """Covariance of (x_T, ..., x_tau_1): each x_s = slope x_t + sqrt(noise) z, as a matrix times its transpose."""
    factor = np.zeros((len(slopes) + 1, len(slopes) + 1))
    factor[0, 0] = np.sqrt(variance_T)
    for k, (slope, noise) in enumerate(zip(slopes, noises, strict=True)):
        factor[k + 1] = slope * factor[k]
        factor[k + 1, k + 1] = np.sqrt(noise)
    return factor @ factor.T


def path_kl(chain, sigma2, c):
    """KL(true path || model path) in nats, both from the true x_T, of one direction; the step to the data left out."""
    later = list(reversed(chain[1:]))
    slopes = [gaussian_world.mean_slope(p, c) for p in later]
    true = [pairs.marginal_reverse(p, 0.0, c, 0.0)[1] for p in later]
    V_T = chain[-1].ab_t * c + chain[-1].noise_t
    model = list(reversed(list(sigma2)[1:]))
    zeros = np.zeros(len(slopes) + 1)
    return gaussians.kl(zeros, joint(V_T, slopes, true), zeros, joint(V_T, slopes, model))


def divergence(c, P, error):
    """KL(N(0, c) || N(error, P)) in nats, by quadrature."""
    data, model = stats.norm(0, np.sqrt(c)), stats.norm(error, np.sqrt(P))
    reach = 12 * np.sqrt(c)
    return integrate.quad(lambda x: data.pdf(x) * (data.logpdf(x) - model.logpdf(x)), -reach, reach, epsabs=1e-12)[0]


def best_two(chain, cs, most, rounds=14, side=41):
    """The least of sum (sqrt P_0 - sqrt c)^2 over two variances in [0, most], by grids that close in on the best point.

    P_0 is found at three points by the recursion: it is a plane.
    """
    ends = lambda *sigma2: np.array([gaussian_world.sample_moments(chain, sigma2, 0.0, c)[1] for c in cs])  # noqa: E731
    at_0, roots = ends(0.0, 0.0), np.sqrt(np.asarray(cs))
    slopes = ends(1.0, 0.0) - at_0, ends(0.0, 1.0) - at_0
    low, high = np.zeros(2), np.asarray(most, float)
    for _ in range(rounds):
        x, y = np.meshgrid(*(np.linspace(a, b, side) for a, b in zip(low, high, strict=True)), indexing="ij")
        P = at_0 + x[..., None] * slopes[0] + y[..., None] * slopes[1]
        values = ((np.sqrt(P) - roots) ** 2).sum(axis=-1)
        best = np.unravel_index(values.argmin(), values.shape)
        point, width = np.array([x[best], y[best]]), (high - low) / 4
        low, high = np.maximum(point - width, 0), point + width
    return values.min(), point
