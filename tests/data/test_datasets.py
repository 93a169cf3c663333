"""Data sets by name: real digits, sets that TFDS prepared, folders and arrays, and what is said of each."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ddpm_jax.data import datasets, loader, transforms
from ddpm_jax.data.sources import records
from tests.tfds_folder import CLASSES, encoded, made_up, numbers, prepare


def test_digits_are_all_of_scikit_learns_in_three_disjoint_parts() -> None:
    digits = datasets.digits()
    parts = [digits.train, digits.calibration, digits.test]
    assert [len(part.images) for part in parts] == [1297, 200, 300]
    together = np.concatenate([part.images for part in parts])[..., 0]
    labels = np.concatenate([part.labels for part in parts])
    source = load_digits()
    rows = lambda images, labels: sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))  # noqa: E731
    assert rows(together, labels) == rows(source.images.astype(np.uint8), source.target)


def test_digits_have_17_grey_levels() -> None:
    digits = datasets.digits()
    assert digits.levels == 17
    assert set(np.unique(digits.train.images)) == set(range(17))
    assert digits.shape == (8, 8, 1)


def test_every_split_has_all_classes() -> None:
    digits = datasets.digits()
    for part in (digits.train, digits.calibration, digits.test):
        assert set(part.labels) == set(range(10))


def test_splits_are_the_same_every_time() -> None:
    first, second = datasets.digits(), datasets.digits()
    np.testing.assert_array_equal(first.test.images, second.test.images)


SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
SAID = {"mnist": "MNIST, handwritten digits of 28 x 28 pixels", "cifar10": "CIFAR-10, photographs of 32 x 32 pixels"}


@pytest.mark.parametrize(("name", "flip"), [("mnist", False), ("cifar10", True)])
def test_prepared_sets_are_read_whole_in_three_disjoint_parts(tfds: Path, name: str, flip: bool) -> None:
    found, shape = datasets.load(name), SHAPES[name]
    assert (found.name, found.levels, found.flip, found.shape) == (name, 256, flip, shape)
    assert [len(part.images) for part in (found.train, found.calibration, found.test)] == [54, 6, 40]
    for count, some in ((60, (found.train, found.calibration)), (40, (found.test,))):
        images = np.concatenate([part.images for part in some])
        labels = np.concatenate([part.labels for part in some])
        assert sorted(numbers(images)) == list(range(count))
        np.testing.assert_array_equal(images, made_up(count, *shape)[numbers(images)])
        np.testing.assert_array_equal(labels, numbers(images) % CLASSES)
    assert found.description == SAID[name]


def test_prepared_sets_are_shuffled_and_always_alike(tfds: Path) -> None:
    first = datasets.load("mnist")
    datasets._of_version.cache_clear()
    second = datasets.load("mnist")
    np.testing.assert_array_equal(first.calibration.images, second.calibration.images)
    assert first.test.images is not second.test.images


def test_a_loaded_set_is_not_read_again(tfds: Path, tmp_path: Path) -> None:
    assert datasets.load("mnist").test.images is datasets.load("mnist").test.images
    np.savez(tmp_path / "it.npz", images=made_up(30, 8, 8))
    path = str(tmp_path / "it.npz")
    assert datasets.load(path).test.images is datasets.load(path).test.images


def test_halved_cifar10_is_the_mean_of_2_by_2_pixels_rounded_halves_up(tfds: Path) -> None:
    full, halved = datasets.load("cifar10"), datasets.load("cifar10_16")
    assert (halved.name, halved.levels, halved.flip, halved.shape) == ("cifar10_16", 256, True, (16, 16, 3))
    assert halved.description == f"{SAID['cifar10']}, averaged 2 x 2 to 16 x 16"
    for part in datasets.PARTS:
        images = getattr(full, part).images.astype(float)
        mean = sum(images[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
        np.testing.assert_array_equal(getattr(halved, part).images, np.floor(mean + 0.5))
        np.testing.assert_array_equal(getattr(halved, part).labels, getattr(full, part).labels)


def test_white_stays_white_when_halved() -> None:
    assert (datasets.halve(np.full((1, 2, 2, 1), 255, np.uint8)) == 255).all()
    assert datasets.halve(np.array([1, 0, 1, 0], np.uint8).reshape(1, 2, 2, 1)).item() == 1


def test_celeb_a_is_cut_and_shrunk_as_published(tfds: Path) -> None:
    """The middle 140 x 140 of 218 x 178 pixels; the inner ones have 64/140 of the size and the same mean."""
    found = datasets.load("celeb_a")
    assert (found.shape, found.flip, found.test.labels) == ((64, 64, 3), True, None)
    assert found.description == "CelebA, faces of 64 x 64 pixels, the middle 140 x 140 of each"
    whole = datasets.load("celeb_a", 140)
    for part in datasets.PARTS:
        shrunk, cut = (getattr(one, part).images.astype(float) for one in (found, whole))
        assert cut.shape[1:] == (140, 140, 3)
        np.testing.assert_allclose(shrunk.mean(axis=(1, 2)), cut.mean(axis=(1, 2)), atol=0.5)
    faces = {image[39:179, 19:159].tobytes() for image in made_up(30, 218, 178)}
    assert {image.tobytes() for image in whole.test.images} <= faces


def test_any_set_of_TFDS_is_found_by_its_name(tfds: Path) -> None:
    rooms = datasets.load("lsun/bedroom", 16)
    assert rooms.description == (
        "lsun/bedroom of TFDS, images of 16 x 16 pixels, tested on validation images, mirror images taken as likely"
    )
    assert rooms.flip and [len(part.images) for part in (rooms.train, rooms.calibration, rooms.test)] == [18, 2, 5]
    faces = datasets.load("celeb_a_hq/16")
    assert ", tested on 3 training images that are not learned" in faces.description
    assert [len(part.images) for part in (faces.train, faces.calibration, faces.test)] == [24, 3, 3]
    shown = np.concatenate([numbers(part.images) for part in (faces.train, faces.calibration, faces.test)])
    assert sorted(shown) == list(range(30))


def test_a_set_is_shrunk_on_demand(tfds: Path) -> None:
    found = datasets.load("mnist", 14)
    assert found.shape == (14, 14, 1)
    assert found.description == "MNIST, handwritten digits of 14 x 14 pixels"
    assert datasets.load("mnist").shape == (28, 28, 1)


def test_a_set_that_does_not_fit_into_memory_gives_the_same_batches(
    tfds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loader.batches(datasets.load("celeb_a").train.images, 8, 0)
    monkeypatch.setattr(records, "IN_MEMORY", 20 * 64 * 64 * 3)
    datasets._of_version.cache_clear()
    found = datasets.load("celeb_a")
    assert isinstance(found.train, datasets.Large) and found.shape == (64, 64, 3)
    assert isinstance(found.calibration.images, np.ndarray) and isinstance(found.test.images, np.ndarray)
    reading = loader.stream(loader.batches(found.train.images, 8, 0), 2)
    for step in range(2, 12):
        np.testing.assert_array_equal(next(reading), whole[step])
    np.testing.assert_array_equal(datasets.seen(found.train).images[:20], found.train.images[:20])
    datasets._of_version.cache_clear()


def test_a_folder_and_an_array_are_found_by_their_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = made_up(30, 8, 8)
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(images):
        (tmp_path / "photos" / f"{i:02}.png").write_bytes(encoded(image))
    np.savez(tmp_path / "it.npz", images=images, labels=np.arange(30))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    datasets._of_path.cache_clear()
    for name in ("./photos", str(tmp_path / "photos"), "~/photos", "it.npz", "./it.npz"):
        found, is_array = datasets.load(name), name.endswith(".npz")
        assert (found.name, found.shape, found.levels, found.flip) == (name, (8, 8, 3), 256, not is_array)
        three = (found.train, found.calibration, found.test)
        np.testing.assert_array_equal(np.sort(np.concatenate([numbers(part.images) for part in three])), np.arange(30))
        for part in three:
            assert (part.labels is not None) == is_array
            if part.labels is not None:
                np.testing.assert_array_equal(part.labels, numbers(part.images))
        assert ("mirror images taken as likely" in found.description) != is_array
        assert found.description.startswith("images in ") and " of 8 x 8 pixels, tested on 3 " in found.description
    assert datasets.load("./photos", 4).shape == datasets.load("it.npz", 4).shape == (4, 4, 3)


def test_whether_images_are_mirrored_may_be_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "it.npz", images=made_up(30, 8, 8))
    for i, image in enumerate(made_up(30, 8, 8)):
        (tmp_path / f"{i:02}.png").write_bytes(encoded(image))
    for name, default in ((tmp_path / "it.npz", False), (tmp_path, True), ("digits", False)):
        assert datasets.load(name).flip == default
        for mirror in (False, True):
            found = datasets.load(name, mirror=mirror)
            assert found.flip == mirror
            assert found.description.endswith(", mirrored" if mirror else ", not mirrored")
            assert "taken as likely" not in found.description


def test_what_is_remarkable_is_told_once_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = made_up(30, 8, 8)
    np.savez(tmp_path / "it.npz", images=np.concatenate([images, images[:5]]))
    (tmp_path / "notes.txt").write_text("no image")
    for i, image in enumerate(images):
        (tmp_path / f"{i:02}.png").write_bytes(encoded(image))
    for name in (tmp_path / "it.npz", tmp_path, tmp_path):
        datasets.load(name)
    assert capsys.readouterr().err == (
        f"{tmp_path}/it.npz: 35 images; 5 are copies of others, which are kept in one part\n"
        f"{tmp_path}: 30 images; left out: 1 .npz, 1 .txt\n"
    )


def test_a_folder_has_a_ground_and_nothing_else_has(tmp_path: Path) -> None:
    for i in range(20):
        pixels = np.full((4, 4, 4), (i, i, i, 0), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
    found = {ground: datasets.load(tmp_path, ground=ground) for ground in (None, "#202020", "red")}
    assert {ground: one.train.images[0, 0, 0].tolist() for ground, one in found.items()} == {
        None: [255] * 3, "#202020": [32] * 3, "red": [255, 0, 0]
    }  # fmt: skip
    array = tmp_path / "it.npz"
    np.savez(array, images=made_up(30, 8, 8))
    for name in ("digits", array):
        with pytest.raises(ValueError, match=f"ground = red: pictures of {name} are opaque, leave it out"):
            datasets.load(name, ground="red")
    with pytest.raises(ValueError, match=r"nowhere is not there: give a folder"):
        datasets.load("./nowhere", ground="red")
    with pytest.raises(ValueError, match="unknown ground 'rde'"):
        datasets.load(tmp_path, ground="rde")


@pytest.mark.parametrize("kind", ["array", "folder", "TFDS"])
def test_zeros_and_ones_are_black_and_white(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TFDS's binarized_mnist and many arrays of masks have them."""
    pixels = np.random.default_rng(0).integers(0, 2, (40, 8, 8, 1)).astype(np.uint8)
    name: str | Path = tmp_path
    if kind == "array":
        name = tmp_path / "it.npz"
        np.savez(name, images=pixels)
    elif kind == "folder":
        for i, image in enumerate(pixels):
            (tmp_path / f"{i:02}.png").write_bytes(encoded(image))
    else:
        prepare(tmp_path, "binarized_mnist", {"train": list(pixels), "test": list(pixels[:5])})
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        name = "binarized_mnist"
    found = datasets.load(name)
    assert found.levels == 2 and "black and white" in found.description
    assert {*np.unique(transforms.to_unit(jnp.asarray(found.train.images), found.levels))} == {-1.0, 1.0}
    np.testing.assert_array_equal(transforms.shades(found.test.images, 2), 255 * found.test.images)


