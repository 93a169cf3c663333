"""Batches are a function of seed and step; hosts share them; read ahead, they are the same."""

import threading
from itertools import islice

import numpy as np
import pytest

from ddpm_jax.data import loader
from ddpm_jax.data.sources.records import OnDemand, Records


def numbered(n: int) -> np.ndarray:
    """n images of one pixel, their own numbers."""
    return np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)


def on_demand(n: int) -> OnDemand:
    return OnDemand(Records(n, (1, 1, 1), list, lambda number: numbered(n)[number]), np.arange(n))


def test_an_epoch_visits_every_image_once_and_the_next_in_another_order() -> None:
    batches = loader.batches(numbered(12), 4, seed=0)
    epochs = [np.concatenate([batches[3 * epoch + i] for i in range(3)]).ravel() for epoch in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert (epochs[0] != epochs[1]).any()


def test_a_batch_is_a_function_of_step_and_seed() -> None:
    images = numbered(50)
    np.testing.assert_array_equal(loader.batches(images, 8, 1)[17], loader.batches(images, 8, 1)[17])
    assert (loader.batches(images, 8, 1)[17] != loader.batches(images, 8, 2)[17]).any()


def test_seeds_share_no_epoch() -> None:
    orders = {loader._order(50, seed, epoch).tobytes() for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@pytest.mark.parametrize(("n", "batch"), [(12, 4), (12, 5), (7, 7), (7, 10), (3, 20)])
def test_batches_run_across_the_ends_of_epochs_and_drop_nothing(n: int, batch: int) -> None:
    batches = loader.batches(numbered(n), batch, seed=3)
    row = np.concatenate([batches[step] for step in range(4 * n)]).ravel()
    assert len(row) == 4 * n * batch
    for epoch in range(4 * batch):
        assert sorted(row[epoch * n : (epoch + 1) * n]) == list(range(n))


@pytest.mark.parametrize("hosts", [1, 2, 3, 8])
@pytest.mark.parametrize(("n", "batch"), [(48, 24), (50, 13), (11, 8), (5, 17)])
def test_hosts_take_disjoint_shares_that_are_together_the_batch(hosts: int, n: int, batch: int) -> None:
    images = numbered(n)
    whole = loader.batches(images, batch, seed=2)
    shares = [loader.batches(images, batch, 2, (host, hosts)) for host in range(hosts)]
    for step in (0, 1, 2, 3, 100):
        parts = [share[step] for share in shares]
        np.testing.assert_array_equal(np.concatenate(parts), whole[step])
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    row = np.concatenate([share[step] for step in range(n) for share in shares]).ravel()
    assert (np.bincount(row) == batch).all()


def test_a_late_step_needs_no_earlier_one() -> None:
    assert loader.batches(numbered(9), 4, 0)[10**12].shape == (4, 1, 1, 1)


@pytest.mark.parametrize("images", [numbered(37), on_demand(37)], ids=["memory", "on demand"])
@pytest.mark.parametrize("first", [0, 1, 23])
@pytest.mark.parametrize("share", [(0, 1), (1, 3)])
def test_a_stream_is_the_batches_from_any_step(images, first: int, share: tuple[int, int]) -> None:
    batches = loader.batches(images, 8, 5, share)
    in_memory = loader.batches(numbered(37), 8, 5, share)
    for step, batch in enumerate(islice(loader.stream(batches, first), 30), first):
        np.testing.assert_array_equal(batch, in_memory[step])
        np.testing.assert_array_equal(batches[step], in_memory[step])


def readers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "grain-prefetch" in thread.name}


def test_a_closed_stream_leaves_no_thread() -> None:
    before = readers()
    reading = loader.stream(loader.batches(on_demand(37), 8, 0))
    next(reading)
    begun = readers() - before
    assert begun
    reading.close()
    for thread in begun:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in begun)


def test_a_stream_raises_what_decoding_raises() -> None:
    def image(number: int) -> np.ndarray:
        raise ValueError(f"image {number} is damaged")

    broken = OnDemand(Records(9, (1, 1, 1), list, image), np.arange(9))
    with pytest.raises(ValueError, match="is damaged"):
        next(loader.stream(loader.batches(broken, 4, 0)))


@pytest.mark.parametrize(
    ("n", "batch", "share", "message"),
    [
        (4, 0, (0, 1), "batch = 0: it is at least 1"),
        (4, 2, (0, 3), "batch = 2: it is at least 3, one image a host"),
        (4, 2, (2, 2), r"share = \(2, 2\): give host i of n"),
        (4, 2, (-1, 2), r"share = \(-1, 2\)"),
        (0, 2, (0, 1), "no images"),
    ],
)
def test_wrong_values_are_refused(n: int, batch: int, share: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader.batches(numbered(n), batch, 0, share)
