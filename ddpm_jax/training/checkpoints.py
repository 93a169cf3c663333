"""Training states on disk or in a bucket; the only file that stores by orbax.

A state is stored as a flat table of named arrays, with the run's description beside it. Names, shapes and dtypes are
compared before anything is restored (orbax would cast a dtype silently), and a checksum of every array and of the
description afterwards (a flipped bit in a compressed array would pass). Saving goes on in the background.
"""

import errno
import json
import logging
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, EveryNSteps, LatestN
from orbax.checkpoint.options import MultiprocessingOptions

from ddpm_jax import paths
from ddpm_jax.errors import first_line
from ddpm_jax.paths import AnyPath
from ddpm_jax.training import metrics
from ddpm_jax.training.config import Config
from ddpm_jax.training.step import TrainState


class Incompatible(ValueError):
    """The checkpoint is intact but has another layout or a newer format."""


class Damaged(ValueError):
    """The checkpoint differs from what was stored."""


def plain(state: TrainState) -> TrainState:
    """The state with its key as numbers."""
    return state._replace(key=jax.random.key_data(state.key))


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a plain state, or of a part of one, by name, in the order of the tree."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def layout(arrays: dict[str, Any]) -> dict[str, list]:
    """Shape and dtype of each; plain values."""
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in arrays.items()}


