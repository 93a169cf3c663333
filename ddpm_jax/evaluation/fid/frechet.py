"""The Frechet distance between Gaussian fits of two sets of features. Heusel et al. 2017.

With Inception features it is the FID; with any other features it is not, and is not called so here.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float


class Sums(NamedTuple):
    """What a Gaussian fit needs of features, and what can be added to that of others; float64.

    Attributes:
      n: how many.
      mean: m = sum x_i/n, (d,).
      scatter: sum (x_i - m)(x_i - m)^T, (d, d).
    """

    n: int
    mean: np.ndarray
    scatter: np.ndarray


class Fit(NamedTuple):
    """A Gaussian.

    Attributes:
      mean: (d,).
      cov: (d, d).
    """

    mean: np.ndarray
    cov: np.ndarray


def sums(features: Float[np.ndarray, "n d"]) -> Sums:
    """Of one or more features. Heusel et al. 2017, section 3."""
    wide = np.asarray(features, np.float64)
    mean = wide.mean(axis=0)
    return Sums(len(wide), mean, (wide - mean).T @ (wide - mean))


def added(one: Sums, other: Sums) -> Sums:
    """Of all features together, without a difference of large numbers. Chan et al. 1979, equations 2.1."""
    n, apart = one.n + other.n, other.mean - one.mean
    scatter = one.scatter + other.scatter + np.outer(apart, apart) * (one.n * other.n / n)
    return Sums(n, one.mean + apart * (other.n / n), scatter)


def streamed(features: Callable[[np.ndarray], np.ndarray], images: Any, rows: int = 2048) -> Sums:
    """Of the features of many images, an array or alike, a part at a time. Heusel et al. 2017, section 3."""
    parts = (sums(features(images[first : first + rows])) for first in range(0, len(images), rows))
    return reduce(added, parts)


def fit(found: Sums) -> Fit:
    """Mean (d,) and covariance, scatter/(n - 1), (d, d). Heusel et al. 2017, section 3.

    Raises:
      ValueError: fewer than two features.
    """
    if found.n < 2:
        raise ValueError(f"{found.n} features: a covariance needs at least 2")
    return Fit(found.mean, found.scatter / (found.n - 1))


def gaussian_fit(features: Float[np.ndarray, "n d"]) -> Fit:
    """Mean m = sum x_i/n, (d,), and covariance S = sum (x_i - m)(x_i - m)^T/(n - 1), (d, d), of n features, float64.

    Raises:
      ValueError: fewer than two features.
    """
    return fit(sums(features))


class Target(NamedTuple):
    """A Gaussian that many others are compared with.

    Attributes:
      fit: of it.
      factor: F with F F^T = cov, (d, rank).
    """

    fit: Fit
    factor: np.ndarray


def target(found: Fit) -> Target:
    """With the factor, the larger half of what a distance costs. Heusel et al. 2017, equation 6."""
    return Target(found, _factor(found.cov))


def distance(to: Target, found: Fit) -> float:
    """||mean_a - mean_b||^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)). Heusel et al. 2017, equation 6.

    Numerics: with cov = F F^T on both sides tr (A B)^(1/2) is the sum of the singular values of F_a^T F_b, which needs
    no offset for singular covariances.
    """
    cross = scipy.linalg.svdvals(to.factor.T @ _factor(found.cov)).sum()
    apart = ((to.fit.mean - found.mean) ** 2).sum()
    return float(apart + np.trace(to.fit.cov) + np.trace(found.cov) - 2 * cross)


def frechet_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """`distance` of two Gaussians. Heusel et al. 2017, equation 6."""
    return distance(target(Fit(mean_a, cov_a)), Fit(mean_b, cov_b))


def finite_sample_bias(cov: Float[np.ndarray, "d d"], n: int) -> float:
    """E distance = [tr S + 1/2 sum_ij l_i l_j (1 + d_ij)/(l_i + l_j)]/n for n samples of a matching model.

    First order in 1/n, over eigenvalues l of the feature covariance S; the other side is taken as exact.
    """
    l = np.linalg.eigvalsh(cov)
    l = l[l > l.max() * 1e-12]
    pairs = l[:, None] * l / (l[:, None] + l) * (1 + np.eye(len(l)))
    return float((np.trace(cov) + pairs.sum() / 2) / n)


def _factor(cov: np.ndarray) -> np.ndarray:
    """F with F F^T = cov, of as many columns as there are eigenvalues above rounding; at least one."""
    values, vectors = np.linalg.eigh(cov)
    kept = values > max(values.max(), 0) * len(values) * np.finfo(np.float64).eps
    kept[-1] = True
    return vectors[:, kept] * np.sqrt(np.maximum(values[kept], 0))
