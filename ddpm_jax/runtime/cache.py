"""Results on disk under the hash of all that they depend on.

A cell is a table of arrays that some computation left. Its name is the hash of its inputs, of the versions of JAX and
the libraries beside it, and of a number `VERSION` that stands beside the formula and is raised by hand when its numbers
change: what changed is looked for under another name. The source code of this package is not hashed, so that a renamed
variable leaves every cell where it is; tests/evaluation/test_versions.py tells when a version has to be raised.
Writing is atomic; a process that is killed leaves a whole cell or none.
"""

import hashlib
import json
import math
import os
import sys
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import jax
import numpy as np

from ddpm_jax import paths
from ddpm_jax.paths import AnyPath

Arrays = dict[str, np.ndarray]
Keep = Callable[[str, dict[str, Any], Callable[[], Arrays]], Arrays]


def compute_always(kind: str, inputs: dict[str, Any], compute: Callable[[], Arrays]) -> Arrays:
    """The Keep that caches nothing."""
    return compute()


class Store(NamedTuple):
    """A folder of cells.

    Attributes:
      folder: one subfolder a kind.
      common: inputs of every cell, for example the fingerprint of the denoiser.
      force: compute even cells that exist.
      used: number of cells by (kind, "computed" or "reused") in this process.
    """

    folder: AnyPath
    common: dict[str, Any]
    force: bool
    used: Counter[tuple[str, str]]


def fetch(store: Store, kind: str, inputs: dict[str, Any], compute: Callable[[], Arrays]) -> Arrays:
    """The arrays of one cell: read if it exists, else computed and written. `partial(fetch, store)` is a Keep.

    Args:
      store: where to look.
      kind: what the cell holds.
      inputs: all that `compute` depends on beside store.common, with the version of its formula; plain values, arrays
        and keys.
      compute: makes the arrays.
    """
    path = paths.local(store.folder) / kind / f"{fingerprint({**store.common, **inputs, **_environment()})}.npz"
    arrays, how = None if store.force else _read(path), "reused"
    if arrays is None:
        arrays, how = compute(), "computed"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
    store.used[kind, how] += 1
    return arrays


class _Missing(Exception):
    """A cell is not there."""


def _missing() -> Arrays:
    raise _Missing


def fetch_each(
    keep: Keep, kind: str, inputs: list[dict[str, Any]], compute: Callable[[list[int]], list[Arrays]]
) -> list[Arrays]:
    """The arrays of several cells; those that are missing are computed together.

    Args:
      keep: where they are.
      kind: what the cells hold.
      inputs: of each, see `fetch`.
      compute: indices into `inputs` -> the arrays of these cells.
    """
    cells: dict[int, Arrays] = {}
    for i, one in enumerate(inputs):
        with suppress(_Missing):
            cells[i] = keep(kind, one, _missing)
    places = [i for i in range(len(inputs)) if i not in cells]
    for i, arrays in zip(places, compute(places) if places else [], strict=True):
        cells[i] = keep(kind, inputs[i], lambda arrays=arrays: arrays)  # type: ignore[misc]
    return [cells[i] for i in range(len(inputs))]


def _environment() -> dict[str, str]:
    """What the same code may compute other numbers with."""
    random = str(jax.random.key_impl(jax.random.key(0)))
    versions = {name: version(name) for name in ("jaxlib", "flax", "numpy")}
    return {**versions, "jax": jax.__version__, "backend": jax.default_backend(), "random": random}


def tally(used: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """How many cells of each kind were computed and reused, for a report."""
    kinds = sorted({kind for kind, _ in used})
    return {kind: {how: used[kind, how] for how in ("computed", "reused")} for kind in kinds}


def _read(path: Path) -> Arrays | None:
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        print(f"warning: {path} is unreadable ({error}) and is computed again", file=sys.stderr)
        return None


def write_whole(path: AnyPath, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file atomically: to a temporary file beside it, then renamed.

    Args:
      path: of the file; its folder exists.
      write: puts the contents into an open file.

    Raises:
      OSError: it cannot be written; names the file.
    """
    path = paths.local(path)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("wb") as file:
            write(file)
        unfinished.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: AnyPath, values: Any) -> None:
    """JSON of plain values, written whole; a number that is not finite becomes null, as JSON has none."""
    text = json.dumps(_finite(values), indent=1, allow_nan=False)
    write_whole(path, lambda file: file.write(text.encode()))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_writable(folder: AnyPath) -> None:
    """Refuse a folder that is not there and cannot be made, or is not writable.

    Raises:
      ValueError: see above.
    """
    folder = paths.local(folder)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        reason = "not writable" if nearest.is_dir() else "a file"
        raise ValueError(f"cannot write to {folder}: {nearest} is {reason}; choose another folder")


def fingerprint(value: Any) -> str:
    """A hash of nested plain values, arrays and random keys, the same in every process.

    Raises:
      TypeError: a value is of another kind.
    """
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()[:32]


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    if isinstance(value, Mapping):
        update(f"mapping {len(value)};".encode())
        for name in sorted(value):
            _feed(update, name)
            _feed(update, value[name])
    elif isinstance(value, (tuple, list)):
        update(f"sequence {len(value)};".encode())
        for part in value:
            _feed(update, part)
    elif isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        _feed(update, np.asarray(jax.random.key_data(value)))
    elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
        array = np.asarray(value)
        update(f"array {array.dtype.str} {array.shape};".encode())
        update(np.ascontiguousarray(array).tobytes())
    elif value is None or isinstance(value, (str, bytes, bool, int, float)):
        update(f"{type(value).__name__} {value!r};".encode())
    else:
        raise TypeError(f"no fingerprint of a {type(value).__name__}: give plain values and arrays")


@cache
def file_hash(defined: Any) -> str:
    """SHA-256 of the bytes of the source file that defines a function, a class or a module, in hexadecimal.

    The file is read at the first call for the same object: if that comes soon after the import, a file that is edited
    later keeps the hash of the code that runs.

    Args:
      defined: the function, class or module; of a `functools.partial` the function within.

    Returns:
      The hash; "" where there is no file, as in a notebook.
    """
    while isinstance(defined, partial):
        defined = defined.func
    module = defined if isinstance(defined, ModuleType) else sys.modules.get(getattr(defined, "__module__", ""))
    path = getattr(module, "__file__", None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else ""
