"""Tabulated costs between their nodes: positive, smooth functions of which the logarithm is a cubic spline."""

import numpy as np
from jaxtyping import Float, Float64
from scipy.interpolate import CubicSpline

LEAST = 1e-30  # of a cost whose logarithm is taken: one that is 0


def between(
    nodes: Float64[np.ndarray, " nodes"], costs: Float[np.ndarray, "*n nodes"], at: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, "*n k"]:
    """f(at) from f(nodes): log f is a cubic spline of the node.

    Args:
      nodes: ascending.
      costs: there, positive or 0; in the unit of the result.
      at: where they are wanted, within the nodes.
    """
    logs = np.log(np.maximum(np.asarray(costs, np.float64), LEAST))
    return np.exp(CubicSpline(nodes, logs, axis=-1)(at))
