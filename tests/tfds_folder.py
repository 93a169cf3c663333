"""Folders as TFDS prepares them, by a real builder of a few made-up images: array_record, without TensorFlow."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10


def made_up(count: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Images that differ from each other: their number in the first two pixels, noise in the others."""
    images = np.random.default_rng(count).integers(0, 256, (count, height, width, channels), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(count) // 256, np.arange(count) % 256
    return images


def numbers(images: np.ndarray) -> np.ndarray:
    """Which of the made-up images these are."""
    return images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 1, 0]


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    """A picture file of grey levels."""
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file := BytesIO(), kind)
    return file.getvalue()


def prepare(
    root: Path,
    name: str,
    splits: dict[str, list[np.ndarray]],
    kind: str = "PNG",
    labelled: bool = True,
    version: str = "3.0.1",
) -> Path:
    """Write what TFDS would write of a data set.

    Args:
      root: TFDS_DATA_DIR.
      name: set or set/config.
      splits: images (H, W, C) of every split; their sizes are declared only if all are alike.
      kind: how they are stored.
      labelled: whether there are labels, the image's place in its split modulo CLASSES.
      version: of the data set.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import skip_registration

    shapes = {image.shape for images in splits.values() for image in images}
    (channels,) = {shape[-1] for shape in shapes}
    shape = shapes.pop() if len(shapes) == 1 else (None, None, channels)
    features: dict[str, object] = {"image": tfds.features.Image(shape=shape), "mask": tfds.features.Image()}
    if labelled:
        features["label"] = tfds.features.ClassLabel(num_classes=CLASSES)
    mask = encoded(np.zeros((2, 2, 3), np.uint8))

    with skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(version)
            BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=part) for part in name.split("/")[1:])

            def _info(self) -> tfds.core.DatasetInfo:
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, _: object) -> dict[str, Iterator]:
                return {split: self._generate_examples(images) for split, images in splits.items()}

            def _generate_examples(self, images: list[np.ndarray]) -> Iterator:
                for i, image in enumerate(images):
                    label = {"label": i % CLASSES} if labelled else {}
                    yield i, {"image": BytesIO(encoded(image, kind)), "mask": BytesIO(mask), **label}

    Builder.name = name.split("/")[0]
    builder = Builder(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def prepare_small_sets(root: Path) -> None:
    """One of every kind: with labels and without, grey, stored as PNG and JPEG, of one size and of many, with a test
    split, with one for validation, with training images alone.
    """
    faces = list(made_up(30, 218, 178))
    rooms = [made_up(20, 20 + i, 40 - i)[i] for i in range(20)]
    prepare(root, "mnist", {"train": list(made_up(60, 28, 28, 1)), "test": list(made_up(40, 28, 28, 1))})
    prepare(root, "cifar10", {"train": list(made_up(60, 32, 32)), "test": list(made_up(40, 32, 32))})
    prepare(root, "celeb_a", {"train": faces, "validation": faces[:5], "test": faces[:8]}, labelled=False)
    prepare(root, "lsun/bedroom", {"train": rooms, "validation": rooms[:5]}, "JPEG", labelled=False)
    prepare(root, "celeb_a_hq/16", {"train": list(made_up(30, 16, 16))}, labelled=False)
