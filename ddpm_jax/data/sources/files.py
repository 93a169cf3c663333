"""Images that lie in a folder as files, or in an .npz as an array."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ddpm_jax import paths
from ddpm_jax.data import transforms
from ddpm_jax.data.sources import records
from ddpm_jax.data.sources.records import Records
from ddpm_jax.data.transforms import Framing
from ddpm_jax.errors import first_line
from ddpm_jax.paths import AnyPath

# What PIL opens and does not read by itself: it asks other programs, or users who register a reader.
UNREADABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
BEGINNING = 4096  # bytes of a file that tell most pictures of one size apart


def read(path: AnyPath, wanted: Framing) -> Records:
    """The images of a folder or an .npz.

    Args:
      path: of either.
      wanted: what becomes of the pictures.

    Raises:
      ValueError: there are none, or they do not fit together or the framing.
    """
    path = paths.local(path)
    if path.is_dir():
        return folder(path, wanted)
    if path.suffix.lower() == ".npz" and path.is_file():
        return array(path, wanted)
    raise ValueError(f"{path} {_no_images(path)}: give a folder of images, or an .npz of the array `images`")


def _no_images(path: Path) -> str:
    """Why a path that is no folder and no .npz holds no images."""
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, which is not there"
    if not path.exists():
        return "is not there"
    if not path.is_file():
        return "is neither a folder nor a file"
    kinds = {".npy": "one array of NumPy", ".zip": "an archive, which has to be unpacked"}
    kinds |= dict.fromkeys(_suffixes(), "a single picture")
    return f"is {kinds.get(path.suffix.lower(), 'a file of another kind')}, and no .npz"


def folder(path: Path, wanted: Framing) -> Records:
    """The pictures in a folder and its subfolders, ordered by name. Grey if all are grey; without labels.

    Of every kind that PIL reads. Links are followed; what is hidden is left out. The note says what was left out.

    Args:
      path: of the folder.
      wanted: what becomes of the pictures.

    Raises:
      ValueError: there are none, one cannot be read, a link leads back, they do not fit the framing, or the ground is
        no colour.
    """
    grey_ground, left_out = transforms.is_grey(wanted.ground), Counter[str]()
    files = sorted(_pictures(path, (), left_out))
    reasons = ", ".join(f"{n} {why}" for why, n in sorted(left_out.items()))
    if not files:
        raise ValueError(
            f"{path} holds no pictures{f' beside {reasons}' if reasons else ''}: give a folder with image files, such "
            "as .png or .jpg"
        )
    looked = tqdm(files, desc=f"looking at {path}", unit="image", delay=3, leave=False, mininterval=1)
    headers = [transforms.header(file, grey_ground) for file in looked]
    sizes = {size for size, _ in headers}
    channels = 3 if any(in_colour for _, in_colour in headers) else 1
    shape = transforms.framed_shape(wanted, sizes.pop() if len(sizes) == 1 else None, channels, str(path))
    for file, (size, _) in zip(files, headers, strict=True):
        transforms.framed_shape(wanted, size, channels, str(file))

    def image(number: int) -> np.ndarray:
        return transforms.decode(files[number], shape, wanted, str(files[number]))

    def beginning(number: int) -> bytes:
        with files[number].open("rb") as file:
            return file.read(BEGINNING)

    def contents(number: int) -> bytes:
        with files[number].open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    copies = records.first_alike(len(files), (lambda number: files[number].stat().st_size, beginning, contents))
    note = _note(copies, reasons)
    return Records(len(files), shape, list, image, threads=os.cpu_count() or 1, copies=copies, note=note)


def _pictures(folder: Path, above: tuple[Path, ...], left_out: Counter[str]) -> Iterator[Path]:
    """The pictures below a folder; what else there is is counted by why it is left out.

    Raises:
      ValueError: a link leads to a folder that it lies in.
    """
    real = folder.resolve()
    if real in above:
        raise ValueError(f"{folder} is a link to {real}, which it lies in: remove it")
    for path in folder.iterdir():
        if path.name.startswith("."):
            left_out["hidden"] += 1
        elif path.is_dir():
            yield from _pictures(path, (*above, real), left_out)
        elif not path.is_file():
            left_out["broken links" if path.is_symlink() else "special files"] += 1
        elif path.suffix.lower() in _suffixes():
            yield path
        else:
            left_out[path.suffix or "without suffix"] += 1


@cache
def _suffixes() -> set[str]:
    """Of the kinds of pictures that PIL reads."""
    from PIL import Image

    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN.keys() - UNREADABLE}


def _note(copies: np.ndarray, left_out: str = "") -> str:
    """What is remarkable about images, if anything is."""
    again = int((copies != np.arange(len(copies))).sum())
    told = [f"{again} are copies of others, which are kept in one part"] if again else []
    told += [f"left out: {left_out}"] if left_out else []
    return "; ".join([f"{len(copies)} images", *told]) if told else ""


def array(path: Path, wanted: Framing) -> Records:
    """The array `images` of an .npz, (n, H, W, C) or (n, H, W), or its `arr_0`, with the array `labels` if it has one.

    Args:
      path: of the file.
      wanted: what becomes of the pictures.

    Raises:
      ValueError: it is damaged, or its arrays are something else.
    """
    paths.existing(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            name = next((name for name in ("images", "arr_0") if name in stored), "")
            images, labels = stored[name] if name else None, stored.get("labels")
            names = ", ".join(stored)
    except Exception as error:  # whatever NumPy and zipfile raise of damaged files
        reason = first_line(error)
        raise ValueError(f"{path} cannot be read ({reason}): write it again by numpy.savez") from error
    if images is None:
        raise ValueError(f"{path} has no array `images`, only {names}: rename one")
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{path} holds {name} of {images.dtype} and shape {images.shape}: it is uint8 of shape (n, H, W, C), "
            "grey levels 0 to 255"
        )
    images = images[..., None] if images.ndim == 3 else images
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        raise ValueError(
            f"{path} holds labels of {labels.dtype} and shape {labels.shape}: it is one integer an image, {len(images)}"
        )
    shape = transforms.framed_shape(wanted, images.shape[1:3], images.shape[3], str(path))

    def image(number: int) -> np.ndarray:
        return transforms.framed_array(images[number], wanted, str(path))

    def label(number: int) -> int:
        return int(labels[number])

    copies = records.first_alike(len(images), [lambda number: hashlib.sha256(images[number].tobytes()).digest()])
    of_each = None if labels is None else label
    return Records(len(images), shape, list, image, of_each, copies=copies, note=_note(copies))
