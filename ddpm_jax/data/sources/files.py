"""Images that lie in a folder as files, or in an .npz as an array."""

import os
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ddpm_jax.data import transforms
from ddpm_jax.data.sources.records import Records
from ddpm_jax.data.transforms import Framing

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def read(path: Path, wanted: Framing) -> Records:
    """The images of a folder or an .npz.

    Args:
      path: of either.
      wanted: what becomes of the pictures.

    Raises:
      ValueError: there are none, or they do not fit together or the framing.
    """
    if path.is_dir():
        return folder(path, wanted)
    if path.suffix == ".npz" and path.is_file():
        return array(path, wanted)
    raise ValueError(f"{path} is not there as a folder or an .npz file: give the path of images")


def folder(path: Path, wanted: Framing) -> Records:
    """The image files in a folder and its subfolders, ordered by name. Grey if all are grey; without labels.

    Args:
      path: of the folder.
      wanted: what becomes of the pictures.

    Raises:
      ValueError: there are none, one cannot be read, or they do not fit the framing.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise ValueError(f"{path} holds no images: give a folder with {', '.join(sorted(SUFFIXES))} files")
    looked = tqdm(files, desc=f"looking at {path}", unit="image", delay=3, leave=False, mininterval=1)
    headers = [transforms.header(file) for file in looked]
    sizes = {size for size, _ in headers}
    channels = 3 if any(in_colour for _, in_colour in headers) else 1
    shape = transforms.framed_shape(wanted, sizes.pop() if len(sizes) == 1 else None, channels, str(path))
    for file, (size, _) in zip(files, headers, strict=True):
        transforms.framed_shape(wanted, size, channels, str(file))

    def image(number: int) -> np.ndarray:
        return transforms.decode(files[number], shape, wanted, str(files[number]))

    return Records(len(files), shape, list, image, threads=os.cpu_count() or 1)


def array(path: Path, wanted: Framing) -> Records:
    """The array `images` of an .npz, (n, H, W, C) or (n, H, W), or its `arr_0`, with the array `labels` if it has one.

    Args:
      path: of the file.
      wanted: what becomes of the pictures.

    Raises:
      ValueError: it is damaged, or its arrays are something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            name = next((name for name in ("images", "arr_0") if name in stored), "")
            images, labels = stored[name] if name else None, stored.get("labels")
            names = ", ".join(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}): write it again by numpy.savez") from error
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

    return Records(len(images), shape, list, image, None if labels is None else lambda number: int(labels[number]))
