"""Images as a function of the training step: resuming needs only the step. The only file that imports grain.

A data set is three fixed disjoint parts: the network learns on `train`, variances and trajectories are fixed on
`calibration`, and the likelihood is reported on `test`.
"""

from collections.abc import Callable
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int, UInt8


class Split(NamedTuple):
    """One part of a data set.

    Attributes:
      images: (n, H, W, C) grey levels 0..levels-1.
      labels: (n,) classes.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]


class DataSet(NamedTuple):
    """Images with what the mathematics needs to know of them.

    Attributes:
      name: of the data set.
      description: one sentence for reports.
      levels: number of grey levels; on [-1, 1] they are 2/(levels - 1) apart and the decoder uses that.
      flip: a mirrored image is as likely as the image.
      train: what the network learns.
      calibration: what fixes variances and trajectories.
      test: what likelihoods are reported on.
    """

    name: str
    description: str
    levels: int
    flip: bool
    train: Split
    calibration: Split
    test: Split

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C) of an image."""
        return self.train.images.shape[1:]


def digits() -> DataSet:
    """The 1,797 handwritten digits inside scikit-learn: 8 x 8 pixels, 17 grey levels, no download.

    Source: Alpaydin & Kaynak 1998, the test set of UCI's "Optical Recognition of Handwritten Digits". They come ordered
    by writer and are shuffled once, always alike, into 1,297 + 200 + 300.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    order = np.random.RandomState(0).permutation(len(source.target))
    images = source.images.astype(np.uint8)[order, ..., None]
    parts = [Split(images[i], source.target[order[i]]) for i in np.split(np.arange(len(order)), [1297, 1497])]
    return DataSet("digits", "1,797 handwritten digits of 8 x 8 pixels (UCI, in scikit-learn)", 17, False, *parts)


DATASETS: dict[str, Callable[[], DataSet]] = {"digits": digits}


def load(name: str) -> DataSet:
    """The data set called `name`.

    Raises:
      ValueError: no data set has this name, or its images leave [-1, 1].
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    found = DATASETS[name]()
    highest = max(int(split.images.max()) for split in (found.train, found.calibration, found.test))
    if highest >= found.levels:
        raise ValueError(
            f"data set {name!r} has grey level {highest}, outside [-1, 1] with {found.levels} levels: give it "
            f"{highest + 1} or more"
        )
    return found


def batches(images: UInt8[np.ndarray, "n h w c"], batch: int, seed: int) -> grain.MapDataset:
    """`batches(...)[step]` is the batch (batch, H, W, C) of that step: every epoch in a new order.

    Args:
      images: a split's.
      batch: examples a step, over all devices.
      seed: of the order.

    Raises:
      ValueError: batch < 1.
    """
    if batch < 1:
        raise ValueError(f"batch = {batch}: it is at least 1")
    return grain.MapDataset.source(images).seed(seed).shuffle().repeat().batch(batch)
