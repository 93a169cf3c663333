"""Paths as people write them: text or a Path, `~` for a user's folder, and addresses of buckets, which are no paths."""

import os
import re
from pathlib import Path
from typing import TypeAlias

AnyPath: TypeAlias = str | os.PathLike[str]
POINTER = b"version https://git-lfs.github.com/spec/"  # what git-lfs leaves where a file is to be fetched
ADDRESS = re.compile(r"([A-Za-z][\w+.-]+):/+(.*)", re.DOTALL)  # a Path of it has lost a slash; a drive has one letter


def address(path: AnyPath) -> str | None:
    """The address that is meant, as gs://bucket/run; None where it is a path."""
    match = ADDRESS.match(str(path))
    return f"{match[1]}://{match[2]}" if match else None


def local(path: AnyPath) -> Path:
    """The path on this machine, with `~` as a user's folder.

    Raises:
      ValueError: it is the address of a bucket, or there is no such user.
    """
    bucket = address(path)
    if bucket:
        raise ValueError(f"{bucket}: a bucket cannot be read here: copy it to a disk, and give its path")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no user {Path(path).parts[0][1:]!r}: give the whole path") from error


def existing(path: AnyPath) -> Path:
    """The path of a file that is there, see `local`.

    Raises:
      ValueError: it is missing, or git-lfs has not fetched it; see `local`.
      OSError: it cannot be read.
    """
    path = local(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ValueError(f"{path} is a pointer of git-lfs, the file itself is not there: git lfs pull")
    return path
