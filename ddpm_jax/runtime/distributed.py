"""Many processes as one run: how they find each other, agree, and end together. JAX's own runtime does the work."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from signal import SIGTERM, getsignal, signal
from threading import current_thread, main_thread

import jax
import numpy as np
from jax.experimental import multihost_utils

SILENCE = 60  # seconds without a sign of life after which a process counts as dead
GRACE = 10  # seconds that a process which ends by an error gives the others to end by the same
LOST = 75  # exit code of a process that cannot go on with the others: a temporary failure, start again


def join(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Become one process of a run of many; before anything else of JAX is used.

    Without arguments JAX detects the cluster: Cloud TPU, SLURM, GKE, Open MPI, or the variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Where there is none, the process stays alone.

    Args:
      coordinator: host:port at which process 0 can be reached.
      count: of processes.
      index: of this process, 0..count-1.

    Raises:
      ValueError: only some of the three are given, or they do not fit, or the others are not there.
    """
    given = {"coordinator": coordinator, "processes": count, "process": index}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(f"{', '.join(missing)}: missing; give coordinator, processes and process together, or none")
    if count is not None and index is not None and not 0 <= index < count:
        raise ValueError(f"process = {index} of processes = {count}: it lies in 0..{count - 1}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"coordinator = {coordinator!r}: give host:port of process 0")
    try:
        jax.distributed.initialize(
            coordinator, count, index, heartbeat_timeout_seconds=SILENCE, shutdown_timeout_seconds=SILENCE
        )
    except (ValueError, RuntimeError) as error:
        if coordinator is None and not isinstance(error, jax.errors.JaxRuntimeError):
            return  # no cluster, or this process has used JAX before, as it may where a run is started from Python
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the other processes cannot be reached at {coordinator or 'the cluster'}: {reason}"
        ) from error


def first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def share() -> tuple[int, int]:
    """(index, count) of this process."""
    return jax.process_index(), jax.process_count()


def of_the_first(number: int) -> int:
    """Broadcast the first process's number to all processes."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number))) if jax.process_count() > 1 else number


def wait_for_all(name: str) -> None:
    """A barrier: returns when every process has reached the one of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextmanager
def stop_request() -> Iterator[Callable[[int, int], bool]]:
    """Yields (start, end) -> whether SIGTERM or a notice of preemption has asked the run to stop by step `end`.

    All processes must ask for the same steps, each after the last; they are all answered alike. SIGTERM does not end
    the process within. Of several processes JAX fixes the next step that none has reached, so every step is asked for;
    orbax asks with the step that it saves, which is the last one here.
    """
    if jax.process_count() > 1:
        reached = multihost_utils.reached_preemption_sync_point
        yield lambda start, end: True in [reached(step) for step in range(start + 1, end + 1)]
        return
    asked: list[int] = []
    if current_thread() is not main_thread():
        yield lambda start, end: False
        return
    before = getsignal(SIGTERM)
    signal(SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield lambda start, end: bool(asked)
    finally:
        signal(SIGTERM, before)


@contextmanager
def ending_together() -> Iterator[None]:
    """Around a command: a process that ends by an error waits for no other that goes on.

    Where all end, as by the same bad input, each ends as it would alone. An ordinary exit of one would first wait for
    the others, which wait for it in a step, and then abort.
    """
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if not jax.distributed.is_initialized() or code in (None, 0):
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            code = LOST
            reason = str(error).partition("\n")[0]
            print(
                f"error: process {jax.process_index()} cannot go on with the others ({reason}): one of them has died, "
                "or this one has run out of something; the last checkpoint is whole, start all again to go on from "
                "there",
                file=sys.stderr,
            )
        elif _all_end():
            raise
        elif not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _all_end() -> bool:
    """Whether every process comes here within GRACE; orbax has a barrier with a limit, JAX's own has none."""
    from orbax.checkpoint import multihost  # half a second, that --help need not spend

    try:
        multihost.sync_global_processes("ending", timeout=GRACE, processes=set(range(jax.process_count())))
    except jax.errors.JaxRuntimeError:
        return False
    return True