def checksum(array: np.ndarray) -> int:
    """CRC-32: detects every burst of up to 32 changed bits, and all but one in 2^32 of the others."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def checksums(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """The checksum of each array."""
    return {name: checksum(array) for name, array in arrays.items()}


def check_layout(place: str, stored: dict[str, list], wanted: dict[str, list]) -> None:
    """Refuse a checkpoint that is not of the wanted layout.

    Raises:
      Incompatible: names the first array that differs.
    """
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            raise Incompatible(
                f"checkpoint {place} does not fit: {name} is {stored.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} here; use the preset and optimizer it was made with"
            )


def check_numbers(arrays: dict[str, np.ndarray], wanted: dict[str, int]) -> None:
    """Refuse arrays that have changed since they were stored.

    Raises:
      Damaged: names the first one.
    """
    for name, actual in checksums(arrays).items():
        if actual != wanted[name]:
            raise Damaged(f"the numbers of {name} have changed since they were stored")


CHECKPOINTS = "checkpoints"
FORMAT = 2  # of a description; 1, which did not say so, had the same parts and every field of its time


def folder_of(workdir: AnyPath, config: Config | None = None) -> str:
    """The folder of a run's checkpoints: what the config says (default: workdir's), or workdir/checkpoints.

    Raises:
      ValueError: workdir's is damaged.
    """
    workdir = paths.local(workdir)
    config_file, configured = workdir / metrics.CONFIG, config and config.checkpoints
    if config is None and config_file.exists():
        try:
            configured = json.loads(config_file.read_text(encoding="utf-8")).get("config", {}).get("checkpoints")
            if not isinstance(configured, str | None):
                raise ValueError(f"checkpoints = {configured}")
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{config_file} does not describe a run ({error}): mend it, or remove it where the checkpoints lie in "
                f"{workdir / CHECKPOINTS}"
            ) from error
    return configured or str(workdir / CHECKPOINTS)


def on_disk(workdir: Path, config: Config) -> tuple[Path, ...]:
    """The folders that a run writes to, without a bucket."""
    configured = config.checkpoints
    return (workdir,) if configured is None or in_bucket(configured) else (workdir, paths.local(configured))


def check_folder(workdir: Path, config: Config) -> None:
    """Refuse a run that would restart from step 0, and drop its log, because its checkpoints are elsewhere.

    Raises:
      ValueError: see above.
    """
    current, given = folder_of(workdir), folder_of(workdir, config)
    if current != given and steps(current):
        raise ValueError(
            f"{workdir} holds a run whose checkpoints are in {current}, not {given}: give --checkpoints {current}, or "
            "choose another --workdir"
        )


def absolute(folder: epath.PathLike) -> epath.Path:
    """The folder, by its full name.

    Raises:
      ValueError: it is an address of a kind that is not known, or there is no such user.
    """
    bucket = paths.address(folder)
    if bucket is None:
        return epath.Path(paths.local(folder)).absolute()
    try:
        return epath.Path(bucket)
    except KeyError as error:
        raise ValueError(
            f"{bucket}: a bucket of this kind cannot be read here: give one of gs:// or s3://, or a path"
        ) from error


def in_bucket(folder: epath.PathLike) -> bool:
    """Whether it is an address instead of a path."""
    return paths.address(folder) is not None


def check_room(folder: epath.Path, arrays: int) -> None:
    """Check that a disk has room for arrays of so many bytes, plus a fifth and 1 MiB; buckets are not checked.

    Raises:
      OSError: there is no room.
    """
    if in_bucket(folder):
        return
    available = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if available < 1.2 * arrays + 2**20:
        message = f"No space left for a checkpoint of {arrays / 2**20:.1f} MiB, {available / 2**20:.1f} MiB are free"
        raise OSError(errno.ENOSPC, message, str(folder))


@contextmanager
def one_line(folder: epath.Path) -> Iterator[None]:
    """Turn read and write errors of orbax, tensorstore and buckets into an OSError of one line.

    Raises:
      OSError: see above.
    """
    try:
        yield
    except (OSError, jax.errors.JaxRuntimeError):  # the latter of a process that has died
        raise
    except Exception as error:  # of many kinds, with words that fill screens
        reason = first_line(error)[:200]
        message = f"checkpoints cannot be read or written there ({reason}); those that are whole stay so"
        raise OSError(errno.EIO, message, str(folder)) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence orbax's log: its exceptions say the same, without the tracebacks of its threads."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


Description = dict[str, Any]
Manager: TypeAlias = ocp.CheckpointManager
R = TypeVar("R")


class Retention(NamedTuple):
    """Which checkpoints stay.

    Attributes:
      newest: how many of the newest.
      every: those of the multiples of so many steps; 0 for none.
      best: how many with the least held-out loss.
    """

    newest: int = 2
    every: int = 0
    best: int = 0


@contextmanager
def _reading(folder: epath.Path) -> Iterator[Manager]:
    """Reads for this process alone: others may read something else, or nothing."""
    process = jax.process_index()
    alone = (
        MultiprocessingOptions(process, {process}, f"process_{process}")
        if jax.process_count() > 1
        else MultiprocessingOptions()
    )
    options = ocp.CheckpointManagerOptions(
        create=False, enable_async_checkpointing=False, multiprocessing_options=alone
    )
    with quiet(), ocp.CheckpointManager(folder, options=options) as store:
        yield store


@contextmanager
def writing(folder: epath.PathLike, keep: Retention = Retention()) -> Iterator[Manager]:
    """The store that `save` writes to, in every process; on exit it waits until the last state is stored.

    Args:
      folder: of this run's checkpoints, local or in a bucket (gs://...).
      keep: which remain.

    Raises:
      OSError: the folder cannot be made, or the last state could not be stored.
    """

    def loss(metrics: dict[str, float]) -> float:
        return metrics["held_out_loss"]

    best = BestN(get_metric_fn=loss, reverse=True, n=keep.best, keep_checkpoints_without_metrics=False)
    policies = [LatestN(keep.newest), best, *([EveryNSteps(keep.every)] if keep.every else [])]
    # best_fn selects nothing, but without it orbax does not store the losses, and a resumed run would lose them.
    options = ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy(policies), best_fn=loss, best_mode="min"
    )
    place = absolute(folder)
    with quiet():
        with one_line(place):
            store = ocp.CheckpointManager(place, options=options)
        try:
            yield store
        finally:
            with one_line(place):
                store.close()


def save(store: Manager, state: TrainState, description: Description, held_out_loss: float | None = None) -> None:
    """Store the state under its step. Returns once it is in host memory; the disk is written in the background.

    Args:
      store: see `writing`.
      state: one copy, without a device axis.
      description: the whole config and whatever else a reader needs to rebuild the run; plain values.
      held_out_loss: what the best are chosen by; None where it was not measured.

    Raises:
      OSError: the disk has no room for it; nothing is written. Or an earlier state could not be stored.
    """
    # On every device: orbax talks to the other processes, and CPUs mix up the messages of concurrent programs.
    jax.block_until_ready(state)
    # On the host: of arrays on several devices orbax would save slices, and compile one program for each.
    named = jax.device_get(named_leaves(plain(state)))
    check_room(store.directory, sum(leaf.nbytes for leaf in named.values()))
    array_metadata = {"layout": layout(named), "checksums": checksums(named)}
    text = json.dumps({**description, "format": FORMAT, **array_metadata})
    with one_line(store.directory):
        store.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(named),
                description=ocp.args.JsonSave({"said": text, "checksum": zlib.crc32(text.encode())}),
            ),
            metrics=None if held_out_loss is None else {"held_out_loss": held_out_loss},
            force=True,
        )


def finish(store: Manager) -> None:
    """Wait until the last state is stored.

    Raises:
      OSError: it could not be.
    """
    with one_line(store.directory):
        store.wait_until_finished()


def steps(folder: epath.PathLike) -> list[int]:
    """The stored steps, the newest first."""
    place = absolute(folder)
    with one_line(place):
        if not place.is_dir():
            return []
    with _reading(place) as store:
        return sorted(store.all_steps(), reverse=True)


def describe(folder: epath.PathLike, step: int | None = None) -> Description:
    """What `save` was given as description, with its format, and the layout and the checksums of the arrays.

    Args:
      folder: of the checkpoints.
      step: which one; default the newest that can be read.

    Raises:
      ValueError: the folder holds no checkpoint that can be read, or one of a newer format.
    """
    return _newest(folder, step, _describe)


def restore(folder: epath.PathLike, template: TrainState, step: int | None = None) -> TrainState:
    """The stored state.

    Args:
      folder: of the checkpoints.
      template: a state of the wanted layout, or its shapes (`jax.eval_shape`).
      step: which one; default the newest that can be read: a damaged one is named on stderr and passed over.

    Raises:
      ValueError: there is none, or its arrays differ from the template's in name, shape or dtype.
    """
    expected = jax.eval_shape(plain, template)
    named = named_leaves(expected)

    def read(folder: epath.Path, step: int) -> dict[str, np.ndarray]:
        stored = _describe(folder, step)
        check_layout(f"{folder}/{step}", stored["layout"], layout(named))
        return _arrays(folder, step, stored)

    arrays = _newest(folder, step, read)
    state = jax.tree.unflatten(jax.tree.structure(expected), [jax.numpy.asarray(arrays[name]) for name in named])
    return state._replace(key=jax.random.wrap_key_data(state.key))


def average(folder: epath.PathLike, like: Any, index: int = 0, step: int | None = None) -> tuple[Any, int]:
    """One average of the parameters, without the rest of the state, and the step it is of.

    Args:
      folder: of the checkpoints.
      like: the shapes of the parameters (`jax.eval_shape`).
      index: which of the averages.
      step: which checkpoint; default the newest that can be read: a damaged one is named on stderr and passed over.

    Raises:
      ValueError: there is none, or its arrays differ in name, shape or dtype.
    """
    leaves, tree = jax.tree.flatten_with_path(like)
    prefix = f"ema.{index}."
    expected = {prefix + jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}

    def read(folder: epath.Path, step: int) -> tuple[list[np.ndarray], int]:
        stored = _describe(folder, step)
        stored_layout = {name: entry for name, entry in stored["layout"].items() if name.startswith(prefix)}
        check_layout(f"{folder}/{step}", stored_layout, layout(expected))
        arrays = _arrays(folder, step, stored)
        return [arrays[name] for name in expected], step

    arrays, restored_step = _newest(folder, step, read)
    return jax.tree.unflatten(tree, list(map(jax.numpy.asarray, arrays))), restored_step


def read_arrays(folder: epath.PathLike, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by name, compared with their checksums.

    Raises:
      Damaged: one has changed since it was stored. Others where files are missing.
    """
    place = absolute(folder)
    return _arrays(place, step, _describe(place, step))


