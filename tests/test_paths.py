"""Paths as people write them: text or a Path, from the user's folder, and addresses of buckets, which are refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_jax import paths
from ddpm_jax.cli import arguments
from ddpm_jax.cli.command import command_line
from ddpm_jax.data import datasets
from ddpm_jax.data.sources import files as image_files
from ddpm_jax.data.sources import tfds
from ddpm_jax.data.transforms import Framing
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.evaluation import moments
from ddpm_jax.evaluation.fid import extractors
from ddpm_jax.evaluation.moments import Moments
from ddpm_jax.models import inception
from ddpm_jax.models.convert import diffusers, files, improved_diffusion, schedulers
from ddpm_jax.runtime import cache
from ddpm_jax.training import checkpoints, loop, model
from ddpm_jax.training.config import Config

REFUSED = "a bucket cannot be read here: copy it to a disk"
EMPTY = Moments(*np.zeros((3, 2, 2)), np.zeros(2), 0.5, None, *np.zeros((3, 2, 1, 1, 1)), ((1.0,),))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder; commands run in an empty one beside it."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_this_machines(kind: type, home: Path) -> None:
    expected = {
        "~/runs/a": home / "runs" / "a",
        "~": home,
        "a/~/b": Path("a/~/b"),
        "/a/b": Path("/a/b"),
        "builtin:digits": Path("builtin:digits"),
        "C:/runs": Path("C:/runs"),
        "a b/c:d/e": Path("a b/c:d/e"),
    }
    assert {name: paths.local(kind(name)) for name in expected} == expected
    assert not any(paths.address(kind(name)) for name in expected)


@pytest.mark.parametrize("name", ["gs://b/run", "s3://b/a.npz", "hdfs://host:8020/run", "GS://b", "https://host/a.npz"])
@pytest.mark.parametrize("kind", [str, Path])
def test_the_address_of_a_bucket_is_told_whole(kind: type, name: str) -> None:
    with pytest.raises(ValueError, match=REFUSED) as refused:
        paths.local(kind(name))
    assert str(refused.value).startswith(f"{name}: ")


def test_a_user_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match=r"^~nobody-here/runs: there is no user 'nobody-here': give the whole path"):
        paths.local("~nobody-here/runs")


def save_and_load(path: Any) -> None:
    moments.save(path, EMPTY, "it", Rules())
    np.testing.assert_array_equal(moments.load(path, "it", Rules()).error, EMPTY.error)


def write_and_read_json(path: Any) -> None:
    files.write_json(path, {"a": 1})
    assert files.read_json(path) == {"a": 1}


def write_and_read_tensors(path: Any) -> None:
    files.write_tensors(path, {"a": np.float32([1, 2])})
    assert list(files.read_tensors(path)) == ["a"] and len(files.sha256(path)) == 64


def write_and_read_scheduler(path: Any) -> None:
    schedulers.save(path, schedulers.write(schedulers.Scheduler(T=100)))
    assert schedulers.load(path).T == 100  # type: ignore[union-attr]


def write_and_read_images(path: Any) -> None:
    images = np.arange(30, dtype=np.uint8).reshape(30, 1, 1, 1).repeat(8, 1).repeat(8, 2)
    cache.write_whole(path, lambda file: np.savez(file, images=images))
    assert image_files.read(path, Framing()).n == 30 and datasets.load(path).shape == (8, 8, 1)


def write_and_read_samples(path: Any) -> None:
    cache.write_whole(path, lambda file: np.savez(file, arr_0=np.zeros((2, 8, 8, 3), np.uint8)))
    assert extractors.read_samples(path)[0].shape == (2, 8, 8, 3)


def checkpoints_of(path: Any) -> None:
    assert checkpoints.folder_of(path) == str(paths.local(path) / "checkpoints")
    assert checkpoints.steps(checkpoints.folder_of(path)) == []


TAKES: dict[str, Callable[[Any], None]] = {
    "moments.npz": save_and_load,
    "a.json": write_and_read_json,
    "a.safetensors": write_and_read_tensors,
    "folder": write_and_read_scheduler,
    "images.NPZ": write_and_read_images,
    "samples.npz": write_and_read_samples,
    "run": checkpoints_of,
    "results.json": lambda path: cache.write_json(path, {"a": 1}),
    "parameters.npz": lambda path: model.pack(path, {}, {"a": np.float32([1])}),
    "workdir": cache.check_writable,
}


@pytest.mark.parametrize("name", TAKES)
def test_text_and_paths_are_taken_from_the_users_folder(name: str, home: Path) -> None:
    TAKES[name](f"~/{name}")
    TAKES[name](Path("~") / name)
    TAKES[name](home / name)
    assert not [*Path().iterdir()]


READS: dict[str, Callable[[Any], Any]] = {
    **TAKES,
    "load": model.load,
    "read": model.read,
    "fit": lambda path: loop.fit(Config(), path),
    "inception": inception.load,
    "of_inception": extractors.of_inception,
    "diffusers": diffusers.load,
    "improved_diffusion": lambda path: improved_diffusion.load("a.pt", path),
    "data": lambda path: datasets.load(f"{path}"),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("bucket", ["gs://b/it.npz", "hdfs://b/it"])
def test_a_bucket_is_refused_in_one_line_and_nothing_is_made(name: str, bucket: str) -> None:
    for path in (bucket, Path(bucket)) if name != "data" else (bucket,):
        with pytest.raises(ValueError, match=REFUSED) as refused:
            READS[name](path)
        assert bucket in str(refused.value) and "\n" not in str(refused.value)
    assert not [*Path().iterdir()]


KINDS = (arguments.Train, arguments.Sample, arguments.TrainHeads, arguments.Ablation, arguments.Fid)
KINDS += (arguments.ImportWeights, arguments.ExportWeights)  # type: ignore[assignment]
NEEDED = {
    arguments.Fid: {"samples": "a.npz", "reference": "b.npz", "inception": "c.pth"},
    arguments.ImportWeights: {"weights": "a", "data": "digits"},
}
OPTIONS = [(kind, field.name) for kind in KINDS for field in dataclasses.fields(kind) if "Path" in str(field.type)]


def given(kind: type, option: str, path: str) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in {**NEEDED.get(kind, {}), option: path}.items()]


@pytest.mark.parametrize(("kind", "option"), OPTIONS)
def test_every_path_of_a_command_line_is_local(
    kind: type, option: str, home: Path, capsys: pytest.CaptureFixture
) -> None:
    seen: list[Any] = []
    command_line(kind, seen.append, argv=given(kind, option, "~/a"))
    assert getattr(seen.pop(), option) == home / "a"
    for path, said in (("s3://b/a", f"s3://b/a: {REFUSED}"), ("~nobody-here/a", "there is no user 'nobody-here'")):
        with pytest.raises(SystemExit) as stop:
            command_line(kind, seen.append, argv=given(kind, option, path))
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not seen and not [*Path().iterdir()]


def test_checkpoints_may_lie_in_a_bucket_of_a_kind_that_is_known(home: Path) -> None:
    for name in ("gs://b/run", "s3://b/run"):
        assert str(checkpoints.absolute(name)) == name and checkpoints.in_bucket(name)
    assert str(checkpoints.absolute("~/run")) == str(home / "run")
    assert str(checkpoints.absolute("run")) == str(Path("run").absolute())
    for name in ("hdfs://b/run", "ftp://b/run"):
        with pytest.raises(ValueError, match=f"^{name}: a bucket of this kind cannot be read here: give one of gs://"):
            checkpoints.steps(name)


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("gs://b/tfds", f"TFDS_DATA_DIR = gs://b/tfds: {REFUSED}"),
        ("s3://b", f"TFDS_DATA_DIR = s3://b: {REFUSED}"),
        ("~/file", "file: it is a file, give the folder of prepared sets"),
    ],
)
def test_the_folder_of_tfds_is_one(folder: str, said: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", folder)
    for name in ("mnist", "lsun/bedroom"):
        with pytest.raises(ValueError, match=r"^TFDS_DATA_DIR = ") as refused:
            datasets.load(name)
        assert said in str(refused.value) and "\n" not in str(refused.value)
    monkeypatch.setenv("TFDS_DATA_DIR", "~/sets")
    assert tfds.root() == home / "sets"


@pytest.mark.parametrize("name", ["photos", "runs/photos", "notes.txt"])
def test_a_name_that_lies_here_is_told_to_be_written_as_a_path(name: str) -> None:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.touch() if path.suffix else path.mkdir()
    with pytest.raises(
        ValueError, match=f"^unknown data set '{name}': to read what is called so here, write ./{name}$"
    ):
        datasets.load(name)
