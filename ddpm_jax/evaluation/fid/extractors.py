"""Samples against a reference in the features of a network: one code for FID and for any other feature space.

An extractor is the network with the way images are given to it; a reference is what samples are compared with.
Statistics of images are cached under the hash of the images and of the extractor. Heusel et al. 2017, equation 6.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from ddpm_jax import paths
from ddpm_jax.data.datasets import DataSet, describe
from ddpm_jax.data.sources.records import ImageArray
from ddpm_jax.errors import first_line
from ddpm_jax.evaluation.fid import frechet
from ddpm_jax.evaluation.fid.frechet import Sums, Target
from ddpm_jax.evaluation.fid.protocols import Measure
from ddpm_jax.models import inception
from ddpm_jax.models.convert import files
from ddpm_jax.paths import AnyPath
from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Keep
from ddpm_jax.runtime.sharding import Layout

VERSION = 1  # raised by hand when the numbers of features change: preparations, Inception, their sums, the distance
SPLITS = ("train", "test")


class FeatureExtractor(NamedTuple):
    """A network in whose features images are compared.

    Attributes:
      name: how to call it, with a hash of its weights.
      preparation: how grey levels become its input.
      size: of its features.
      features: of images.
      logits: of features; None of a network without classes.
      usual: its weights are those of the usual file of FID, by their checksum.
      description: one line for reports; default its name.
      accuracy: (images, labels) -> share of images classified rightly; None of a network without classes of its own.
    """

    name: str
    preparation: str
    size: int
    features: Callable[[UInt8[np.ndarray, "n h w c"]], Float[np.ndarray, "n d"]]
    logits: Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n classes"] | None] | None = None
    usual: bool = False
    description: str = ""
    accuracy: Callable[[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]], float] | None = None


class Reference(NamedTuple):
    """What samples are compared with.

    Attributes:
      name: how to call it, with a hash of it.
      target: the Gaussian fit of its features.
    """

    name: str
    target: Target


def of_inception(path: AnyPath, preparation: str = "pytorch-fid", layout: Layout = Layout()) -> FeatureExtractor:
    """FID's own network, from the usual file.

    Args:
      path: see `inception.load`.
      preparation: a name of `inception.PREPARATIONS`.
      layout: how images are spread over devices.

    Raises:
      ValueError: the file is missing, or holds another network.
    """
    params, checksum = inception.load(path), files.sha256(path)
    features = partial(inception.extract, params, preparation=preparation, layout=layout)
    name, logits = f"Inception, sha256 {checksum[:16]}", partial(inception.logits, params)
    return FeatureExtractor(
        name, preparation, inception.FEATURES, features, logits, checksum.startswith(inception.CHECKSUM)
    )


def summed(
    extractor: FeatureExtractor, images: ImageArray, keep: Keep = cache.compute_always, known_as: object = None
) -> Sums:
    """The sums over features of images.

    Args:
      extractor: the network.
      images: grey levels 0..255.
      keep: remembers them.
      known_as: identity of the images in the cache; default the images themselves.
    """
    inputs = dict(images=np.asarray(images) if known_as is None else known_as, extractor=extractor[:3], version=VERSION)

    def compute() -> cache.Arrays:
        sums = frechet.streamed(extractor.features, images)
        return dict(n=np.asarray(sums.n), mean=sums.mean, scatter=sums.scatter)

    arrays = keep("features", inputs, compute)
    return Sums(int(arrays["n"]), arrays["mean"], arrays["scatter"])


def of_data(
    found: DataSet, extractor: FeatureExtractor, split: str = "train", keep: Keep = cache.compute_always
) -> Reference:
    """A split of a data set; "train" is all of it that was not held out for tests, calibration images, too.

    Its hash covers the whole set; of training images that do not fit into memory, their number only.

    Args:
      found: the data set.
      extractor: the network.
      split: of SPLITS.
      keep: remembers the statistics.

    Raises:
      ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose {' or '.join(SPLITS)}")
    parts = [found.train.images, found.calibration.images] if split == "train" else [found.test.images]
    known = {**describe(found), "split": split}
    sums = [summed(extractor, part, keep, {**known, "part": i}) for i, part in enumerate(parts)]
    whole = frechet.added(*sums) if len(sums) == 2 else sums[0]
    name = f"{found.name}, {split} images, {cache.fingerprint(known)[:12]}"
    return Reference(name, frechet.target(frechet.fit(whole)))


