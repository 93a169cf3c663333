"""A data set in three fixed disjoint parts, and what the mathematics needs to know of it.

The network learns on `train`, variances and trajectories are fixed on `calibration`, and the likelihood is reported on
`test`.
"""

import zlib
from functools import lru_cache, reduce
from math import prod
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from ddpm_jax import records
from ddpm_jax.records import OnDemand, Records

HELD_OUT = 1000  # training images that are kept for calibration, or a tenth of all if that is fewer
FEWEST = 20  # training images of which a tenth can be held out twice
SEEN = 2**28  # bytes of training images that evaluation looks at
PARTS = ("train", "calibration", "test")


class Split(NamedTuple):
    """One part of a data set.

    Attributes:
      images: (n, H, W, C) grey levels 0..levels-1.
      labels: (n,) classes; None where the set has none.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"] | None


class Large(NamedTuple):
    """Training images that do not fit into memory; see `seen`.

    Attributes:
      images: (n, H, W, C) grey levels 0..levels-1, decoded whenever they are indexed.
      labels: none, they are not read.
    """

    images: OnDemand
    labels: None = None


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
    train: Split | Large
    calibration: Split
    test: Split

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C) of an image."""
        return self.train.images.shape[1:]


def describe(found: DataSet) -> dict[str, Any]:
    """What tells a set from a changed one: plain values.

    `checksum` is of all images in memory; of a large set these are a fixed draw and the test images.
    """
    split = [getattr(found, part) for part in PARTS]
    held = (np.ascontiguousarray(part.images).data for part in split if isinstance(part, Split))
    return {
        "levels": found.levels,
        "shape": list(found.shape),
        "images": [len(part.images) for part in split],
        "checksum": reduce(lambda so_far, images: zlib.crc32(images, so_far), held, 0),
    }


def divide(name: str, title: str, flip: bool, train: Records, test: Records | None) -> DataSet:
    """Training images are shuffled once, always alike, and the last are calibration images.

    Args:
      name: of the data set.
      title: what its images are.
      flip: a mirrored image is as likely as the image.
      train: the official training images.
      test: the official test images, of which the first are taken if not all fit into memory; without them, as many
        training images as for calibration.

    Raises:
      ValueError: there are too few training images.
    """
    if train.n < FEWEST:
        raise ValueError(f"{name} has {train.n} training images: give at least {FEWEST}")
    most = records.IN_MEMORY // prod(train.shape)
    held = min(HELD_OUT, train.n // 10, most)
    learned, calibration = np.split(np.random.RandomState(0).permutation(train.n), [train.n - held])
    height, width, _ = train.shape
    description = f"{title} of {height} x {width} pixels"
    if test is None:
        test, (learned, tested) = train, np.split(learned, [len(learned) - held])
        description += f", tested on {held} training images that are not learned"
    else:
        tested = np.arange(min(test.n, most))
        description += f", tested on the first {most} of {test.n} images" if most < test.n else ""
    large = len(learned) * prod(train.shape) > records.IN_MEMORY
    first = Large(OnDemand(train, learned)) if large else Split(*records.decoded(train, learned, name))
    rest = (Split(*records.decoded(*part, name)) for part in ((train, calibration), (test, tested)))
    return DataSet(name, description, 256, flip, first, *rest)


def seen(train: Split | Large) -> Split:
    """The training images that evaluation looks at: the first of the shuffled ones, as many as fit in SEEN bytes."""
    n = SEEN // prod(train.images.shape[1:])
    if isinstance(train, Large):
        return Split(*_first(train.images, n))
    if len(train.images) <= n:
        return train
    return Split(train.images[:n], None if train.labels is None else train.labels[:n])


@lru_cache(maxsize=1)
def _first(images: OnDemand, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    return records.decoded(images.records, images.numbers[:n], "training images")
