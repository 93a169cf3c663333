"""Where checkpoints lie: is there room, and what went wrong, in one line."""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from etils import epath


def place(folder: epath.PathLike) -> epath.Path:
    """The folder, by its full name."""
    return epath.Path(folder) if in_bucket(folder) else epath.Path(folder).absolute()


def in_bucket(folder: epath.PathLike) -> bool:
    """Whether it is an address instead of a path."""
    return "://" in str(folder)


def check_room(folder: epath.Path, arrays: int) -> None:
    """Room for arrays of so many bytes, a fifth more and a MiB for what lies beside them; of a bucket nothing is known.

    Raises:
      OSError: there is none.
    """
    if in_bucket(folder):
        return
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < 1.2 * arrays + 2**20:
        room = f"No space left for a checkpoint of {arrays / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free"
        raise OSError(errno.ENOSPC, room, str(folder))


@contextmanager
def one_line(folder: epath.Path) -> Iterator[None]:
    """What orbax, tensorstore and buckets raise when they cannot read or write, as an OSError of one line.

    Raises:
      OSError: see above.
    """
    try:
        yield
    except (OSError, jax.errors.JaxRuntimeError):  # the latter of a process that has died
        raise
    except Exception as error:  # of many kinds, with words that fill screens
        reason = str(error).strip().partition("\n")[0][:200]
        words = f"checkpoints cannot be read or written there ({reason}); those that are whole stay so"
        raise OSError(errno.EIO, words, str(folder)) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Within, orbax's log is silent: what it raises says the same, without the traces of its threads."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
