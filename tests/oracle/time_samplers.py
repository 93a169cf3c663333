"""How times are drawn, one example after another, in plain Python."""

from collections import deque
from math import floor, sqrt


def low_discrepancy(u_0, K, batch):
    """The indices floor(K frac(u_0 + i/B)) of a batch."""
    return [floor(K * ((u_0 + i / batch) % 1)) for i in range(batch)]


class Memory:
    """The last `kept` losses of every index."""

    def __init__(self, K, kept=10):
        self.kept = kept
        self.losses: list[deque[float]] = [deque(maxlen=kept) for _ in range(K)]

    def see(self, indices, losses):
        """One batch, in its order."""
        for k, loss in zip(indices, losses, strict=True):
            self.losses[k].append(loss)

    def probabilities(self, uniform=0.001):
        """Proportional to the root of the mean square, mixed with a uniform share; uniform until all are full."""
        K = len(self.losses)
        if any(len(of_k) < self.kept for of_k in self.losses):
            return [1 / K] * K
        roots = [sqrt(sum(loss**2 for loss in of_k) / len(of_k)) for of_k in self.losses]
        return [(1 - uniform) * root / sum(roots) + uniform / K for root in roots]
