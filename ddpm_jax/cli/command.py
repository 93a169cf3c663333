"""From a command line to an experiment and its exit code: 2 for a wrong value, in one line, with nothing lost."""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro

from ddpm_jax import paths
from ddpm_jax.cli import betas, choices
from ddpm_jax.errors import first_line
from ddpm_jax.runtime import distributed, sharding, xla
from ddpm_jax.training.config import Stopped

C = TypeVar("C")
IN_THE_NAME = {
    "frac": "interpolated:{}",
    "c": "family:{}",
    "clamp-head": "learned_range:clamped",
    "no-clamp-head": "learned_range",
}
"""Former options of a choice, by what now stands in its name."""


def command_line(
    kind: type[C],
    run: Callable[[C], None],
    description: str | None = None,
    argv: list[str] | None = None,
    program: str | None = None,
) -> None:
    """Read `kind` from the command line and run it; a wrong value is one line and exit code 2.

    Args:
      kind: a frozen dataclass; its `dry_run`, where set, prints the resolved config instead of running.
      run: the experiment.
      description: shown by --help; default the docstring of `kind`.
      argv: default the process's own.
      program: its name in --help; default what the process was called by.
    """
    argv = sys.argv[1:] if argv is None else argv
    check_moved(kind, argv)
    if {"-h", "--help"} & {*argv}:
        words = (description or inspect.getdoc(kind) or "").partition("Attributes:")[0].strip()
        listed = choices.text(kind)
        description = f"{words}\n\nChoices by name:\n{listed}" if listed else words
    config = tyro.cli(kind, description=description, args=argv, prog=program)
    sharding.use_cores()
    with distributed.ending_together():
        _perform(run, config)


def _local(config: C) -> C:
    """The options with `~` as the user's folder in paths, as a shell leaves it in --workdir=~/runs.

    Raises:
      ValueError: one is the address of a bucket, or there is no such user.
    """
    given = {name: paths.local(value) for name, value in vars(config).items() if isinstance(value, Path)}
    return dataclasses.replace(config, **given)  # type: ignore[type-var]


def check_moved(kind: type[Any], argv: list[str]) -> None:
    """End with one line and exit code 2 at a former option of a choice, which says what is written in its place.

    Args:
      kind: of the options; where it has neither `variance` nor `variances` nothing has moved.
      argv: the words of the command line.
    """
    fields = [field.name for field in dataclasses.fields(kind)]
    option = next((name for name in ("variances", "variance") if name in fields), None)
    for i, word in enumerate(argv if option else ()):
        name, _, value = word.partition("=")
        former = name.removeprefix("--").replace("_", "-")
        if name.startswith("--") and former in IN_THE_NAME and former not in fields:
            behind = next((word for word in argv[i + 1 : i + 2] if not word.startswith("--")), "NUMBER")
            choice = IN_THE_NAME[former].format(value or behind)
            print(f"error: {name} is now part of the choice's name: --{option} {choice}", file=sys.stderr)
            sys.exit(2)


def _perform(run: Callable[[C], None], config: C) -> None:
    """Run it; what it raises becomes a line and an exit code."""
    try:
        with xla.kept():
            run(betas.resolved(_local(config)))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {place}{error.strerror or error}; what was finished is kept, run again when mended",
            file=sys.stderr,
        )
        sys.exit(2)
    except ValueError as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(143)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
