"""What is asked must agree with what is there: every difference is named, none is overridden."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_jax.config import Config


def check(workdir: Path, what: str, wanted: Mapping[str, Any], stored: Mapping[str, Any], free: set[str]) -> None:
    """Refuse to go on with another run's state.

    Args:
      workdir: of both.
      what: it holds, in words.
      wanted: plain values by name.
      stored: the same of what is there.
      free: names that may differ.

    Raises:
      ValueError: lists what differs.
    """
    names = [name for name in sorted(wanted.keys() - free) if wanted[name] != stored.get(name)]
    if names:
        listed = ", ".join(f"{name} = {stored.get(name)}, not {wanted[name]}" for name in names)
        raise ValueError(f"{workdir} holds {what} with {listed}: choose another --workdir")


def check_given(given: Config, actual: Config, free: set[str], why: str) -> None:
    """Refuse training options that would have no effect, because the network is already there.

    Args:
      given: from the command line.
      actual: what holds; options that agree with it are harmless.
      free: names that may differ.
      why: what makes them idle, for the message.

    Raises:
      ValueError: names the option.
    """
    for name, default in vars(Config()).items():
        value = getattr(given, name)
        if name not in free and value not in (default, getattr(actual, name)):
            raise ValueError(f"{name} = {value} has no effect, {why}: leave it out")


def check_unused(**options: Any) -> None:
    """Refuse options of a checkpoint where none is read.

    Raises:
      ValueError: names one that is given.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} = {value} has no effect without a checkpoint to choose from: leave it out")


def named(table: dict[str, Any], name: str, kind: str) -> Any:
    """The entry of a registry.

    Raises:
      ValueError: there is none of this name.
    """
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}")
    return table[name]
