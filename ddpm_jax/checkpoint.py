"""Training states on disk; the only file that imports orbax.

A state is stored as a flat table of named arrays, with the run's description beside it. Names, shapes and dtypes are
compared before anything is restored: orbax would cast a dtype silently.
"""

import errno
import shutil
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddpm_jax.train import TrainState

Description = dict[str, Any]
R = TypeVar("R")


def _plain(state: TrainState) -> TrainState:
    """The state with its key as numbers."""
    return state._replace(key=jax.random.key_data(state.key))


def _named(plain: TrainState) -> dict[str, Any]:
    leaves, _ = jax.tree.flatten_with_path(plain)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _layout(named: dict[str, Any]) -> dict[str, list]:
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in named.items()}


def _manager(folder: Path, keep: int | None = None) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(folder: Path, state: TrainState, description: Description, keep: int = 2) -> None:
    """Store the state under its step; the `keep` newest remain.

    Args:
      folder: of this run's checkpoints.
      state: one copy, without a device axis.
      description: the whole config and whatever else a reader needs to rebuild the run; plain values.
      keep: how many remain.

    Raises:
      OSError: the disk has no room for it; nothing is written.
    """
    # On the host: of arrays on several devices orbax would save slices, and compile one program for each.
    named = jax.device_get(_named(_plain(state)))
    _check_room(folder, sum(leaf.nbytes for leaf in named.values()))
    with _manager(folder, keep) as manager:
        manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(named),
                description=ocp.args.JsonSave({**description, "layout": _layout(named)}),
            ),
            force=True,
        )


def _check_room(folder: Path, arrays: int) -> None:
    """Room for the arrays, a fifth more and a MiB for what orbax writes beside them; its own words fill screens."""
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    if free < 1.2 * arrays + 2**20:
        room = f"No space left for a checkpoint of {arrays / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free"
        raise OSError(errno.ENOSPC, room, str(folder))


def latest(folder: Path) -> int | None:
    """The newest stored step, or None."""
    return next(iter(_steps(folder)), None)


def describe(folder: Path, step: int | None = None) -> Description:
    """What `save` was given as description, with the layout of the arrays.

    Args:
      folder: of the checkpoints.
      step: which one; default the newest that can be read.

    Raises:
      ValueError: the folder holds no checkpoint that can be read.
    """
    return _newest(folder, step, _describe)


def restore(folder: Path, template: TrainState, step: int | None = None) -> TrainState:
    """The stored state.

    Args:
      folder: of the checkpoints.
      template: a state of the wanted layout, or its shapes (`jax.eval_shape`).
      step: which one; default the newest that can be read: a damaged one is named on stderr and passed over.

    Raises:
      ValueError: there is none, or its arrays differ from the template's in name, shape or dtype.
    """
    wanted_state = jax.eval_shape(_plain, template)
    named = _named(wanted_state)

    def read(folder: Path, step: int) -> dict[str, Any]:
        _check_layout(f"{folder}/{step}", _describe(folder, step)["layout"], _layout(named))
        targets = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in named.items()}
        with _manager(folder) as manager:
            return manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(targets)))["state"]

    arrays = _newest(folder, step, read)
    plain = jax.tree.unflatten(jax.tree.structure(wanted_state), [jax.numpy.asarray(arrays[name]) for name in named])
    return plain._replace(key=jax.random.wrap_key_data(plain.key))


def set_aside(folder: Path, after: int) -> None:
    """Rename the checkpoints of later steps to STEP.damaged-1 (or -2, ...): a run from `after` stores its own there.

    Args:
      folder: of the checkpoints.
      after: the step that was restored.
    """
    for step in _steps(folder):
        if step > after:
            free = next(i for i in count(1) if not (folder / f"{step}.damaged-{i}").exists())
            (folder / str(step)).rename(folder / f"{step}.damaged-{free}")


class Misfit(ValueError):
    """A checkpoint is whole and of another layout."""


def _check_layout(place: str, stored: dict[str, list], wanted: dict[str, list]) -> None:
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            raise Misfit(
                f"checkpoint {place} does not fit: {name} is {stored.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} here; use the preset and optimizer it was made with"
            )


def _steps(folder: Path) -> list[int]:
    """The stored steps, the newest first."""
    if not folder.is_dir():
        return []
    with _manager(folder) as manager:
        return sorted(manager.all_steps(), reverse=True)


def _describe(folder: Path, step: int) -> Description:
    with _manager(folder) as manager:
        return manager.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore()))["description"]


def _newest(folder: Path, step: int | None, read: Callable[[Path, int], R]) -> R:
    """What `read` finds at a step, or at the newest step that it can read."""
    steps = _steps(folder) if step is None else [step]
    if not steps:
        raise ValueError(f"no checkpoint in {folder}: train first")
    for candidate in steps:
        try:
            return read(folder, candidate)
        except Misfit:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            reason = str(error).strip().partition("\n")[0]
            print(f"warning: checkpoint {folder}/{candidate} cannot be read: {reason}", file=sys.stderr)
    raise ValueError(f"no checkpoint in {folder} can be read: train again in another --workdir")
