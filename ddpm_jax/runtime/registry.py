"""What is asked must agree with what is there: every difference is named, none is overridden."""

from typing import Any


def named(table: dict[str, Any], name: str, kind: str) -> Any:
    """The entry of a registry.

    Raises:
      ValueError: there is none of this name.
    """
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}")
    return table[name]
