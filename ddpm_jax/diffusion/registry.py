"""Choices by name: every registry is a dict that a user's file may add to, and this is how an entry is looked up."""

from collections.abc import Mapping
from typing import TypeVar

E = TypeVar("E")


def named(table: Mapping[str, E], name: str, kind: str) -> E:
    """The entry of a registry.

    Args:
      table: the registry.
      name: of the entry.
      kind: what the entries are, for the message.

    Raises:
      ValueError: there is none of this name.
    """
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}")
    return table[name]
