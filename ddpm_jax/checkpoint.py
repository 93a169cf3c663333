"""Training states on disk; the only file that imports orbax.

A state is stored as a flat table of named arrays, with the run's description beside it. Names, shapes and dtypes are
compared before anything is restored: orbax would cast a dtype silently.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddpm_jax.train import TrainState

Description = dict[str, Any]


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
    """
    named = _named(_plain(state))
    with _manager(folder, keep) as manager:
        manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(named),
                description=ocp.args.JsonSave({**description, "layout": _layout(named)}),
            ),
            force=True,
        )


def latest(folder: Path) -> int | None:
    """The newest stored step, or None."""
    if not folder.is_dir():
        return None
    with _manager(folder) as manager:
        return manager.latest_step()


def describe(folder: Path, step: int | None = None) -> Description:
    """What `save` was given as description, with the layout of the arrays.

    Raises:
      ValueError: the folder holds no checkpoint.
    """
    step = _existing(folder, step)
    with _manager(folder) as manager:
        return manager.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore()))["description"]


def restore(folder: Path, template: TrainState, step: int | None = None) -> TrainState:
    """The stored state.

    Args:
      folder: of the checkpoints.
      template: a state of the wanted layout, or its shapes (`jax.eval_shape`).
      step: which one; default the newest.

    Raises:
      ValueError: there is none, or its arrays differ from the template's in name, shape or dtype.
    """
    step = _existing(folder, step)
    wanted_state = jax.eval_shape(_plain, template)
    named = _named(wanted_state)
    stored, wanted = describe(folder, step)["layout"], _layout(named)
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            raise ValueError(
                f"checkpoint {folder}/{step} does not fit: {name} is {stored.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} here; use the preset and optimizer it was made with"
            )
    targets = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), named)
    with _manager(folder) as manager:
        arrays = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(targets)))["state"]
    plain = jax.tree.unflatten(jax.tree.structure(wanted_state), [jax.numpy.asarray(arrays[name]) for name in named])
    return plain._replace(key=jax.random.wrap_key_data(plain.key))


def _existing(folder: Path, step: int | None) -> int:
    step = latest(folder) if step is None else step
    if step is None:
        raise ValueError(f"no checkpoint in {folder}: train first")
    return step
