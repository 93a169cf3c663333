"""Images that are stored one by one: decoded into memory at once, or whenever they are indexed."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

IN_MEMORY = 2**31  # bytes of decoded images of a split that are kept; more are decoded whenever they are looked at
BLOCK = 1000  # records read at a time


@runtime_checkable
class ImageArray(Protocol):
    """What an array of images and `OnDemand` have in common: indexing with slices or integers gives a NumPy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C)."""

    @property
    def dtype(self) -> Any:
        """uint8."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class Records(NamedTuple):
    """Images that are stored one by one.

    Attributes:
      n: how many.
      shape: (H, W, C) of a decoded image.
      fetch: numbers of records -> these records.
      image: a record -> its image (H, W, C).
      label: a record -> its class; None where there are none.
      threads: that decode a split; one where images are so small that taking turns costs more.
      copies: (n,) for every record the first with the same contents; None of official sets, which stay as they are.
      note: what is remarkable about what was taken, for the user.
    """

    n: int
    shape: tuple[int, ...]
    fetch: Callable[[list[int]], Sequence[Any]]
    image: Callable[[Any], UInt8[np.ndarray, "h w c"]]
    label: Callable[[Any], int] | None = None
    threads: int = 1
    copies: Int[np.ndarray, " n"] | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class OnDemand:
    """Images that are decoded when they are indexed, by one integer, a slice or an array of integers.

    Attributes:
      records: where they lie.
      numbers: which records, in the order of the images.
    """

    records: Records
    numbers: Int[np.ndarray, " n"]

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C)."""
        return len(self.numbers), *self.records.shape

    @property
    def dtype(self) -> Any:
        """uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any, /) -> UInt8[np.ndarray, "*n h w c"]:
        wanted = self.numbers[index]
        size = wanted.size * prod(self.records.shape)
        if size > IN_MEMORY:
            raise ValueError(
                f"{wanted.size} images of {' x '.join(map(str, self.records.shape))} bytes are {size} bytes, more than "
                f"the {IN_MEMORY} that are decoded at once: take fewer"
            )
        rows = self.records.fetch(np.atleast_1d(wanted).tolist())
        images = np.empty((len(rows), *self.records.shape), np.uint8)
        for i, row in enumerate(rows):
            images[i] = self.records.image(row)
        return images.reshape(*wanted.shape, *self.records.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype)


def first_alike(n: int, keys: Iterable[Callable[[int], Hashable]]) -> Int[np.ndarray, " n"]:
    """For each of n things the first that all keys find equal to it.

    Args:
      n: how many.
      keys: of a thing's number, the cheapest first; each is asked only of those that the ones before could not tell
        apart.
    """
    first, groups = np.arange(n), [list(range(n))]
    for key in keys:
        divided: dict[tuple[int, Hashable], list[int]] = {}
        for number, group in enumerate(groups):
            for i in group:
                divided.setdefault((number, key(i)), []).append(i)
        groups = [group for group in divided.values() if len(group) > 1]
    for group in groups:
        first[group] = group[0]
    return first


def decoded(
    records: Records, numbers: Int[np.ndarray, " n"], name: str
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"] | None]:
    """These images and their labels. Read in the order in which they lie, in blocks, which is faster than one by one.

    Args:
      records: where they lie.
      numbers: which, in the order in which they are wanted.
      name: of the bar that shows progress where it takes more than seconds.
    """
    images = np.empty((len(numbers), *records.shape), np.uint8)
    labels = np.empty(len(numbers), np.int64) if records.label else None
    places = np.argsort(numbers)
    with (
        ThreadPoolExecutor(records.threads) as pool,
        tqdm(total=len(numbers), desc=f"decoding {name}", unit="image", delay=3, leave=False, mininterval=1) as bar,
    ):
        each: Callable = pool.map if records.threads > 1 else map
        for first in range(0, len(places), BLOCK):
            block = places[first : first + BLOCK]
            rows = records.fetch(numbers[block].tolist())
            for place, image in zip(block, each(records.image, rows), strict=True):
                images[place] = image
            if labels is not None and records.label:
                labels[block] = [records.label(row) for row in rows]
            bar.update(len(block))
    return images, labels
