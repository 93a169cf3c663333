"""The data: real digits, sets that TFDS prepared, fixed disjoint splits, batches that are a function of the step."""

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ddpm_jax import data


def test_digits_are_all_of_scikit_learns_in_three_disjoint_parts() -> None:
    digits = data.digits()
    parts = [digits.train, digits.calibration, digits.test]
    assert [len(part.images) for part in parts] == [1297, 200, 300]
    together = np.concatenate([part.images for part in parts])[..., 0]
    labels = np.concatenate([part.labels for part in parts])
    source = load_digits()
    rows = lambda images, labels: sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))  # noqa: E731
    assert rows(together, labels) == rows(source.images.astype(np.uint8), source.target)


def test_digits_have_17_grey_levels() -> None:
    digits = data.digits()
    assert digits.levels == 17
    assert set(np.unique(digits.train.images)) == set(range(17))
    assert digits.shape == (8, 8, 1)


def test_every_split_has_all_classes() -> None:
    digits = data.digits()
    for part in (digits.train, digits.calibration, digits.test):
        assert set(part.labels) == set(range(10))


def test_splits_are_the_same_every_time() -> None:
    first, second = data.digits(), data.digits()
    np.testing.assert_array_equal(first.test.images, second.test.images)


def test_an_epoch_visits_every_image_once_and_the_next_in_another_order() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    batches = data.batches(images, 4, seed=0)
    epochs = [np.concatenate([batches[3 * epoch + i] for i in range(3)]).ravel() for epoch in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert (epochs[0] != epochs[1]).any()


def test_a_batch_is_a_function_of_step_and_seed() -> None:
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    np.testing.assert_array_equal(data.batches(images, 8, 1)[17], data.batches(images, 8, 1)[17])
    assert (data.batches(images, 8, 1)[17] != data.batches(images, 8, 2)[17]).any()


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown data set 'digit': choose one of digits"):
        data.load("digit")
    with pytest.raises(ValueError, match="batch = 0"):
        data.batches(np.zeros((4, 1, 1, 1), np.uint8), 0, 0)


TRAIN, TEST = 1060, 40  # images of the made-up sets


def made_up(shape: tuple[int, int, int], count: int) -> np.ndarray:
    """Images that differ from each other: their number in the first pixels, noise in the others."""
    images = np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(count) // 256, np.arange(count) % 256
    return images


def prepare(root: Path, name: str, shape: tuple[int, int, int], kind: str = "PNG") -> None:
    """What TFDS writes of a small data set of this name; labels are the image's number modulo 10."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import skip_registration

    def stored(image: np.ndarray) -> BytesIO:
        Image.fromarray(image.squeeze(axis=-1) if shape[-1] == 1 else image).save(file := BytesIO(), kind)
        return BytesIO(file.getvalue())

    with skip_registration():

        class Small(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("3.0.1")

            def _info(self):
                label = tfds.features.ClassLabel(num_classes=10)
                features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=shape), "label": label})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, _):
                return {"train": self._generate_examples(TRAIN), "test": self._generate_examples(TEST)}

            def _generate_examples(self, count):
                for i, image in enumerate(made_up(shape, count)):
                    yield i, {"image": stored(image), "label": i % 10}

    Small.name = name
    Small(data_dir=root, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small MNIST and a small CIFAR-10."""
    root = tmp_path_factory.mktemp("tfds")
    prepare(root, "mnist", (28, 28, 1))
    prepare(root, "cifar10", (32, 32, 3))
    return root


@pytest.mark.parametrize(("name", "shape", "flip"), [("mnist", (28, 28, 1), False), ("cifar10", (32, 32, 3), True)])
def test_prepared_sets_are_read_whole_in_three_disjoint_parts(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, int, int], flip: bool
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    found = data.load(name)
    assert (found.name, found.levels, found.flip, found.shape) == (name, 256, flip, shape)
    assert [len(part.labels) for part in (found.train, found.calibration, found.test)] == [TRAIN - 1000, 1000, TEST]
    for count, parts in ((TRAIN, (found.train, found.calibration)), (TEST, (found.test,))):
        images = np.concatenate([part.images for part in parts])
        labels = np.concatenate([part.labels for part in parts])
        number = images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 1, 0]
        assert sorted(number) == list(range(count))
        np.testing.assert_array_equal(images, made_up(shape, count)[number])
        np.testing.assert_array_equal(labels, number % 10)
    assert "copy" not in found.description


def test_prepared_sets_are_shuffled_and_always_alike(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    first = data.load("mnist")
    data._official.cache_clear()
    second = data.load("mnist")
    np.testing.assert_array_equal(first.calibration.images, second.calibration.images)
    assert first.test.images is not second.test.images


def test_a_loaded_set_is_not_read_again(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert data.load("mnist").test.images is data.load("mnist").test.images


def test_halved_cifar10_is_the_mean_of_2_by_2_pixels_rounded_halves_up(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    full, halved = data.load("cifar10"), data.load("cifar10_16")
    assert (halved.name, halved.levels, halved.flip, halved.shape) == ("cifar10_16", 256, True, (16, 16, 3))
    for part in ("train", "calibration", "test"):
        images = getattr(full, part).images.astype(float)
        mean = sum(images[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
        np.testing.assert_array_equal(getattr(halved, part).images, np.floor(mean + 0.5))
        np.testing.assert_array_equal(getattr(halved, part).labels, getattr(full, part).labels)


def test_white_stays_white_when_halved() -> None:
    assert (data.halve(np.full((1, 2, 2, 1), 255, np.uint8)) == 255).all()
    assert data.halve(np.array([1, 0, 1, 0], np.uint8).reshape(1, 2, 2, 1)).item() == 1


def test_a_copy_in_another_format_is_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, "cifar10", (32, 32, 3), "JPEG")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert data.load("cifar10").description.endswith("from a JPEG copy")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar10_16"])
def test_a_set_that_is_not_there_says_how_to_get_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"TFDS_DATA_DIR.*tfds\.builder\('(mnist|cifar10)'.*array_record") as caught:
        data.load(name)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_without_TFDS_DATA_DIR_the_folder_is_TFDSs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f"{tmp_path}/tensorflow_datasets does not hold mnist"):
        data.load("mnist")


def test_importing_the_module_imports_neither_tfds_nor_tensorflow() -> None:
    command = "import sys, ddpm_jax.data; print({'tensorflow_datasets', 'tensorflow', 'PIL'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def there(name: str) -> bool:
    """Whether TFDS_DATA_DIR holds the real set."""
    return any(Path(os.environ.get("TFDS_DATA_DIR", "/nowhere")).glob(f"{name}/*/{name}-train.array_record-*"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "learned", "of_a_class"), [("mnist", 59_000, None), ("cifar10", 49_000, 1000)])
def test_the_real_sets_have_their_published_sizes(name: str, learned: int, of_a_class: int | None) -> None:
    if not there(name):
        pytest.skip(f"TFDS_DATA_DIR does not hold {name}")
    found = data.load(name)
    assert [len(part.labels) for part in (found.train, found.calibration, found.test)] == [learned, 1000, 10_000]
    # the number of each class in the official test split
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009] if of_a_class is None else [of_a_class] * 10
    assert list(np.bincount(found.test.labels)) == counts
    assert (found.train.images.min(), found.train.images.max()) == (0, 255)
