"""The Inception of FID against pytorch-fid's own features, and what is not it."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.evaluation.fid import frechet
from ddpm_jax.models import inception
from tests import golden


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return golden.weights(golden.HERE / "inception_weights.json")


@pytest.fixture(scope="module")
def known() -> dict[str, np.ndarray]:
    with np.load(golden.HERE / "inception.npz") as found:
        return dict(found)


def test_features_are_those_of_pytorch_fid(arrays: dict[str, np.ndarray], known: dict[str, np.ndarray]) -> None:
    features = inception.features(inception.folded(arrays, "seeded"), known["images"])
    error = np.linalg.norm(features - known["features"], axis=1) / np.linalg.norm(known["features"], axis=1)
    assert features.shape == (6, inception.FEATURES)
    assert error.max() < 1e-4, "where this was meant, raise evaluation.fid.extractors.VERSION"


def test_the_frechet_distance_is_that_of_pytorch_fid(known: dict[str, np.ndarray]) -> None:
    found = frechet.frechet_distance(
        *(part for side in "ab" for part in frechet.gaussian_fit(known[f"frechet_{side}"]))
    )
    assert found == pytest.approx(float(known["frechet"]), rel=1e-6)


@pytest.mark.parametrize("side", [8, 32, 200])
def test_images_are_resized_between_the_nearest_pixels_and_centred(side: int) -> None:
    """A ramp stays one, at the places where each rule puts the pixels."""
    ramp = np.broadcast_to(np.arange(side, dtype=np.uint8)[None, :, None, None], (1, side, side, 1))
    areas, points = (
        np.asarray(inception.prepared(jnp.asarray(ramp), rule))[0, :, 0, 2] for rule in ("pytorch-fid", "tensorflow")
    )
    place = np.clip((np.arange(299) + 0.5) * side / 299 - 0.5, 0, side - 1)
    np.testing.assert_allclose(areas, 2 * place / 255 - 1, rtol=1e-5, atol=1e-5)
    place = np.minimum(np.arange(299) * side / 299, side - 1)
    np.testing.assert_allclose(points, (place - 128) / 128, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="unknown preparation 'bicubic': choose one of pytorch-fid, tensorflow"):
        inception.prepared(jnp.asarray(ramp), "bicubic")


@pytest.mark.slow
def test_grey_images_are_the_same_in_three_channels(arrays: dict[str, np.ndarray]) -> None:
    params = inception.folded(arrays, "seeded")
    grey = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    found = [inception.features(params, images) for images in (grey, np.repeat(grey, 3, axis=-1))]
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_logits_are_the_last_layer_without_its_bias(arrays: dict[str, np.ndarray]) -> None:
    draw = np.random.default_rng(0)
    weight, features = draw.standard_normal((1008, 2048)), draw.standard_normal((3, 2048))
    last = {"fc.weight": weight.astype(np.float32), "fc.bias": np.ones(1008, np.float32)}
    params = inception.folded({**arrays, **last}, "seeded")
    np.testing.assert_allclose(inception.logits(params, features), features @ weight.T, rtol=1e-4, atol=1e-4)
    less = {name: array for name, array in arrays.items() if name != "fc.weight"}
    assert inception.logits(inception.folded(less, "seeded"), features) is None
    images = draw.integers(0, 256, (1, 8, 8, 3), np.uint8)
    np.testing.assert_allclose(inception.extract(params, images), inception.features(params, images), rtol=1e-5)


def test_another_file_is_refused(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; give the path of pt_inception-2015"):
        inception.load(tmp_path / "inception.pth")
    less = {name: array for name, array in arrays.items() if name != "Mixed_7c.branch1x1.bn.bias"}
    with pytest.raises(ValueError, match=r"Mixed_7c.branch1x1.bn.bias \(320,\) is missing"):
        inception.folded(less, "x.pth")
    with pytest.raises(ValueError, match=r"Conv2d_1a_3x3.conv.weight \(32, 3, 3, 3\) is of shape \(32, 1, 3, 3\)"):
        inception.folded({**arrays, "Conv2d_1a_3x3.conv.weight": np.zeros((32, 1, 3, 3), np.float32)}, "x.pth")
