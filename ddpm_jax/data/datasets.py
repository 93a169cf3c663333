"""Data sets by name, each in three fixed disjoint splits.

A name is one of DATASETS, a set that TFDS prepared, a folder of image files or an .npz. The network learns on `train`,
variances and trajectories are fixed on `calibration`, and the likelihood is reported on `test`.
"""

import os
import sys
import zlib
from collections.abc import Callable
from functools import lru_cache, partial, reduce
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from ddpm_jax import paths
from ddpm_jax.data import transforms
from ddpm_jax.data.sources import files, records, tfds
from ddpm_jax.data.sources.records import OnDemand, Records
from ddpm_jax.data.transforms import Framing
from ddpm_jax.paths import AnyPath

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
    in_memory = (np.ascontiguousarray(part.images).data for part in split if isinstance(part, Split))
    return {
        "levels": found.levels,
        "shape": list(found.shape),
        "images": [len(part.images) for part in split],
        "checksum": reduce(lambda so_far, images: zlib.crc32(images, so_far), in_memory, 0),
    }


def divide(name: str, title: str, flip: bool, train: Records, test: Records | None) -> DataSet:
    """Training images are shuffled once, always alike, and the last are calibration images.

    Grey levels are 256, and two where the images in memory hold 0 and 1 alone.

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
    max_images = records.IN_MEMORY // prod(train.shape)
    held_out = min(HELD_OUT, train.n // 10, max_images)
    order = np.random.RandomState(0).permutation(train.n)
    train_indices, calibration_indices = _apart(order, held_out, train, name)
    height, width, _ = train.shape
    description = f"{title} of {height} x {width} pixels"
    if test is None:
        test, (train_indices, test_indices) = train, _apart(train_indices, held_out, train, name)
        description += f", tested on {len(test_indices)} training images that are not learned"
    else:
        test_indices = np.arange(min(test.n, max_images))
        description += f", tested on the first {max_images} of {test.n} images" if max_images < test.n else ""
    large = len(train_indices) * prod(train.shape) > records.IN_MEMORY
    train_split = (
        Large(OnDemand(train, train_indices)) if large else Split(*records.decoded(train, train_indices, name))
    )
    others = [Split(*records.decoded(*part, name)) for part in ((train, calibration_indices), (test, test_indices))]
    if max(int(part.images.max()) for part in (train_split, *others) if isinstance(part, Split)) == 1:
        return DataSet(name, f"{description}, black and white", 2, flip, train_split, *others)
    return DataSet(name, description, 256, flip, train_split, *others)


def _apart(
    order: Int[np.ndarray, " n"], held_out: int, train: Records, name: str
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " m"]]:
    """Records to learn and the last `held_out` of them, or as many more as copies of these need to be on their side.

    Raises:
      ValueError: there are too few different images.
    """
    cut = len(order) - held_out
    if train.copies is not None:
        first = train.copies[order]
        _, place, picture = np.unique(first, return_index=True, return_inverse=True)
        together = np.argsort(place[picture], kind="stable")  # copies come right after the first of them
        order, first = order[together], first[together]
        while cut > 0 and first[cut - 1] == first[cut]:
            cut -= 1
    if cut == 0:
        raise ValueError(f"{name} has too few different images, all others are copies of them: give at least {FEWEST}")
    return order[:cut], order[cut:]


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


class Known(NamedTuple):
    """What is known of a set of TFDS beside its files.

    Attributes:
      title: what its images are.
      flip: a mirrored image is as likely as the image.
      framing: what becomes of its pictures where no other size is asked for.
      kind: how TFDS itself stores them, where that is without loss.
    """

    title: str
    flip: bool = True
    framing: Framing = Framing()
    kind: str | None = None


def digits(image_size: int | None = None) -> DataSet:
    """The 1,797 handwritten digits inside scikit-learn: 8 x 8 pixels, 17 grey levels, no download.

    Source: Alpaydin & Kaynak 1998, the test set of UCI's "Optical Recognition of Handwritten Digits". They come ordered
    by writer and are shuffled once, always alike, into 1,297 + 200 + 300.

    Raises:
      ValueError: another size is asked for.
    """
    from sklearn.datasets import load_digits

    _check_size("digits", image_size, 8)
    source = load_digits()
    order = np.random.RandomState(0).permutation(len(source.target))
    images = source.images.astype(np.uint8)[order, ..., None]
    splits = [Split(images[i], source.target[order[i]]) for i in np.split(np.arange(len(order)), [1297, 1497])]
    return DataSet("digits", "1,797 handwritten digits of 8 x 8 pixels (UCI, in scikit-learn)", 17, False, *splits)


def cifar10_16(image_size: int | None = None) -> DataSet:
    """`cifar10` with each 2 x 2 pixels averaged and rounded to one of the 256 levels, halves up: 16 x 16 pixels.

    Raises:
      ValueError: TFDS's folder does not hold CIFAR-10, or another size is asked for.
    """
    _check_size("cifar10_16", image_size, 16)
    full = load("cifar10")
    halved = {part: getattr(full, part)._replace(images=halve(getattr(full, part).images)) for part in PARTS}
    return full._replace(name="cifar10_16", description=f"{full.description}, averaged 2 x 2 to 16 x 16", **halved)


def _check_size(name: str, image_size: int | None, native: int) -> None:
    if image_size not in (None, native):
        raise ValueError(f"image_size = {image_size}: {name} comes in {native} x {native} pixels alone, leave it out")


def halve(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h/2 w/2 c"]:
    """Means of 2 x 2 pixels, rounded to whole grey levels, halves up."""
    top, bottom = images[:, ::2].astype(np.uint16), images[:, 1::2]
    rows = top + bottom
    return ((rows[:, :, ::2] + rows[:, :, 1::2] + 2) // 4).astype(np.uint8)


def of_tfds(name: str, known: Known, image_size: int | None = None) -> DataSet:
    """A set that TFDS prepared.

    Args:
      name: set or set/config.
      known: what is known of it.
      image_size: default as `known` has it.

    Raises:
      ValueError: it is not there, or cannot be used; says what to do.
    """
    return _of_version(tfds.find(name), name, known, image_size)


@lru_cache(maxsize=2)
def _of_version(folder: Path, name: str, known: Known, image_size: int | None) -> DataSet:
    """One version of a set of TFDS. Read once a process, as `_of_path` is."""
    framing = known.framing._replace(size=image_size or known.framing.size)
    prepared = tfds.read(folder, framing, name)
    notes = f", the middle {framing.crop} x {framing.crop} of each" if framing.crop else ""
    notes += f", from a {prepared.kind} copy" if known.kind not in (None, prepared.kind) else ""
    notes += ", tested on validation images" if prepared.tested == "validation" else ""
    return _noted(divide(name, known.title, known.flip, prepared.train, prepared.test), notes)


@lru_cache(maxsize=2)
def _of_path(name: str, image_size: int | None, ground: str | None) -> DataSet:
    path = paths.local(name)
    images = files.read(path, Framing(image_size, ground=ground or transforms.WHITE))
    if ground is not None and not path.is_dir():
        raise ValueError(_opaque(name, ground))
    divided = divide(name, f"images in {path}", path.is_dir(), images, None)
    if images.note:
        print(f"{path}: {images.note}", file=sys.stderr)
    return divided


def _opaque(name: str, ground: str) -> str:
    return f"ground = {ground}: pictures of {name} are opaque, leave it out"


def _noted(data_set: DataSet, notes: str) -> DataSet:
    return data_set._replace(description=data_set.description + notes)


OPTIONS = ("image_size", "mirror", "ground")
"""How `load` reads a set, beside its name; options of the commands, too."""
DATASETS: dict[str, Callable[..., DataSet]] = {
    "digits": digits,
    # LeCun et al. 1998
    "mnist": partial(of_tfds, "mnist", Known("MNIST, handwritten digits", flip=False, kind="PNG")),
    # Xiao et al. 2017
    "fashion_mnist": partial(of_tfds, "fashion_mnist", Known("Fashion-MNIST, pieces of clothing", False, kind="PNG")),
    # Krizhevsky 2009
    "cifar10": partial(of_tfds, "cifar10", Known("CIFAR-10, photographs", kind="PNG")),
    "cifar10_16": cifar10_16,
    # Liu et al. 2015, cut and shrunk as the released code of Song et al. 2021 (score SDE) does
    "celeb_a": partial(of_tfds, "celeb_a", Known("CelebA, faces", framing=Framing(64, 140, "BILINEAR"))),
}


def load(
    name: AnyPath, image_size: int | None = None, mirror: bool | None = None, ground: str | None = None
) -> DataSet:
    """The data set called `name`.

    Args:
      name: of DATASETS; or of any image set of TFDS, as set or set/config (lsun/bedroom, imagenet_resized/64x64,
        celeb_a_hq/256); or a path that begins with . / or ~ or ends in .npz: a folder of image files, or an array.
      image_size: side of the squares that pictures are shrunk to, from the largest square in their middle; default as
        they are. Nothing is enlarged.
      mirror: whether a mirrored image is as likely as the image; default yes in folders and in sets of TFDS that are
        not in DATASETS, no in .npz files.
      ground: the colour that shows where a picture of a folder is transparent, a name or #rrggbb; default white.

    Images of 0 and 1 alone have two grey levels; a registered set keeps the number that it says.

    Raises:
      ValueError: there is none of this name, it cannot be used, or its images leave [-1, 1].
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size = {image_size}: it is at least 1")
    if not isinstance(name, str) or _is_path(name):
        data_set = _of_path(os.fspath(name), image_size, ground)
    elif ground is not None:
        raise ValueError(_opaque(name, ground))
    elif name in DATASETS:
        data_set = DATASETS[name]() if image_size is None else DATASETS[name](image_size)
    elif tfds.is_known(name):
        data_set = of_tfds(name, Known(f"{name} of TFDS, images"), image_size)
    elif Path(name).exists():
        raise ValueError(f"unknown data set {name!r}: to read what is called so here, write ./{name}")
    else:
        raise ValueError(
            f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}, an image set of TFDS such as "
            f"lsun/bedroom, or a path of images such as ./{name}"
        )
    if mirror is not None:
        data_set = _noted(data_set._replace(flip=mirror), f", {'' if mirror else 'not '}mirrored")
    elif data_set.flip and name not in DATASETS:
        data_set = _noted(data_set, ", mirror images taken as likely")
    if name in DATASETS and data_set.levels < 256:
        _check_levels(data_set)
    return data_set


def _is_path(name: str) -> bool:
    """Whether a path is meant, or an address, and not the name of a set."""
    return name.startswith((".", "/", "~")) or name.lower().endswith(".npz") or paths.address(name) is not None


def _check_levels(data_set: DataSet) -> None:
    highest = max(int(getattr(data_set, part).images.max()) for part in PARTS)
    if highest >= data_set.levels:
        raise ValueError(
            f"data set {data_set.name!r} has grey level {highest}, outside [-1, 1] with {data_set.levels} levels: give "
            f"it {highest + 1} or more"
        )
