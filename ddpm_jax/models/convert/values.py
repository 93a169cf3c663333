"""What a value in another project's JSON may be: a wrong one is refused by its key, in one line."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

SHOWN = 60  # characters of a value in a message


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
      words: what it is, for the message.
      fits: whether a value is so.
    """

    words: str
    fits: Callable[[Any], bool]


def check(given: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Refuse values of another kind; a key that is absent, or has no kind, may be anything.

    Raises:
      ValueError: names the key, the value and what is wanted.
    """
    for key, value in given.items():
        if key in kinds and not kinds[key].fits(value):
            raise ValueError(f"{key} = {shown(value)}: {kinds[key].words} is wanted")


def shown(value: Any) -> str:
    """A value in a message: one line, cut where it is long."""
    said = re.sub(r"\s+", " ", repr(value))
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}..."


def whole(least: int, most: int) -> Kind:
    """A whole number within bounds."""
    return Kind(f"a whole number from {least} to {most:,}", lambda value: _is_whole(value) and least <= value <= most)


def number(least: float, most: float) -> Kind:
    """A finite number within bounds."""
    return Kind(f"a number from {least:g} to {most:g}", lambda value: _is_number(value) and least <= value <= most)


def one_of(*allowed: Any) -> Kind:
    """One of these values, of the same type."""
    words = " or ".join(map(repr, allowed))
    return Kind(words, lambda value: any(type(value) is type(one) and value == one for one in allowed))


def or_none(kind: Kind) -> Kind:
    """None as well."""
    return Kind(f"{kind.words}, or null,", lambda value: value is None or kind.fits(value))


def listed(kind: Kind, most: int) -> Kind:
    """A list of at least one such value."""
    fits = lambda value: isinstance(value, list | tuple) and 0 < len(value) <= most and all(map(kind.fits, value))  # noqa: E731
    return Kind(f"a list of 1 to {most:,} entries, each {kind.words},", fits)


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a text", lambda value: isinstance(value, str))
BETA = Kind("a number above 0 and at most 1", lambda value: _is_number(value) and 0 < value <= 1)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