def _arrays(place: epath.Path, step: int, stored: Description) -> dict[str, np.ndarray]:
    targets = {name: np.empty(shape, dtype) for name, (shape, dtype) in stored["layout"].items()}
    with _reading(place) as store:
        arrays = store.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(targets)))["state"]
    check_numbers(arrays, stored["checksums"])
    return arrays


def set_aside(folder: epath.PathLike, after: int) -> None:
    """Rename the checkpoints of later steps to STEP.damaged-1 (or -2, ...): a run from `after` stores its own there.

    Args:
      folder: of the checkpoints.
      after: the step that was restored.
    """
    place = absolute(folder)
    for step in steps(place):
        if step > after:
            suffix = next(i for i in count(1) if not (place / f"{step}.damaged-{i}").exists())
            (place / str(step)).rename(place / f"{step}.damaged-{suffix}")


def _describe(folder: epath.Path, step: int) -> Description:
    with _reading(folder) as store:
        stored = store.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore()))["description"]
    if zlib.crc32(stored["said"].encode()) != stored["checksum"]:
        raise Damaged("its description has changed since it was stored")
    description = {"format": 1, **json.loads(stored["said"])}
    if description["format"] > FORMAT:
        raise Incompatible(
            f"checkpoint {folder}/{step} is of format {description['format']} and this version reads up to {FORMAT}: "
            "update ddpm_jax"
        )
    return description


def _newest(folder: epath.PathLike, step: int | None, read: Callable[[epath.Path, int], R]) -> R:
    """What `read` finds at a step, or at the newest step that it can read."""
    place = absolute(folder)
    candidates = steps(place)
    if not candidates or step not in (None, *candidates):
        held = f", only of {', '.join(map(str, candidates))}" if candidates else ""
        raise ValueError(f"no checkpoint {'' if step is None else f'of step {step} '}in {place}{held}: train first")
    for candidate in candidates if step is None else [step]:
        try:
            return read(place, candidate)
        except Incompatible:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            reason = first_line(error)[:200]
            print(f"warning: checkpoint {place}/{candidate} cannot be read: {reason}", file=sys.stderr)
    raise ValueError(f"no checkpoint in {place} can be read: train again in another --workdir")
