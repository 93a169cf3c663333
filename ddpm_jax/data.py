"""Data sets by name: in the code, among what TFDS prepared, in a folder of image files or in an .npz."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ddpm_jax import image_files, parts, prepared
from ddpm_jax.feed import batches as batches
from ddpm_jax.feed import stream as stream
from ddpm_jax.framing import Framing
from ddpm_jax.parts import PARTS as PARTS
from ddpm_jax.parts import DataSet as DataSet
from ddpm_jax.parts import Large as Large
from ddpm_jax.parts import Split as Split
from ddpm_jax.parts import describe as describe
from ddpm_jax.parts import seen as seen
from ddpm_jax.records import ImageArray as ImageArray


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
    three = [Split(images[i], source.target[order[i]]) for i in np.split(np.arange(len(order)), [1297, 1497])]
    return DataSet("digits", "1,797 handwritten digits of 8 x 8 pixels (UCI, in scikit-learn)", 17, False, *three)


def cifar10_16(image_size: int | None = None) -> DataSet:
    """`cifar10` with each 2 x 2 pixels averaged and rounded to one of the 256 levels, halves up: 16 x 16 pixels.

    Raises:
      ValueError: TFDS's folder does not hold CIFAR-10, or another size is asked for.
    """
    _check_size("cifar10_16", image_size, 16)
    full = load("cifar10")
    halved = {part: getattr(full, part)._replace(images=halve(getattr(full, part).images)) for part in PARTS}
    return full._replace(name="cifar10_16", description=f"{full.description}, averaged 2 x 2 to 16 x 16", **halved)


def _check_size(name: str, image_size: int | None, own: int) -> None:
    if image_size not in (None, own):
        raise ValueError(f"image_size = {image_size}: {name} comes in {own} x {own} pixels alone, leave it out")


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
    return _of_version(prepared.find(name), name, known, image_size)


@lru_cache(maxsize=2)
def _of_version(folder: Path, name: str, known: Known, image_size: int | None) -> DataSet:
    """One version of a set of TFDS. Read once a process, as `_of_path` is."""
    framing = known.framing._replace(size=image_size or known.framing.size)
    found = prepared.read(folder, framing, name)
    notes = f", the middle {framing.crop} x {framing.crop} of each" if framing.crop else ""
    notes += f", from a {found.kind} copy" if known.kind not in (None, found.kind) else ""
    notes += ", tested on validation images" if found.tested == "validation" else ""
    return _noted(parts.divide(name, known.title, known.flip, found.train, found.test), notes)


@lru_cache(maxsize=2)
def _of_path(name: str, image_size: int | None) -> DataSet:
    path = Path(name).expanduser()
    found = image_files.read(path, Framing(image_size))
    flip = path.is_dir()
    return _noted(parts.divide(name, f"images in {path}", flip, found, None), MIRRORED if flip else "")


def _noted(found: DataSet, notes: str) -> DataSet:
    return found._replace(description=found.description + notes)


MIRRORED = ", mirror images taken as likely"  # said where it is assumed
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


def load(name: str, image_size: int | None = None) -> DataSet:
    """The data set called `name`.

    Args:
      name: of DATASETS; or of any image set of TFDS, as set or set/config (lsun/bedroom, imagenet_resized/64x64,
        celeb_a_hq/256); or a path that begins with . / or ~ or ends in .npz: a folder of image files, or an array.
      image_size: side of the squares that pictures are shrunk to, from the largest square in their middle; default as
        they are. Nothing is enlarged.

    Mirror images count as likely in sets of TFDS that are not in DATASETS and in folders, and not in .npz files.

    Raises:
      ValueError: there is none of this name, it cannot be used, or its images leave [-1, 1].
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size = {image_size}: it is at least 1")
    if name.startswith((".", "/", "~")) or name.endswith(".npz"):
        return _of_path(name, image_size)
    if name in DATASETS:
        found = DATASETS[name]() if image_size is None else DATASETS[name](image_size)
    elif prepared.is_known(name):
        found = _noted(of_tfds(name, Known(f"{name} of TFDS, images"), image_size), MIRRORED)
    else:
        raise ValueError(
            f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}, an image set of TFDS such as "
            f"lsun/bedroom, or a path of images such as ./{name}"
        )
    if found.levels < 256:
        _check_levels(found)
    return found


def _check_levels(found: DataSet) -> None:
    highest = max(int(getattr(found, part).images.max()) for part in PARTS)
    if highest >= found.levels:
        raise ValueError(
            f"data set {found.name!r} has grey level {highest}, outside [-1, 1] with {found.levels} levels: give it "
            f"{highest + 1} or more"
        )
