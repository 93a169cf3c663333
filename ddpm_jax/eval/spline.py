"""Tabulated costs between their nodes: positive, smooth functions of which the logarithm is a cubic spline."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float64
from scipy.interpolate import CubicSpline

LEAST = 1e-30  # of a cost whose logarithm is taken: one that is 0


def between(
    first: float, last: float, costs: Float[np.ndarray, "*n nodes"], at: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, "*n k"]:
    """f(at) from f at nodes that lie evenly from `first` to `last`: log f is a cubic spline of the node.

    Args:
      first: node.
      last: node.
      costs: at the nodes, positive or 0; in the unit of the result.
      at: where they are wanted, within the nodes.
    """
    logs = np.log(np.maximum(np.asarray(costs, np.float64), LEAST))
    count = logs.shape[-1]
    return np.exp(logs @ _cardinal(count)((at - first) * ((count - 1) / (last - first))).T)


@lru_cache
def _cardinal(count: int) -> CubicSpline:
    """The splines through 1 at one of the nodes 0..count-1 and 0 at the others: every spline is a sum of them."""
    return CubicSpline(np.arange(count), np.eye(count))