def of_file(path: AnyPath, extractor: FeatureExtractor, keep: Keep = cache.compute_always) -> Reference:
    """An .npz of another project.

    It holds `mu` and `sigma` (pytorch-fid, guided-diffusion, EDM), the features `pool_3` (score_sde), or images
    `arr_0` (guided-diffusion).

    Args:
      path: of the file.
      extractor: the network that `mu` and `sigma` are of, or that images are given to.
      keep: remembers the statistics of images.

    Raises:
      ValueError: it is missing or damaged, or holds something else.
    """
    path = paths.local(path)
    arrays = _arrays(path, ("mu", "sigma", "pool_3", "arr_0"), "the arrays mu and sigma")
    if "mu" in arrays and "sigma" in arrays:
        fit = _given(path, extractor.size, arrays["mu"], arrays["sigma"])
    elif "pool_3" in arrays:
        fit = frechet.gaussian_fit(_of_size(path, extractor.size, arrays["pool_3"]))
    elif "arr_0" in arrays:
        fit = frechet.fit(summed(extractor, _images(path, arrays["arr_0"]), keep))
    else:
        names = ", ".join(arrays) or "none of these"
        raise ValueError(f"{path} holds {names}: mu and sigma, pool_3 or arr_0 are wanted")
    return Reference(f"{path.name}, {cache.fingerprint(arrays)[:12]}", frechet.target(fit))


def _given(path: Path, size: int, mean: np.ndarray, cov: np.ndarray) -> frechet.Fit:
    """mu and sigma, if they are a Gaussian of so many features."""
    if mean.shape != (size,) or cov.shape != (size, size):
        raise ValueError(
            f"{path} holds mu {mean.shape} and sigma {cov.shape}: the network has {size} features, ({size},) and "
            f"({size}, {size}) are wanted"
        )
    mean, cov = mean.astype(np.float64), cov.astype(np.float64)
    finite = np.isfinite(mean).all() and np.isfinite(cov).all()
    if not finite or np.abs(cov - cov.T).max() > 1e-4 * np.abs(np.diag(cov)).max():
        raise ValueError(f"{path} holds a sigma that is no covariance, or numbers that are not finite: write it again")
    return frechet.Fit(mean, (cov + cov.T) / 2)


def _of_size(path: Path, size: int, features: np.ndarray) -> np.ndarray:
    if features.ndim != 2 or features.shape[1] != size or len(features) < 2:
        raise ValueError(f"{path} holds pool_3 {features.shape}: (n, {size}) with two or more rows is wanted")
    return features


def read_samples(path: AnyPath) -> tuple[UInt8[np.ndarray, "n h w c"], dict[str, Any]]:
    """The images `arr_0` of an .npz, and what made them where ddpm-jax sample wrote it.

    Raises:
      ValueError: it is missing or damaged, or holds something else.
    """
    path = paths.local(path)
    arrays = _arrays(path, ("arr_0", "options"), "the images arr_0")
    if "arr_0" not in arrays:
        raise ValueError(f"{path} has no array arr_0: the images, uint8 of shape (n, H, W, 3), are wanted under it")
    try:
        made = json.loads(str(arrays.get("options", "")))
    except (ValueError, RecursionError):
        made = {}
    ours = isinstance(made, dict) and isinstance(made.get("rules"), dict)
    return _images(path, arrays["arr_0"]), made if ours else {}


def _arrays(path: Path, names: tuple[str, ...], expected: str) -> dict[str, np.ndarray]:
    """Those of an .npz that it holds."""
    paths.existing(path)
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in names if name in stored}
    except Exception as error:  # whatever NumPy and zipfile raise of damaged files
        reason = first_line(error)
        raise ValueError(f"{path} cannot be read ({reason}): give an .npz with {expected}") from error


def _images(path: Path, images: np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or len(images) < 2:
        raise ValueError(
            f"{path} holds arr_0 of {images.dtype} and shape {images.shape}: two or more images (n, H, W, 3) of uint8 "
            "are wanted"
        )
    return images


def of_images(name: str, images: UInt8[np.ndarray, "n h w c"], extractor: FeatureExtractor) -> Reference:
    """Images in memory."""
    sums = summed(extractor, images)
    return Reference(f"{name}, {cache.fingerprint(images)[:12]}", frechet.target(frechet.fit(sums)))


def measure(extractor: FeatureExtractor, reference: Reference, rounding: str, n: int) -> Measure:
    """The conditions under which a distance of n samples compares. Parmar et al. 2022, section 3."""
    return Measure(extractor.name, extractor.preparation, rounding, reference.name, n)
