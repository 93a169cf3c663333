"""Images as a function of the training step: resuming needs only the step. The only file that imports grain and TFDS.

A data set is three fixed disjoint parts: the network learns on `train`, variances and trajectories are fixed on
`calibration`, and the likelihood is reported on `test`.

MNIST and CIFAR-10 are read from a folder that TFDS (tensorflow-datasets) prepared in its array_record format;
TFDS_DATA_DIR names it, default ~/tensorflow_datasets. Reading needs no TensorFlow, preparing does. They are decoded
once a process, in 7 to 15 s of one core, and kept in memory, 55 and 184 MB.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Int, UInt8

HELD_OUT = 1000  # images of the official training split that are kept for calibration
BLOCK = 10_000  # records read at a time
PARTS = ("train", "calibration", "test")


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


def mnist() -> DataSet:
    """MNIST from TFDS, 28 x 28 pixels. Source: LeCun et al. 1998.

    Its training split is shuffled once, always alike, into 59,000 + 1,000 for calibration; its 10,000 test images stay.

    Raises:
      ValueError: TFDS's folder does not hold it.
    """
    return _prepared("mnist", "MNIST, handwritten digits of 28 x 28 pixels", False)


def cifar10() -> DataSet:
    """CIFAR-10 from TFDS, 32 x 32 pixels in colour. Source: Krizhevsky 2009.

    Its training split is shuffled once, always alike, into 49,000 + 1,000 for calibration; its 10,000 test images stay.

    Raises:
      ValueError: TFDS's folder does not hold it.
    """
    return _prepared("cifar10", "CIFAR-10, photographs of 32 x 32 pixels", True)


def cifar10_16() -> DataSet:
    """`cifar10` with each 2 x 2 pixels averaged and rounded to one of the 256 levels, halves up: 16 x 16 pixels.

    Raises:
      ValueError: TFDS's folder does not hold CIFAR-10.
    """
    full = cifar10()
    parts = {part: getattr(full, part)._replace(images=halve(getattr(full, part).images)) for part in PARTS}
    return full._replace(name="cifar10_16", description=f"{full.description}, averaged 2 x 2 to 16 x 16", **parts)


def halve(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h/2 w/2 c"]:
    """Means of 2 x 2 pixels, rounded to whole grey levels, halves up."""
    top, bottom = images[:, ::2].astype(np.uint16), images[:, 1::2]
    rows = top + bottom
    return ((rows[:, :, ::2] + rows[:, :, 1::2] + 2) // 4).astype(np.uint8)


def _prepared(name: str, description: str, flip: bool) -> DataSet:
    """What TFDS prepared, in three parts."""
    root = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folders = sorted(path.parent for path in root.glob(f"{name}/*/{name}-train.array_record-*"))
    if not folders:
        raise ValueError(
            f"{root} does not hold {name} as array_record: set TFDS_DATA_DIR to a folder that does, or prepare it, "
            'with tensorflow and tensorflow-datasets installed, by python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}', data_dir='{root}').download_and_prepare(file_format='array_record')\""
        )
    train, test, kind = _official(folders[-1])
    order = np.random.RandomState(0).permutation(len(train.labels))
    learned, held_out = (Split(train.images[i], train.labels[i]) for i in np.split(order, [len(order) - HELD_OUT]))
    description += "" if kind == "PNG" else f", from a {kind} copy"
    return DataSet(name, description, 256, flip, learned, held_out, test)


@lru_cache(maxsize=2)
def _official(folder: Path) -> tuple[Split, Split, str | None]:
    """The official splits of one version of a data set, and how its images are stored: as PNG by TFDS itself."""
    import tensorflow_datasets as tfds
    from PIL import Image

    builder = tfds.builder_from_directory(folder)
    shape = builder.info.features["image"].shape
    sources = builder.as_data_source(split=["train", "test"], decoders={"image": tfds.decode.SkipDecoding()})
    train, test = (_decoded(source, shape) for source in sources)
    return train, test, Image.open(BytesIO(sources[0][0]["image"])).format


def _decoded(source: Any, shape: tuple[int, ...]) -> Split:
    """All images and labels of a split. Read in blocks, three times as fast as one by one; threads were no faster."""
    from PIL import Image

    images, labels = np.empty((len(source), *shape), np.uint8), np.empty(len(source), np.int64)
    for first in range(0, len(source), BLOCK):
        block = range(first, min(first + BLOCK, len(source)))
        for i, example in zip(block, source.__getitems__(block), strict=True):
            images[i] = np.asarray(Image.open(BytesIO(example["image"]))).reshape(shape)
            labels[i] = example["label"]
    return Split(images, labels)


DATASETS: dict[str, Callable[[], DataSet]] = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar10_16": cifar10_16,
}


def load(name: str) -> DataSet:
    """The data set called `name`.

    Raises:
      ValueError: no data set has this name, or its images leave [-1, 1].
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    found = DATASETS[name]()
    highest = max(int(split.images.max()) for split in (getattr(found, part) for part in PARTS))
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
