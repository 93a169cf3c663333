"""Which times a short chain visits.

A trajectory is an ascending array of K times; the last is T, and the step from the first leads to the data.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int


def even(T: int, K: int) -> Int[np.ndarray, " K"]:
    """tau_k = round(1 + (T - 1)(k - 1)/(K - 1)), and [T] for K = 1. Bao et al. 2022, appendix ("ET").

    Raises:
      ValueError: K is outside 1..T.
    """
    _check(T, K)
    return np.round(np.linspace(1, T, K)).astype(np.int64) if K > 1 else np.asarray([T])


def quadratic(T: int, K: int) -> Int[np.ndarray, " K"]:
    """Times whose square roots are even, denser near the data; Song et al. 2021 (DDIM), section D.3.

    Differs from: DDIM's code, which stops at 0.8 T and may repeat times; here they are moved up to stay distinct.

    Raises:
      ValueError: K is outside 1..T.
    """
    _check(T, K)
    if K == 1:
        return np.asarray([T])
    wanted = np.round(np.linspace(1, np.sqrt(T), K) ** 2).astype(np.int64)
    k = np.arange(K)
    return np.minimum(np.maximum.accumulate(wanted - k) + k, T - K + 1 + k)


def explicit(T: int, times: Sequence[int] | np.ndarray) -> Int[np.ndarray, " K"]:
    """The given times, checked.

    Raises:
      ValueError: they are not ascending, repeat, or leave 1..T; or the last is not T, so that no chain starts there.
    """
    chosen = np.asarray(times)
    if not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(f"times {list(times)}: they must be whole numbers")
    _check(T, len(chosen))
    if (np.diff(chosen) <= 0).any():
        k = int(np.argmax(np.diff(chosen) <= 0))
        raise ValueError(f"times {chosen[k]}, {chosen[k + 1]}: they must ascend without repeats")
    if chosen[0] < 1 or chosen[-1] != T:
        raise ValueError(f"times {chosen[0]}..{chosen[-1]}: they must lie in 1..{T} and end at {T}")
    return chosen


def optimal(cost: Float[np.ndarray, "m m"], K: int) -> Int[np.ndarray, " K"]:
    """The K times of the cheapest path from T to 0. Watson et al. 2021; Bao et al. 2022, section 4 ("OT").

    Args:
      cost: (T + 1, T + 1), cost[s, t] of the step t -> s for s < t; inf where a step is not allowed.
      K: number of steps.

    Raises:
      ValueError: K is outside 1..T, or no path of K steps is allowed.
    """
    return cheapest_paths(cost, [K])[K]


def cheapest_paths(cost: Float[np.ndarray, "m m"], Ks: Sequence[int]) -> dict[int, Int[np.ndarray, " K"]]:
    """`optimal` for several K from one dynamic programme: C_k(t) = min_s C_{k-1}(s) + cost[s, t], in O(max K T^2).

    Raises:
      ValueError: as `optimal`.
    """
    T = cost.shape[0] - 1
    for K in Ks:
        _check(T, K)
    forward = np.where(np.triu(np.ones_like(cost, bool), 1), cost, np.inf).T.copy()
    value = np.where(np.arange(T + 1) == 0, 0.0, np.inf)
    origins = np.zeros((max(Ks) + 1, T + 1), np.int64)
    reached = {}
    for k in range(1, max(Ks) + 1):  # k steps lead to t >= k, from s >= k - 1
        through = forward[k:, k - 1 :] + value[k - 1 :]
        least = np.argmin(through, axis=1)
        origins[k, k:] = least + k - 1
        value[:k], value[k:] = np.inf, through[np.arange(T + 1 - k), least]
        reached[k] = np.isfinite(value[T])
    paths = {}
    for K in Ks:
        if not reached[K]:
            raise ValueError(f"K = {K}: no path of that many steps from {T} to 0 is allowed")
        times = [T]
        for k in range(K, 1, -1):
            times.append(int(origins[k, times[-1]]))
        paths[K] = np.asarray(times[::-1])
    return paths


def _check(T: int, K: int) -> None:
    if not 1 <= K <= T:
        raise ValueError(f"K = {K} steps: choose 1 to {T}, the length of the schedule")


TRAJECTORIES: dict[str, Callable[[int, int], np.ndarray]] = {"even": even, "quadratic": quadratic}


def named(name: str, T: int, K: int) -> Int[np.ndarray, " K"]:
    """The trajectory called `name`.

    Raises:
      ValueError: no trajectory has this name, or K is outside 1..T.
    """
    if name not in TRAJECTORIES:
        raise ValueError(f"unknown trajectory {name!r}: choose one of {', '.join(TRAJECTORIES)}")
    return TRAJECTORIES[name](T, K)
