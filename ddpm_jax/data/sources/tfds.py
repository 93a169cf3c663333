"""Image sets that TFDS (tensorflow-datasets) prepared as array_record. The only file that imports TFDS.

They lie in the folder that TFDS_DATA_DIR names, default ~/tensorflow_datasets. Preparing needs TensorFlow, once and
anywhere; reading does not, and nothing here imports it.
"""

import json
import os
import re
import sys
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax import paths
from ddpm_jax.data import transforms
from ddpm_jax.data.sources.records import Records
from ddpm_jax.data.transforms import Framing

FORMAT = "array_record"
INFO = "dataset_info.json"
INSTALL = "pip install tensorflow tensorflow-datasets importlib_resources"
NAME = re.compile(r"\w+(/\w[\w.+-]*)?")  # set, or set/config
SMALL = 64 * 64  # pixels up to which threads decode no faster than one


class Prepared(NamedTuple):
    """The splits of an image set.

    Attributes:
      train: the official training images.
      test: the official test images, or those for validation; None where there are neither.
      tested: the name of that split; empty where there is none.
      kind: how its first image is stored, for example PNG.
    """

    train: Records
    test: Records | None
    tested: str
    kind: str | None


def root() -> Path:
    """The folder of prepared sets.

    Raises:
      ValueError: TFDS_DATA_DIR is the address of a bucket, or a file.
    """
    try:
        folder = paths.local(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    except ValueError as error:
        raise ValueError(f"TFDS_DATA_DIR = {error}") from error
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"TFDS_DATA_DIR = {folder}: it is a file, give the folder of prepared sets")
    return folder


def is_known(name: str) -> bool:
    """Whether TFDS has a set of this name, or a folder of this name was prepared."""
    import tensorflow_datasets as tfds

    if not NAME.fullmatch(name):
        return False
    folder = root() / name
    return bool(_versions(folder) or _configs(folder)) or name.split("/")[0] in tfds.list_builders(
        with_community_datasets=False
    )


def find(name: str) -> Path:
    """The folder of the newest version of a set that can be read.

    Args:
      name: set or set/config.

    Raises:
      ValueError: it is not there, or in another format, or its config has to be named; says what to do.
    """
    versions = _versions(root() / name)
    readable = [folder for folder in versions if FORMAT in _formats(folder)]
    if readable:
        return readable[-1]
    if versions:
        formats, newest = " and ".join(_formats(versions[-1])), versions[-1]
        raise ValueError(
            f"{newest} holds {name} as {formats}, not as {FORMAT}: convert it, in an environment of its own, by "
            f"`{INSTALL} apache-beam` and `python -m tensorflow_datasets.scripts.convert_format "
            f"--dataset_version_dir={newest} --out_file_format={FORMAT}`"
        )
    if _configs(root() / name):
        choices = ", ".join(f"{name}/{config}" for config in _configs(root() / name))
        raise ValueError(f"{root()} holds {choices}: choose one instead of {name}")
    _check_config(name)
    raise ValueError(
        f"{root()} does not hold {name} as {FORMAT}: set TFDS_DATA_DIR to a folder that does, or prepare it, in an "
        f'environment of its own, by `{INSTALL}` and `python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{root()}').download_and_prepare(file_format='{FORMAT}')\"`"
    )


def _versions(folder: Path) -> list[Path]:
    """The versions that were prepared in a folder, the newest last."""
    folders = [path.parent for path in folder.glob(f"*/{INFO}") if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)]
    return sorted(folders, key=lambda path: [int(part) for part in path.name.split(".")])


def _configs(folder: Path) -> list[str]:
    """The configs that were prepared in a set's folder."""
    return sorted(path.name for path in folder.glob("*") if _versions(path))


def _formats(folder: Path) -> list[str]:
    """The file formats in which a version is stored; sets from before there was a choice do not say so."""
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        return [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / INFO} is damaged ({error}): prepare the data set again") from error


def _check_config(name: str) -> None:
    """Refuse a config that the set does not have, or none where it has several."""
    import tensorflow_datasets as tfds

    name, _, config = name.partition("/")
    configs = [one.name for one in tfds.builder_cls(name).BUILDER_CONFIGS]
    if configs and config not in configs:
        raise ValueError(f"{name} of TFDS comes as {', '.join(configs)}: choose one, for example {name}/{configs[0]}")
    if config and not configs:
        raise ValueError(f"{name} of TFDS has no {config}: leave /{config} out")


def read(folder: Path, wanted: Framing, name: str) -> Prepared:
    """The splits of a prepared set.

    Args:
      folder: of the version.
      wanted: what becomes of its pictures.
      name: for messages.

    Raises:
      ValueError: it has no pictures or no training images, files are missing, or the framing does not fit.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    _keep_tensorflow_off_accelerators()
    features, splits = builder.info.features, builder.info.splits
    pictures = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    if "image" not in pictures or features["image"].np_dtype != "uint8":
        raise ValueError(f"{name} has no pictures of 8 bits under `image`, only {', '.join(features)}: choose another")
    non_empty = {split: info for split, info in splits.items() if info.num_examples}
    if "train" not in non_empty:
        raise ValueError(f"{name} has no training images, only {', '.join(non_empty)}: choose another data set")
    test_split = next((split for split in ("test", "validation") if split in non_empty), "")
    decoders = {key: tfds.decode.SkipDecoding() for key in pictures}
    labelled = "label" in features and isinstance(features["label"], tfds.features.ClassLabel)

    def records(split: str) -> Records:
        source = builder.as_data_source(split=split, decoders=decoders, file_format=FORMAT)
        for path in map(Path, builder.info.splits[split].filepaths):
            if not path.exists():
                raise ValueError(f"{path} is missing: copy or prepare {name} again")
        return _records(source, features["image"].shape, wanted, name, labelled)

    train = records("train")
    kind = transforms.picture_format(train.fetch([0])[0]["image"])
    return Prepared(train, records(test_split) if test_split else None, test_split, kind)


def _records(source: Any, image_shape: tuple[int | None, ...], framing: Framing, name: str, labelled: bool) -> Records:
    """One split; image_shape is (H, W, C), None where pictures differ."""
    height, width, channels = image_shape
    size = None if height is None or width is None else (height, width)
    shape = transforms.framed_shape(framing, size, 3 if channels is None else channels, name)
    threads = 1 if size and prod(size) <= SMALL else os.cpu_count() or 1

    def image(example: dict[str, Any]) -> Any:
        return transforms.decode(example["image"], shape, framing, name)

    def label(example: dict[str, Any]) -> int:
        return int(example["label"])

    return Records(len(source), shape, source.__getitems__, image, label if labelled else None, threads)


def _keep_tensorflow_off_accelerators() -> None:
    """TFDS does not import TensorFlow to read. If something else did, it must not take the memory that JAX needs."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return
    for kind in ("GPU", "TPU"):
        try:
            tensorflow.config.set_visible_devices([], kind)
        except RuntimeError as error:
            raise ValueError(
                f"TensorFlow has taken the {kind} in this process ({error}): load the data before it is used"
            ) from error
