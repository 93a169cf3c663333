"""What a checkpoint says of its arrays: names, shapes, dtypes and checksums; and what is wrong where they differ."""

import zlib
from typing import Any

import jax
import numpy as np

from ddpm_jax.recipes import TrainState


class Misfit(ValueError):
    """A checkpoint is whole and of another layout."""


class Damaged(ValueError):
    """A checkpoint is not what was stored."""


def plain(state: TrainState) -> TrainState:
    """The state with its key as numbers."""
    return state._replace(key=jax.random.key_data(state.key))


def named(state: TrainState) -> dict[str, Any]:
    """The leaves of a plain state by name, in the order of the tree."""
    leaves, _ = jax.tree.flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def layout(arrays: dict[str, Any]) -> dict[str, list]:
    """Shape and dtype of each; plain values."""
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in arrays.items()}


def checksum(array: np.ndarray) -> int:
    """Changes with every run of up to 32 changed bits, and with others but for one in 2^32."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def checksums(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """That of each."""
    return {name: checksum(array) for name, array in arrays.items()}


def check_layout(place: str, stored: dict[str, list], wanted: dict[str, list]) -> None:
    """Refuse a checkpoint that is not of the wanted layout.

    Raises:
      Misfit: names the first array that differs.
    """
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            raise Misfit(
                f"checkpoint {place} does not fit: {name} is {stored.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} here; use the preset and optimizer it was made with"
            )


def check_numbers(arrays: dict[str, np.ndarray], wanted: dict[str, int]) -> None:
    """Refuse arrays that are not those that were stored.

    Raises:
      Damaged: names the first one.
    """
    for name, found in checksums(arrays).items():
        if found != wanted[name]:
            raise Damaged(f"the numbers of {name} have changed since they were stored")
