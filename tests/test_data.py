"""The data: real digits, fixed disjoint splits, batches that are a function of the step."""

import numpy as np
import pytest
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