def test_a_registered_set_has_the_levels_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = datasets.digits()
    dark = {part: getattr(digits, part)._replace(images=getattr(digits, part).images // 16) for part in datasets.PARTS}
    monkeypatch.setitem(datasets.DATASETS, "dark", lambda: digits._replace(**dark))
    assert datasets.load("dark").test.images.max() == 1 and datasets.load("dark").levels == 17


def test_a_copy_in_another_format_is_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, "cifar10", {"train": list(made_up(20, 32, 32)), "test": list(made_up(2, 32, 32))}, "JPEG")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert datasets.load("cifar10").description == f"{SAID['cifar10']}, from a JPEG copy"


@pytest.mark.parametrize(
    ("name", "image_size", "message"),
    [
        ("digit", None, "unknown data set 'digit': choose one of digits, mnist.* or a path of images such as ./digit"),
        ("lsun", None, "holds lsun/bedroom: choose one instead of lsun"),
        ("fashion_mnist", None, r"does not hold fashion_mnist as array_record.*tfds\.builder\('fashion_mnist'"),
        ("./nothing", None, "nothing is not there: give a folder of images"),
        ("mnist", 0, "image_size = 0: it is at least 1"),
        ("mnist", 29, "image_size = 29: images of mnist have 28 x 28 pixels and are never enlarged"),
        ("digits", 4, "image_size = 4: digits comes in 8 x 8 pixels alone, leave it out"),
        ("cifar10_16", 32, "image_size = 32: cifar10_16 comes in 16 x 16 pixels alone, leave it out"),
    ],
)
def test_wrong_names_and_sizes_are_refused(tfds: Path, name: str, image_size: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        datasets.load(name, image_size)
    assert "\n" not in str(caught.value)


def test_sets_of_one_size_may_be_asked_for_in_it(tfds: Path) -> None:
    assert datasets.load("digits", 8).shape == (8, 8, 1)
    assert datasets.load("cifar10_16", 16).shape == (16, 16, 3)


def test_batches_and_what_evaluation_sees_are_reached_from_here() -> None:
    assert (loader.batches, loader.stream, datasets.seen) == (loader.batches, loader.stream, datasets.seen)


def there(name: str) -> bool:
    """Whether TFDS_DATA_DIR holds the real set."""
    return any(Path(os.environ.get("TFDS_DATA_DIR", "/nowhere")).glob(f"{name}/*/{name}-train.array_record-*"))


@pytest.mark.slow
def test_the_real_sets_are_split_as_ever() -> None:
    """The official training images shuffled by NumPy's RandomState(0), the last of them held out."""
    if not there("mnist"):
        pytest.skip("TFDS_DATA_DIR does not hold mnist")
    import tensorflow_datasets as tfds

    found = datasets.load("mnist")
    source = tfds.data_source("mnist", data_dir=os.environ["TFDS_DATA_DIR"], split="train")
    order = np.random.RandomState(0).permutation(60_000)
    for part, some in ((found.train, order[:20]), (found.calibration, order[-1000:-980])):
        for image, label, number in zip(part.images, part.labels, some, strict=False):
            example = source[int(number)]
            np.testing.assert_array_equal(image, example["image"])
            assert label == example["label"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "learned", "of_a_class"), [("mnist", 59_000, None), ("cifar10", 49_000, 1000)])
def test_the_real_sets_have_their_published_sizes(name: str, learned: int, of_a_class: int | None) -> None:
    if not there(name):
        pytest.skip(f"TFDS_DATA_DIR does not hold {name}")
    found = datasets.load(name)
    assert [len(part.labels) for part in (found.train, found.calibration, found.test)] == [learned, 1000, 10_000]
    # the number of each class in the official test split
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009] if of_a_class is None else [of_a_class] * 10
    assert list(np.bincount(found.test.labels)) == counts
    assert (found.train.images.min(), found.train.images.max()) == (0, 255)
