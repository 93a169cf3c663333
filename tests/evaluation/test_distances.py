"""The Frechet distance of each seed, and differences by seed."""

import numpy as np
import pytest

from ddpm_jax.evaluation import samples
from ddpm_jax.evaluation.fid import extractors, frechet
from ddpm_jax.evaluation.fid.extractors import FeatureExtractor

FLAT = FeatureExtractor("pixels", "as they are", 4, lambda images: images.reshape(len(images), -1).astype(float))


def test_differences_to_isotropic_are_paired_by_seed() -> None:
    draw = np.random.default_rng(1)
    cells = [(name, "even", 4) for name in ("isotropic", "large")]
    images = {cell: draw.integers(0, 17, (3, 50, 2, 2, 1)).astype(np.uint8) for cell in cells}
    reference = extractors.of_images("some", draw.integers(0, 17, (60, 2, 2, 1)).astype(np.uint8), FLAT)
    single, means = samples.distances(images, FLAT, reference)
    frechet = np.array([row["frechet"] for row in single]).reshape(2, 3)
    difference = frechet[1] - frechet[0]
    assert means[1]["minus_isotropic"] == pytest.approx(difference.mean())
    assert means[1]["minus_isotropic_std"] == pytest.approx(difference.std(ddof=1))


def test_distances_are_those_of_each_seed() -> None:
    draw = np.random.default_rng(0)
    images = {("large", "even", 4): draw.integers(0, 17, (3, 50, 2, 2, 1)).astype(np.uint8)}
    reference = draw.integers(0, 17, (60, 2, 2, 1)).astype(np.uint8)
    single, means = samples.distances(images, FLAT, extractors.of_images("some", reference, FLAT))
    target = frechet.gaussian_fit(FLAT.features(reference))
    fits = [frechet.gaussian_fit(FLAT.features(seed)) for seed in images["large", "even", 4]]
    wanted = [frechet.frechet_distance(*fit, *target) for fit in fits]
    assert [row["frechet"] for row in single] == pytest.approx(wanted)
    assert means[0]["mean"] == pytest.approx(np.mean(wanted))
    assert means[0]["std"] == pytest.approx(np.std(wanted, ddof=1))
    assert (means[0]["seeds"], means[0]["images"]) == (3, 50)
