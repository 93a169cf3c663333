"""How many network evaluations a study takes, and what of it fits: fewer samples first, then shorter chains.

Chains of the likelihood table cost nothing more: one pass over the images serves all of them.
"""

from typing import NamedTuple

ENOUGH = 2_048  # samples of a cell under which a chain length is given up instead: as many as Inception has features


class Work(NamedTuple):
    """What is to be done.

    Attributes:
      passes: evaluations of the passes over images, which are not cut.
      chains: sampled chains of each K: variances and kernels times seeds.
      n: samples of each.
    """

    passes: int
    chains: dict[int, int]
    n: int


def evaluations(work: Work) -> int:
    """Of the network, one image at one time each."""
    return work.passes + work.n * _steps(work)


def cut(work: Work, most: int) -> Work:
    """As much of the work as takes at most so many evaluations: the same number of samples in every cell that is left.

    Args:
      work: what is wanted.
      most: evaluations.

    Raises:
      ValueError: not even two samples of the shortest chain fit.
    """
    left, enough = dict(work.chains), min(work.n, ENOUGH)
    while len(left) > 1 and (most - work.passes) / _steps(work._replace(chains=left)) < enough:
        del left[max(left)]
    work = work._replace(chains=left)
    n = min(work.n, int((most - work.passes) // _steps(work)))
    if n < 2:
        least = evaluations(work._replace(n=2))
        raise ValueError(f"{most:.3g} network evaluations are fewer than {least:.3g}, the least: raise the budget")
    return work._replace(n=n)


def _steps(work: Work) -> int:
    return sum(K * count for K, count in work.chains.items())
