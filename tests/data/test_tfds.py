"""What TFDS prepared is found, read without TensorFlow, and what is missing is said in one line with its cure."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ddpm_jax.data.sources import tfds as tfds_source
from ddpm_jax.data.sources.records import decoded
from ddpm_jax.data.transforms import Framing
from tests.tfds_folder import CLASSES, encoded, made_up, numbers, prepare


def read(root: Path, name: str, wanted: Framing = Framing()) -> tfds_source.Prepared:
    return tfds_source.read(tfds_source.find(name), wanted, name)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TFDS_DATA_DIR."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_every_image_is_read_with_its_label(tfds: Path, name: str, shape: tuple[int, int, int]) -> None:
    found = read(tfds, name)
    assert (found.tested, found.kind) == ("test", "PNG")
    for records, n in ((found.train, 60), (found.test, 40)):
        assert records is not None and (records.n, records.shape) == (n, shape)
        images, labels = decoded(records, np.arange(n), name)
        assert sorted(numbers(images)) == list(range(n))
        np.testing.assert_array_equal(images, made_up(n, *shape)[numbers(images)])
        np.testing.assert_array_equal(labels, numbers(images) % CLASSES)


def test_pictures_that_differ_in_size_are_shrunk_to_one(tfds: Path) -> None:
    found = read(tfds, "lsun/bedroom", Framing(16))
    assert (found.tested, found.kind, found.train.label, found.train.shape) == ("validation", "JPEG", None, (16, 16, 3))
    assert decoded(found.train, np.arange(20), "it")[0].shape == (20, 16, 16, 3)
    with pytest.raises(ValueError, match=r"images of lsun/bedroom differ in size.*--image-size"):
        read(tfds, "lsun/bedroom")
    with pytest.raises(ValueError, match=r"images of lsun/bedroom have \d+ x \d+ pixels and are never enlarged"):
        decoded(read(tfds, "lsun/bedroom", Framing(25)).train, np.arange(20), "it")


def test_the_test_split_is_preferred_to_validation_and_may_be_missing(tfds: Path) -> None:
    faces = read(tfds, "celeb_a", Framing(64))
    assert faces.test is not None and (faces.tested, faces.test.n) == ("test", 8)
    alone = read(tfds, "celeb_a_hq/16")
    assert (alone.tested, alone.test) == ("", None)


def test_large_pictures_are_decoded_by_threads_and_small_ones_are_not(tfds: Path) -> None:
    cores = os.cpu_count()
    assert read(tfds, "mnist").train.threads == 1
    assert read(tfds, "celeb_a", Framing(64)).train.threads == cores
    assert read(tfds, "lsun/bedroom", Framing(16)).train.threads == cores


def test_the_newest_version_that_can_be_read_is_taken(root: Path) -> None:
    images = {"train": list(made_up(3, 8, 8))}
    folders = [prepare(root, "mnist", images, version=version) for version in ("9.0.0", "10.0.0", "11.0.0")]
    info = folders[2] / "dataset_info.json"
    assert tfds_source.find("mnist") == folders[2]
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    assert tfds_source.find("mnist") == folders[1]


def test_a_set_in_another_format_says_how_to_convert_it(root: Path) -> None:
    folder = prepare(root, "mnist", {"train": list(made_up(3, 8, 8))})
    info = folder / "dataset_info.json"
    values = json.loads(info.read_text())
    for left_out in ("fileFormat", None):
        old = {key: value for key, value in values.items() if key != left_out}
        info.write_text(json.dumps(old if left_out else values | {"fileFormat": "tfrecord"}))
        with pytest.raises(ValueError, match=r"holds mnist as tfrecord") as caught:
            tfds_source.find("mnist")
        command = f"convert_format --dataset_version_dir={folder} --out_file_format=array_record"
        assert f"`python -m tensorflow_datasets.scripts.{command}`" in str(caught.value)
        assert "importlib_resources apache-beam`" in str(caught.value) and "\n" not in str(caught.value)
    info.write_text(json.dumps(values | {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}))
    assert tfds_source.read(tfds_source.find("mnist"), Framing(), "mnist").train.n == 3
    for damaged in ("{", "[1]", "[" * 100_000, '{"alternativeFileFormats": 1}'):
        info.write_text(damaged)
        with pytest.raises(ValueError, match=r"dataset_info\.json is damaged \(.*\): prepare the data set again"):
            tfds_source.find("mnist")


@pytest.mark.parametrize("name", ["mnist", "celeb_a", "lsun/bedroom", "imagenet_resized/64x64", "celeb_a_hq/256"])
def test_a_set_that_is_not_there_says_how_to_get_it(name: str, root: Path) -> None:
    with pytest.raises(ValueError, match="TFDS_DATA_DIR") as caught:
        tfds_source.find(name)
    said = str(caught.value)
    assert said.startswith(f"{root} does not hold {name} as array_record: ") and "\n" not in said
    assert "`pip install tensorflow tensorflow-datasets importlib_resources`" in said
    command = f"tfds.builder('{name}', data_dir='{root}').download_and_prepare(file_format='array_record')"
    assert f'`python -c "import tensorflow_datasets as tfds; {command}"`' in said
    compile(command, "", "eval")


def test_without_TFDS_DATA_DIR_the_folder_is_TFDSs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tfds_source.root() == tmp_path / "tensorflow_datasets"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lsun", "lsun of TFDS comes as classroom, bedroom, .*: choose one, for example lsun/classroom"),
        ("lsun/bedrom", "lsun of TFDS comes as classroom, bedroom"),
        ("mnist/large", "mnist of TFDS has no large: leave /large out"),
    ],
)
def test_a_config_that_is_missing_or_wrong_is_refused(name: str, message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tfds_source.find(name)


def test_a_config_has_to_be_chosen_of_those_that_are_there(tfds: Path) -> None:
    with pytest.raises(ValueError, match="holds celeb_a_hq/16: choose one instead of celeb_a_hq"):
        tfds_source.find("celeb_a_hq")


def test_names_of_TFDS_and_of_folders_are_known(root: Path) -> None:
    prepare(root, "my_own", {"train": list(made_up(3, 8, 8))})
    prepare(root, "my_other/small", {"train": list(made_up(3, 8, 8))})
    for name in ("mnist", "lsun/bedroom", "my_own", "my_other/small", "my_other"):
        assert tfds_source.is_known(name)
    for name in ("mnst", "my_own/..", "my own", "", "mnist/", "my_other/small/3.0.1"):
        assert not tfds_source.is_known(name)


def test_a_missing_file_is_named(root: Path) -> None:
    folder = prepare(root, "mnist", {"train": list(made_up(3, 8, 8)), "test": list(made_up(3, 8, 8))})
    (folder / "mnist-test.array_record-00000-of-00001").unlink()
    with pytest.raises(ValueError, match=r"mnist-test\.array_record-00000-of-00001 is missing: copy or prepare"):
        read(root, "mnist")


def test_a_set_without_training_images_is_refused(root: Path) -> None:
    prepare(root, "mnist", {"test": list(made_up(3, 8, 8))})
    with pytest.raises(ValueError, match="mnist has no training images, only test: choose another"):
        read(root, "mnist")


def test_a_set_without_pictures_is_refused(root: Path) -> None:
    folder = prepare(root, "mnist", {"train": list(made_up(3, 8, 8))})
    features = folder / "features.json"
    features.write_text(features.read_text().replace('"image": {\n                "image"', '"photo": {\n"image"'))
    with pytest.raises(ValueError, match=r"mnist has no pictures of 8 bits under `image`, only .*photo"):
        read(root, "mnist")


def test_nothing_imports_tensorflow_even_where_it_is_installed(tfds: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('imported')")
    command = (
        "import sys; from ddpm_jax.data import datasets; from ddpm_jax.data.sources import tfds; "
        "assert not {'tensorflow_datasets', 'PIL'} & {*sys.modules}; "
        "datasets.load('mnist'); datasets.load('celeb_a', 32); assert not tfds.is_known('nothing'); "
        "print('tensorflow_datasets' in sys.modules, 'tensorflow' in sys.modules)"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert run.stdout.split() == ["True", "False"], run.stderr


def tensorflow(asked: list, busy: bool = False) -> SimpleNamespace:
    """All of TensorFlow that is called."""

    def set_visible_devices(devices: list, kind: str) -> None:
        if busy:
            raise RuntimeError("Visible devices cannot be modified after being initialized")
        asked.append((devices, kind))

    return SimpleNamespace(config=SimpleNamespace(set_visible_devices=set_visible_devices))


def test_tensorflow_takes_no_accelerator(tfds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list = []
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow(asked))
    read(tfds, "mnist")
    assert asked == [([], "GPU"), ([], "TPU")]


def test_tensorflow_that_has_taken_an_accelerator_is_refused(tfds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow([], busy=True))
    with pytest.raises(ValueError, match=r"TensorFlow has taken the GPU in this process \(Visible devices.*load the"):
        read(tfds, "mnist")


def test_a_damaged_picture_names_its_set(tfds: Path) -> None:
    with pytest.raises(ValueError, match="cifar10 holds a picture that cannot be decoded"):
        read(tfds, "cifar10").train.image({"image": encoded(made_up(1, 32, 32)[0])[:60]})
