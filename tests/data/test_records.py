"""Stored images: decoded at once or on demand, they are the same images in the same order."""

import threading

import numpy as np
import pytest

from ddpm_jax.data.sources import records
from ddpm_jax.data.sources.records import ImageArray, OnDemand, Records
from tests.tfds_folder import made_up

N = 50
PIXELS = made_up(N, 4, 4, 3)


def lying(threads: int = 1, labelled: bool = True) -> Records:
    """Records that are their own numbers; the label is the number squared."""
    label = (lambda number: number**2) if labelled else None
    return Records(N, (4, 4, 3), list, lambda number: PIXELS[number], label, threads)


@pytest.mark.parametrize(
    "index", [0, 7, -1, np.int64(3), slice(None), slice(5, 20, 3), slice(None, None, -7), [4, 4, 1]]
)
def test_images_on_demand_are_indexed_like_an_array(index) -> None:
    order = np.random.default_rng(0).permutation(N)
    images, index = OnDemand(lying(), order), np.array(index) if isinstance(index, list) else index
    np.testing.assert_array_equal(images[index], PIXELS[order][index])
    assert images[index].dtype == np.uint8


def test_images_on_demand_look_like_an_array() -> None:
    images = OnDemand(lying(), np.arange(20))
    assert (images.shape, images.dtype, len(images)) == ((20, 4, 4, 3), np.uint8, 20)
    assert isinstance(images, ImageArray) and isinstance(PIXELS, ImageArray)
    np.testing.assert_array_equal(np.asarray(images), PIXELS[:20])
    with pytest.raises(IndexError):
        images[20]


def test_more_than_memory_holds_is_not_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = OnDemand(lying(), np.arange(N))
    monkeypatch.setattr(records, "IN_MEMORY", 20 * 48)
    assert len(images[:20]) == 20
    for look in (lambda: images[:21], lambda: np.asarray(images)):
        with pytest.raises(
            ValueError, match=r"images of 4 x 4 x 3 bytes are \d+ bytes, more than the 960 .*take fewer"
        ):
            look()


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("labelled", [True, False])
def test_decoded_images_are_in_the_order_asked_for(
    threads: int, labelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "BLOCK", 7)
    order = np.random.default_rng(1).permutation(N)[:40]
    images, labels = records.decoded(lying(threads, labelled), order, "it")
    np.testing.assert_array_equal(images, PIXELS[order])
    if labelled:
        np.testing.assert_array_equal(labels, order**2)
    else:
        assert labels is None


def test_they_are_read_in_the_order_in_which_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BLOCK", 7)
    read: list[int] = []

    def fetch(numbers: list[int]) -> list[int]:
        read.extend(numbers)
        return numbers

    records.decoded(lying()._replace(fetch=fetch), np.random.default_rng(1).permutation(N), "it")
    assert read == list(range(N))


def test_threads_decode_together() -> None:
    """Each of two images waits until the other has begun."""
    both = threading.Barrier(2, timeout=30)

    def image(number: int) -> np.ndarray:
        both.wait()
        return PIXELS[number]

    images, _ = records.decoded(lying(threads=2)._replace(image=image), np.arange(2), "it")
    np.testing.assert_array_equal(images, PIXELS[:2])
