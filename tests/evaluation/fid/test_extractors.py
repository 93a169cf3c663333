"""References of data sets and of other projects' files give the same distances, and what is none is refused."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.data import datasets
from ddpm_jax.evaluation.fid import extractors, frechet
from ddpm_jax.evaluation.fid.extractors import FeatureExtractor
from ddpm_jax.models import inception
from ddpm_jax.runtime.cache import Arrays

SIZE = 4


def first_pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)[:, :SIZE].astype(float) / 7


EXTRACTOR = FeatureExtractor("pixels", "as they are", SIZE, first_pixels)
IMAGES = np.random.default_rng(0).integers(0, 256, (50, 2, 2, 3), np.uint8)
FITS = frechet.gaussian_fit(first_pixels(IMAGES))


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": FITS.mean, "sigma": FITS.cov},  # pytorch-fid, EDM
        {"mu": FITS.mean, "sigma": FITS.cov, "mu_s": np.zeros(2), "arr_0": IMAGES},  # guided-diffusion
        {"pool_3": first_pixels(IMAGES)},  # score_sde
        {"arr_0": IMAGES},
    ],
)
def test_every_common_file_gives_the_same_reference(tmp_path: Path, arrays: dict) -> None:
    found = extractors.of_file(write(tmp_path / "reference.npz", **arrays), EXTRACTOR)
    np.testing.assert_allclose(found.target.fit.mean, FITS.mean)
    np.testing.assert_allclose(found.target.fit.cov, FITS.cov)
    assert re.fullmatch(r"reference\.npz, [0-9a-f]{12}", found.name)


def test_another_file_of_the_same_name_is_called_otherwise(tmp_path: Path) -> None:
    names = [
        extractors.of_file(write(tmp_path / "a.npz", mu=FITS.mean + i, sigma=FITS.cov), EXTRACTOR).name
        for i in range(2)
    ]
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, r"mu \(3,\) and sigma \(3, 3\): the network has 4 features"),
        ({"mu": np.zeros(4), "sigma": np.eye(3)}, r"\(4,\) and \(4, 4\) are wanted"),
        ({"mu": np.zeros(4), "sigma": np.triu(np.ones((4, 4)))}, "a sigma that is no covariance"),
        ({"mu": np.full(4, np.nan), "sigma": np.eye(4)}, "not finite"),
        ({"mu": np.zeros(4), "sigma": np.full((4, 4), np.inf)}, "not finite"),
        ({"pool_3": np.zeros((9, 3))}, r"pool_3 \(9, 3\): \(n, 4\) with two or more"),
        ({"arr_0": np.zeros((9, 2, 2, 3))}, "arr_0 of float64"),
        ({"arr_0": IMAGES[:1]}, "two or more images"),
        ({"mu": np.zeros(4)}, "holds mu: mu and sigma, pool_3 or arr_0 are wanted"),
    ],
)
def test_what_is_no_reference_is_one_line(tmp_path: Path, arrays: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        extractors.of_file(write(tmp_path / "reference.npz", **arrays), EXTRACTOR)
    assert "\n" not in str(refused.value) and "reference.npz" in str(refused.value)


def test_a_file_that_is_damaged_missing_or_a_pickle_is_one_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.npz", mu=FITS.mean, sigma=FITS.cov).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "pickle.npz", mu=np.array([{}], dtype=object), sigma=FITS.cov)
    np.save(tmp_path / "array.npy", FITS.cov)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    np.savez_compressed(tmp_path / "zeros.npz", arr_0=np.zeros((99, 9, 9, 3), np.uint8))
    flipped = bytearray((tmp_path / "zeros.npz").read_bytes())
    flipped[60:70] = bytes(10)
    (tmp_path / "flipped.npz").write_bytes(flipped)
    for name in ("cut.npz", "pickle.npz", "none.npz", "array.npz", "flipped.npz"):
        with pytest.raises(ValueError, match=f"{name}(: no such file| cannot be read)"):
            extractors.of_file(tmp_path / name, EXTRACTOR)


def test_the_training_split_is_all_that_was_not_held_out_for_tests(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (60, 2, 2, 3), np.uint8)
    found = datasets.load(str(write(tmp_path / "images.npz", arr_0=images)))
    learned = np.concatenate([found.train.images[:], found.calibration.images])
    reference = extractors.of_data(found, EXTRACTOR)
    np.testing.assert_allclose(reference.target.fit.cov, np.cov(first_pixels(learned).T))
    assert len(learned) == 60 - len(found.test.images)
    test = extractors.of_data(found, EXTRACTOR, "test")
    np.testing.assert_allclose(test.target.fit.mean, first_pixels(found.test.images).mean(axis=0))
    assert test.name != reference.name
    with pytest.raises(ValueError, match="unknown split 'all': choose train or test"):
        extractors.of_data(found, EXTRACTOR, "all")


def test_inception_is_known_by_its_files_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "load", lambda path: {})
    (tmp_path / "weights.pth").write_bytes(b"weights")
    known = hashlib.sha256(b"weights").hexdigest()
    found = extractors.of_inception(tmp_path / "weights.pth", "tensorflow")
    assert found.name == f"Inception, sha256 {known[:16]}" and not found.usual
    assert found.preparation == "tensorflow" and found.size == 2048
    monkeypatch.setattr(inception, "CHECKSUM", known[:8])
    assert extractors.of_inception(tmp_path / "weights.pth").usual


def test_statistics_are_kept_under_the_images_and_the_extractor() -> None:
    stored: dict[str, Arrays] = {}
    seen = []

    def keep(kind, inputs, compute):  # type: ignore[no-untyped-def]
        name = str((kind, np.asarray(inputs["images"]).tobytes(), inputs["extractor"]))
        seen.append(name not in stored)
        return stored.setdefault(name, stored.get(name) or compute())

    for images, by in (
        (IMAGES, EXTRACTOR),
        (IMAGES, EXTRACTOR),
        (IMAGES[1:], EXTRACTOR),
        (IMAGES, EXTRACTOR._replace(name="b")),
    ):
        found = extractors.summed(by, images, keep)
        np.testing.assert_allclose(found.mean, first_pixels(images).mean(axis=0))
    assert seen == [True, False, True, True]
