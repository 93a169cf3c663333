"""The FID of a file of samples by command: its figures against NumPy, its stamp, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from ddpm_jax.data import datasets
from ddpm_jax.data.datasets import DataSet, Split
from ddpm_jax.evaluation.fid import extractors
from ddpm_jax.evaluation.fid.extractors import FeatureExtractor
from tests.cli.conftest import run

SIZE = 5
DRAW = np.random.default_rng(0)
SAMPLES, OTHERS = (DRAW.integers(0, top, (n, 4, 4, 3), np.uint8) for top, n in ((256, 60), (200, 80)))


def pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)[:, :SIZE].astype(float) / 255


@pytest.fixture(autouse=True)
def small_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lambda path, preparation, layout=None: FeatureExtractor("pixels", preparation, SIZE, pixels)  # noqa: E731
    monkeypatch.setattr(extractors, "of_inception", made)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    np.savez(tmp_path / "samples.npz", arr_0=SAMPLES)
    np.savez(tmp_path / "statistics.npz", mu=pixels(OTHERS).mean(axis=0), sigma=np.cov(pixels(OTHERS).T))
    return str(tmp_path / "samples.npz"), str(tmp_path / "statistics.npz")


def measure(samples: str, reference: str, workdir: Path, *more: str) -> dict:
    of_files = ("--samples", samples, "--reference", reference, "--inception", "x.pth")
    run("fid", *of_files, "--workdir", str(workdir), *more)
    return json.loads((workdir / "fid.json").read_text())


def plain(a: np.ndarray, b: np.ndarray) -> float:
    """Heusel et al. 2017, equation 6, by SciPy's square root of a matrix."""
    (m, s), (mean, cov) = ((pixels(side).mean(axis=0), np.cov(pixels(side).T)) for side in (a, b))
    return float(((m - mean) ** 2).sum() + np.trace(s + cov - 2 * scipy.linalg.sqrtm(s @ cov).real))


def test_the_fid_is_the_plain_one_and_stands_with_its_stamp(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = measure(*files, tmp_path / "run", "--fid-protocol", "edm")
    assert found["figures"]["FID"]["value"] == pytest.approx(plain(SAMPLES, OTHERS), rel=1e-6)
    told = found["measure"]
    assert (told["features"], told["preparation"], told["rounding"], told["n"]) == (
        "pixels",
        "tensorflow",
        "as in the file",
        60,
    )
    assert told["reference"].startswith("statistics.npz, ")
    said = capsys.readouterr()
    assert "N = 60 is less than 10,000" in said.err
    assert "warning: samples: 60, and 50000 in edm\n" in said.err
    assert "warning: rounding of samples: as in the file, and nearest in edm\n" in said.err
    assert '"preparation": "tensorflow"' in said.out


def test_an_inception_score_where_there_are_classes(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits that know nothing: a score of 1."""
    nothing = FeatureExtractor("pixels", "as they are", SIZE, pixels, lambda features: np.zeros((len(features), 7)))
    monkeypatch.setattr(extractors, "of_inception", lambda path, preparation: nothing)
    found = measure(*files, tmp_path / "run")["figures"]["Inception Score"]
    assert found["value"] == pytest.approx(1) and found["standard_error"] == pytest.approx(0, abs=1e-9)


def test_fewer_samples_are_the_first(files: tuple[str, str], tmp_path: Path) -> None:
    found = measure(*files, tmp_path / "run", "--n", "40")
    assert found["figures"]["FID"]["value"] == pytest.approx(plain(SAMPLES[:40], OTHERS), rel=1e-6)


def test_images_of_a_data_set_give_more_figures(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = (Split(part, None) for part in (OTHERS[:50], OTHERS[50:], SAMPLES))
    pictures = DataSet("pictures", "pictures", 256, False, *parts)
    monkeypatch.setitem(datasets.DATASETS, "pictures", lambda image_size=None: pictures)
    found = measure(files[0], "pictures", tmp_path / "run", "--against-images", "50")
    assert found["figures"]["FID"]["value"] == pytest.approx(plain(SAMPLES, OTHERS), rel=1e-6)
    assert found["measure"]["reference"].startswith("pictures, train images, ")
    assert set(found["figures"]) == {"FID", "FID at infinity", "KID", "precision", "recall"}
    assert found["figures"]["KID"]["standard_error"] > 0 and 0 <= found["figures"]["recall"]["value"] <= 1
    test = measure(files[0], "pictures", tmp_path / "run", "--split", "test")
    assert test["figures"]["FID"]["value"] == pytest.approx(0, abs=1e-9)
    with pytest.raises(SystemExit):
        measure(files[0], "pictures", tmp_path / "run", "--against-images", "51")
    with pytest.raises(SystemExit):
        measure(files[0], "pictures", tmp_path / "run", "--against-images", "-5")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--n", "61"], "n = 61"),
        (["--n", "1"], "n = 1"),
        (["--split", "test"], "is a file of statistics"),
        (["--fid-protocol", "clean"], "unknown FID protocol 'clean'"),
        (["--reference", "digits"], "digits has 17 grey levels: Inception reads 256"),
        (["--samples", "none.npz"], "none.npz: no such file"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        measure(*files, tmp_path / "run", *more)
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last
