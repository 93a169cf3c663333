"""What a training step is fed: batches as a function of the step, so that resuming needs only the step.

The only file that imports grain, which supplies the order of every epoch and the threads that read ahead.
"""

import os
from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import grain
import numpy as np
from jaxtyping import Int, UInt8

from ddpm_jax.data.sources.records import ImageArray

LAST = 2**62  # epochs and steps end here for grain, which asks for an end
THREADS = min(os.cpu_count() or 1, 32)


@dataclass(frozen=True)
class Batches:
    """`batches[step]` is what one host takes of the batch of that step, a pure function of seed and step.

    The images of one epoch after another, each in its own order, are cut into batches: a batch may end one epoch and
    begin the next, and no image is left out. The batch of all hosts together does not depend on how many they are.

    Attributes:
      images: a split's.
      batch: images a step, over all hosts.
      seed: of the orders.
      share: (i, n): rows i batch/n to (i + 1) batch/n, rounded down, for host i of n.
    """

    images: ImageArray
    batch: int
    seed: int
    share: tuple[int, int] = (0, 1)

    def __getitem__(self, step: int) -> UInt8[np.ndarray, "b h w c"]:
        """The images of this host at a step, counted from 0."""
        return self.images[self.rows(step)]

    def rows(self, step: int) -> Int[np.ndarray, " b"]:
        """Which images these are."""
        n, (host, hosts) = len(self.images), self.share
        first, last = (step * self.batch + part * self.batch // hosts for part in (host, host + 1))
        epoch, start = divmod(first, n)
        if start + last - first <= n:
            return _order(n, self.seed, epoch)[start : start + last - first]
        epochs = range(epoch, -(-last // n))
        return np.concatenate([_order(n, self.seed, e)[max(first - e * n, 0) : last - e * n] for e in epochs])


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """The images of an epoch in its order.

    One permutation an epoch: grain's own shuffle places one image at a time, which costs more than to copy its pixels.
    """
    return grain.MapDataset.range(LAST).random_map(lambda _, draw: draw.permutation(n), seed=seed)[epoch]


def batches(images: ImageArray, batch: int, seed: int, share: tuple[int, int] = (0, 1)) -> Batches:
    """The batches of a training, see `Batches`.

    Args:
      images: a split's.
      batch: images a step, over all hosts.
      seed: of the orders.
      share: (i, n) for host i of n.

    Raises:
      ValueError: no images, a batch without an image for every host, or a share that is none.
    """
    host, hosts = share
    if not 0 <= host < hosts:
        raise ValueError(f"share = {share}: give host i of n as (i, n) with 0 <= i < n")
    if batch < hosts:
        raise ValueError(f"batch = {batch}: it is at least {hosts}" + (", one image a host" if hosts > 1 else ""))
    if not len(images):
        raise ValueError("no images to make batches of: give at least one")
    return Batches(images, batch, seed, share)


def stream(wanted: Batches, first: int = 0) -> Generator[UInt8[np.ndarray, "b h w c"]]:
    """wanted[first], wanted[first + 1], ... without end.

    Images in memory are copied when their turn comes. Others are read and decoded ahead of it, a thread a batch.
    Closing the iterator ends the threads.

    Args:
      wanted: the batches.
      first: step to begin with.
    """
    if isinstance(wanted.images, np.ndarray):
        yield from map(wanted.__getitem__, count(first))
        return
    ahead = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
    reading = iter(grain.MapDataset.range(first, LAST).map(wanted.__getitem__).to_iter_dataset(ahead))
    try:
        yield from reading
    finally:
        reading.close()
