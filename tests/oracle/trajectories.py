"""The cheapest trajectory by trying every one."""

from itertools import combinations

import numpy as np


def path_cost(cost, times):
    """The sum of the steps 0 <- tau_1 <- ... <- tau_K."""
    return sum(cost[s, t] for s, t in zip([0, *times[:-1]], times, strict=True))


def cheapest(cost, K):
    """(cost, times) of the best of all trajectories of K times that end at T."""
    T = len(cost) - 1
    return min((path_cost(cost, (*inner, T)), (*inner, T)) for inner in combinations(range(1, T), K - 1))


def even(T, K):
    """round(1 + (T-1)(k-1)/(K-1))."""
    return [T] if K == 1 else [int(np.round(1 + (T - 1) * k / (K - 1))) for k in range(K)]
