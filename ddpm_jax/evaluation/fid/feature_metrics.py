"""What else is asked of features beside the FID: its value at infinitely many images, KID, IS, precision and recall.

All in float64 on the host; random subsets are drawn from a seed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ddpm_jax.evaluation.fid import frechet

Features = Float[np.ndarray, "n d"]
Others = Float[np.ndarray, "m d"]
ROWS = 1000  # of features that are compared with all others at once


class Estimate(NamedTuple):
    """A number with what it may be off by.

    Attributes:
      value: the estimate.
      standard_error: of it, from the spread of what it is made of.
    """

    value: float
    standard_error: float


def fid_infinity(features: Features, to: frechet.Target, sizes: Sequence[int], seed: int = 0) -> Estimate:
    """FID of ever more images, by a line through its values over 1/n. Chong & Forsyth 2020, section 4.

    Args:
      features: of samples.
      to: the reference.
      sizes: two or more subsets' sizes, each at most the number of samples.
      seed: of the subsets.

    Raises:
      ValueError: there are not as many samples, or not two sizes.
    """
    sizes = list(sizes)
    if len({*sizes}) < 2 or min(sizes) < 2 or max(sizes) > len(features):
        raise ValueError(f"sizes {sizes}: two or more different ones from 2 to {len(features)}, the number of samples")
    draw = np.random.default_rng(seed)
    values = np.array(
        [
            frechet.distance(to, frechet.gaussian_fit(features[draw.choice(len(features), n, replace=False)]))
            for n in sizes
        ]
    )
    return _intercept(1 / np.array(sizes), values)


def _intercept(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Of the line of least squares, with its standard error; without one for two points, which a line always meets."""
    spread = ((x - x.mean()) ** 2).sum()
    slope = ((x - x.mean()) * y).sum() / spread
    value = y.mean() - slope * x.mean()
    if len(x) == 2:
        return Estimate(float(value), np.nan)
    noise = ((y - value - slope * x) ** 2).sum() / (len(x) - 2)
    return Estimate(float(value), float(np.sqrt(noise * (1 / len(x) + x.mean() ** 2 / spread))))


def kid(features: Features, reference: Others, subsets: int = 100, size: int = 1000, seed: int = 0) -> Estimate:
    """Squared maximum mean discrepancy under the kernel (x y/d + 1)^3, without bias. Binkowski et al. 2018, section 4.

    Args:
      features: of samples.
      reference: of images.
      subsets: pairs of subsets whose mean is taken.
      size: of each; at most as many as there are.
      seed: of the subsets.

    Raises:
      ValueError: a side has fewer than `size` features, or `size` or `subsets` is less than 2.
    """
    least = min(len(features), len(reference))
    if not 2 <= size <= least or subsets < 2:
        raise ValueError(f"size = {size}, subsets = {subsets}: size lies in 2..{least}, and subsets are two or more")
    draw = np.random.default_rng(seed)
    values = np.array(
        [
            _discrepancy(*(side[draw.choice(len(side), size, replace=False)] for side in (features, reference)))
            for _ in range(subsets)
        ]
    )
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(subsets)))


def _discrepancy(x: Features, y: Features) -> float:
    x, y = (side.astype(np.float64) for side in (x, y))

    def kernel(a: Features, b: Features) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Features) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


def inception_score(logits: Float[np.ndarray, "n classes"], splits: int = 10) -> Estimate:
    """exp of the mean divergence of the images' class probabilities from their mean. Salimans et al. 2016, section 4.

    Args:
      logits: of the images, in the order in which they were drawn.
      splits: parts of equal size whose scores are averaged; what is left over is dropped.

    Raises:
      ValueError: there are fewer images than parts, or fewer than two parts.
    """
    if not 2 <= splits <= len(logits):
        raise ValueError(f"splits = {splits}: from 2 to {len(logits)}, the number of images")
    part = len(logits) // splits
    scores = np.array([_score(logits[i * part : (i + 1) * part].astype(np.float64)) for i in range(splits)])
    return Estimate(float(scores.mean()), float(scores.std(ddof=1) / np.sqrt(splits)))


def _score(logits: np.ndarray) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    with np.errstate(divide="ignore"):
        terms = np.where(p > 0, p * (log_p - np.log(p.mean(axis=0))), 0)
    return float(np.exp(terms.sum(axis=1).mean()))


def precision_recall(features: Features, reference: Others, k: int = 3) -> tuple[float, float]:
    """Shares of samples among the images, and of images among the samples. Kynkaanniemi et al. 2019, equations 1 to 3.

    A feature is among others if it lies no farther from one of them than that one's k-th neighbour.

    Args:
      features: of samples.
      reference: of images.
      k: of the neighbour.

    Raises:
      ValueError: a side has no k-th neighbour.
    """
    least = min(len(features), len(reference))
    if not 1 <= k < least:
        raise ValueError(f"k = {k}: neighbours from 1 to {least - 1} exist")
    sides = [side.astype(np.float64) for side in (features, reference)]
    return _among(sides[0], sides[1], k), _among(sides[1], sides[0], k)


def _among(some: np.ndarray, others: np.ndarray, k: int) -> float:
    """The share of `some` among the others."""
    radius = _by_rows(others, others, lambda square: np.partition(square, k, axis=1)[:, k])
    return float(_by_rows(some, others, lambda square: np.asarray((square <= radius).any(axis=1))).mean())


def _by_rows(a: np.ndarray, b: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`of` the squared distances of some rows of a to all of b, one number a row."""
    norm = (b**2).sum(axis=1)

    def some(rows: np.ndarray) -> np.ndarray:
        return of(np.maximum((rows**2).sum(axis=1)[:, None] - 2 * rows @ b.T + norm, 0))

    return np.concatenate([some(a[start : start + ROWS]) for start in range(0, len(a), ROWS)])
