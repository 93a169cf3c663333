"""Many processes as one run: how they find each other, agree, and end together. JAX's own runtime does the work."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from signal import SIGTERM, getsignal, signal
from threading import Timer, current_thread, main_thread
from typing import NamedTuple

import jax
import numpy as np
from jax._src import distributed as of_jax  # what was detected is told by no public name
from jax.experimental import multihost_utils

from ddpm_jax.errors import first_line, kind_and_first_line

SILENCE = 60  # seconds without a sign of life after which a process counts as dead
GRACE = 10  # seconds that a process which ends by an error gives the others to end by the same
LOST = 75  # exit code of a process that cannot go on with the others: a temporary failure, start again
WAIT = 300  # seconds that the processes of a run may be started apart, JAX's own
SOON = 5  # seconds of waiting after which is said for whom


class Cluster(NamedTuple):
    """What the environment says of other processes.

    Attributes:
      sign: the variable by which JAX finds the cluster; without it the process is alone.
      others: variables that say how many processes there are, and which of them this is.
      several: the environment -> whether it makes this process one of several; of a pod it says only where it runs.
    """

    sign: str
    others: tuple[str, ...]
    several: Callable[[Mapping[str, str]], bool]


CLUSTERS = (
    Cluster("JAX_COORDINATOR_ADDRESS", (), lambda found: True),
    Cluster(
        "OMPI_MCA_orte_hnp_uri",
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        lambda found: found.get("OMPI_COMM_WORLD_SIZE") != "1",
    ),
    Cluster(
        "SLURM_JOB_ID",
        ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
        lambda found: found["SLURM_NTASKS"] != "1",
    ),
    Cluster("TPU_PROCESS_ADDRESSES", ("TPU_WORKER_ID",), lambda found: "," in found["TPU_PROCESS_ADDRESSES"]),
    Cluster("TPU_WORKER_HOSTNAMES", ("TPU_WORKER_ID",), lambda found: "," in found["TPU_WORKER_HOSTNAMES"]),
    Cluster("KUBERNETES_SERVICE_HOST", ("JOB_COMPLETION_INDEX",), lambda found: False),
)
NO_CLUSTER = "coordinator_address should be defined"  # JAX's words where it detects none
TOO_LATE = "must be called before any JAX calls"  # and where this process has used it before


def join(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Become one process of a run of many; before anything else of JAX is used.

    Without arguments JAX detects the cluster: Cloud TPU, SLURM, GKE, Open MPI. Where there is none, or a pod may not
    ask for its job, the process stays alone. Where the others do not come within WAIT seconds, it ends by exit code 2.

    Args:
      coordinator: host:port at which process 0 can be reached.
      count: of processes.
      index: of this process, 0..count-1.

    Raises:
      ValueError: only some of the three are given, or they do not fit, or what the environment says of a cluster cannot
        be understood.
    """
    check(coordinator, count, index)
    try:
        with _waiting(coordinator, count):
            _initialize(coordinator, count, index)
    except Exception as error:  # of what JAX asks, too: Kubernetes, a machine's metadata
        if _detected() and not isinstance(error, (ValueError, RuntimeError)):
            raise
        reason = kind_and_first_line(error)
        if coordinator is not None or isinstance(error, jax.errors.JaxRuntimeError):
            place = coordinator or of_jax.global_state.coordinator_address
            raise ValueError(f"the other processes cannot be reached at {place}: {reason}") from error
        _stay_alone(error, reason)


def check(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Refuse half a description of the processes of a run, see `join`.

    Raises:
      ValueError: only some of the three are given, or they do not fit.
    """
    given = {"coordinator": coordinator, "processes": count, "process": index}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(f"{', '.join(missing)}: missing; give coordinator, processes and process together, or none")
    if count is not None and index is not None and not 0 <= index < count:
        raise ValueError(f"process = {index} of processes = {count}: it lies in 0..{count - 1}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"coordinator = {coordinator!r}: give host:port of process 0")


def _initialize(coordinator: str | None, count: int | None, index: int | None) -> None:
    """By JAX's detection; where all is given and the cluster cannot be asked what is left, without it."""

    def start(detection: str | None) -> None:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            cluster_detection_method=detection,
            initialization_timeout=WAIT + SILENCE,  # JAX would end by an abort in C++: see `_waiting`
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=SILENCE,
        )

    try:
        start(None)
    except Exception:
        if coordinator is None or _detected():
            raise
        start("deactivate")


def _detected() -> bool:
    """Whether JAX has come so far that it knows whom to connect to."""
    return of_jax.global_state.coordinator_address is not None


def _stay_alone(error: Exception, reason: str) -> None:
    """Go on alone, in silence where there is no cluster and in one line where it cannot be asked.

    Raises:
      ValueError: the environment makes this process one of several, and they cannot be joined.
    """
    if NO_CLUSTER in str(error):
        return
    if any(one.several(os.environ) for one in _found()):
        said, cure = _told()
        raise ValueError(
            f"this is one of several processes because of {said} and cannot join them ({reason}): give --coordinator, "
            f"--processes and --process, or {cure}"
        ) from error
    if TOO_LATE not in str(error):
        print(
            f"this process trains alone: the cluster cannot be asked for others ({reason}); where there are, give each "
            "--coordinator, --processes and --process",
            file=sys.stderr,
        )


def _found() -> list[Cluster]:
    """The clusters that the environment tells of, in JAX's order; of SLURM a shell beside its jobs has one variable."""
    whole = [one for one in CLUSTERS if one.sign in os.environ]
    return [one for one in whole if one.sign != "SLURM_JOB_ID" or {*one.others} <= {*os.environ}]


def _told() -> tuple[str, str]:
    """The variables that tell of other processes, and how to stay alone."""
    found = _found()
    if not found:
        return "the machine's metadata", "TPU_SKIP_MDS_QUERY=1 before the command trains alone"
    names = [name for one in found for name in (one.sign, *one.others) if name in os.environ]
    said = ", ".join(f"{name}={os.environ[name][:40]}" for name in dict.fromkeys(names))
    unset = " ".join(f"-u {one.sign}" for one in found)
    return said, f"`env {unset}` before the command trains alone"


@contextmanager
def _waiting(coordinator: str | None, count: int | None) -> Iterator[None]:
    """Around the start: stderr says who is awaited after SOON seconds; after WAIT the process ends with exit code 2.

    JAX waits in C++, which nothing interrupts, and which would end by an abort with its stack.
    """

    def awaited() -> str:
        state = of_jax.global_state
        place, others = coordinator or state.coordinator_address, (count or state.num_processes) - 1
        who = f"{others} other process{'es' * (others != 1)} at {place}" if place else "the cluster's answer"
        return f"{who}, because of {'--coordinator and --processes' if coordinator else _told()[0]}"

    def tell() -> None:
        cure = "without them this process trains alone" if coordinator else _told()[1]
        print(f"waiting for {awaited()}; {cure}", file=sys.stderr, flush=True)

    def give_up() -> None:
        cure = "start all of them" if coordinator else f"start all of them, or {_told()[1]}"
        print(f"error: {WAIT} seconds of waiting for {awaited()}: {cure}", file=sys.stderr, flush=True)
        os._exit(2)

    timers = [Timer(SOON, tell), Timer(WAIT, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


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
            print(
                f"error: process {jax.process_index()} cannot go on with the others ({first_line(error)}): one of them "
                "has died, or this one has run out of something; the last checkpoint is whole, start all again to go "
                "on from there",
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
