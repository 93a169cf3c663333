"""Three disjoint parts of a data set, always the same, and what evaluation sees of the first."""

import numpy as np
import pytest

from ddpm_jax.data import datasets
from ddpm_jax.data.datasets import DataSet, Large, Split
from ddpm_jax.data.sources import records
from ddpm_jax.data.sources.records import OnDemand, Records


def lying(n: int, labelled: bool = True) -> Records:
    """n images of one pixel row that holds their number; it is their label, too."""
    label = (lambda number: number) if labelled else None
    return Records(n, (1, 2, 1), list, lambda i: np.array([[[i // 256], [i % 256]]], np.uint8), label)


def numbers(images) -> np.ndarray:
    rows = np.asarray(images[:], int)
    return rows[:, 0, 0, 0] * 256 + rows[:, 0, 1, 0]


def divided(n: int, n_test: int | None = 9, labelled: bool = True) -> DataSet:
    test = None if n_test is None else lying(n_test, labelled)
    return datasets.divide("it", "images", True, lying(n, labelled), test)


@pytest.mark.parametrize(("n", "held"), [(20, 2), (59, 5), (9_999, 999), (10_000, 1000), (30_000, 1000)])
def test_a_tenth_at_most_is_held_out_for_calibration(n: int, held: int) -> None:
    found = divided(n)
    assert [len(part.images) for part in (found.train, found.calibration, found.test)] == [n - held, held, 9]
    order = np.random.RandomState(0).permutation(n)
    np.testing.assert_array_equal(numbers(found.train.images), order[:-held])
    np.testing.assert_array_equal(numbers(found.calibration.images), order[-held:])
    np.testing.assert_array_equal(numbers(found.test.images), np.arange(9))
    for part in (found.train, found.calibration, found.test):
        np.testing.assert_array_equal(numbers(part.images), part.labels)
    assert (found.name, found.description, found.levels, found.flip) == ("it", "images of 1 x 2 pixels", 256, True)


def test_without_a_test_split_as_many_images_again_are_held_out() -> None:
    found = divided(50, None)
    seen = [numbers(part.images) for part in (found.train, found.calibration, found.test)]
    assert [len(part) for part in seen] == [40, 5, 5]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(50))
    np.testing.assert_array_equal(seen[1], numbers(divided(50).calibration.images))
    assert found.description.endswith(", tested on 5 training images that are not learned")


def test_there_may_be_no_labels() -> None:
    found = divided(50, labelled=False)
    assert [part.labels for part in (found.train, found.calibration, found.test)] == [None] * 3


@pytest.mark.parametrize("pictures", [13, 40, 59])
def test_copies_lie_in_one_part(pictures: int) -> None:
    """Of sixty images as many are different as said."""
    copies = np.arange(60) % pictures
    found = datasets.divide("it", "images", False, lying(60)._replace(copies=copies), None)
    seen = [numbers(part.images) for part in (found.train, found.calibration, found.test)]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(60))
    kinds = [{*(part % pictures)} for part in seen]
    assert not kinds[0] & kinds[1] and not kinds[0] & kinds[2] and not kinds[1] & kinds[2]
    assert all(6 <= len(part) < 6 + 60 / pictures for part in seen[1:])
    assert f"tested on {len(seen[2])} training images" in found.description


def test_without_copies_the_parts_are_as_before() -> None:
    plain = datasets.divide("it", "images", False, lying(60), None)
    found = datasets.divide("it", "images", False, lying(60)._replace(copies=np.arange(60)), None)
    for part in datasets.PARTS:
        np.testing.assert_array_equal(getattr(found, part).images, getattr(plain, part).images)


def test_one_picture_again_and_again_is_refused() -> None:
    copies = np.zeros(60, int)
    with pytest.raises(ValueError, match="it has too few different images"):
        datasets.divide("it", "images", False, lying(60)._replace(copies=copies), None)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="it has 19 training images: give at least 20"):
        divided(19)


def test_only_the_training_images_may_be_too_many_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = divided(100, 50)
    monkeypatch.setattr(records, "IN_MEMORY", 90 * 2)
    assert isinstance(divided(100, 50).train, Split)
    monkeypatch.setattr(records, "IN_MEMORY", 8 * 2)
    found = divided(100, 50)
    assert isinstance(found.train, Large) and isinstance(found.train.images, OnDemand)
    assert [len(part.images) for part in (found.train, found.calibration, found.test)] == [92, 8, 8]
    np.testing.assert_array_equal(found.train.images[:8], whole.train.images[:8])
    np.testing.assert_array_equal(found.test.images, whole.test.images[:8])
    np.testing.assert_array_equal(found.test.labels, whole.test.labels[:8])
    assert found.description.endswith(", tested on the first 8 of 50 images")
    assert found.shape == (1, 2, 1)


def test_evaluation_sees_the_first_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = divided(100)
    assert datasets.seen(whole.train) is whole.train
    monkeypatch.setattr(datasets, "SEEN", 7 * 2)
    some = datasets.seen(whole.train)
    np.testing.assert_array_equal(some.images, whole.train.images[:7])
    np.testing.assert_array_equal(some.labels, whole.train.labels[:7])
    assert datasets.seen(divided(100, labelled=False).train).labels is None
    monkeypatch.setattr(records, "IN_MEMORY", 10 * 2)
    found = divided(100)
    assert isinstance(found.train, Large)
    decoded = datasets.seen(found.train)
    np.testing.assert_array_equal(decoded.images, some.images)
    np.testing.assert_array_equal(decoded.labels, some.labels)
    assert datasets.seen(found.train).images is decoded.images
