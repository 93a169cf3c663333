"""Workers that take turns, each in a process with threads, caches and memory of its own.

A worker reads a line of JSON that says what to work on, then a line for each job, and answers each with a line. Imports
neither JAX nor PyTorch: the environment of a worker needs only one of them.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

Row = dict[str, Any]
Job = Callable[[int], Any]  # repetitions -> what JSON can hold
ROOT = Path(__file__).parents[1]
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Worker(NamedTuple):
    """A process that waits for jobs.

    Attributes:
      name: in messages.
      process: with pipes to it and from it.
      log: file of what it prints otherwise.
      about: what it said of itself.
    """

    name: str
    process: subprocess.Popen[str]
    log: Path
    about: Row


# ---------------------------------------------------------------- the side that asks


@contextmanager
def started(
    name: str, command: list[str], settings: Row, log: Path, environment: Mapping[str, str]
) -> Iterator[Worker]:
    """A worker as long as it is needed; then it is killed, as it has nothing to lose.

    Args:
      name: in messages.
      command: that ends up in `serve`.
      settings: what it is to work on; values that JSON can hold.
      log: file for what it prints otherwise.
      environment: variables beside this process's own.

    Raises:
      ValueError: it cannot be started, or refuses the settings.
    """
    with log.open("w", encoding="utf-8") as words:
        pipe, around = subprocess.PIPE, {**os.environ, **environment}
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=words, text=True, cwd=ROOT, env=around)
        except OSError as error:
            raise ValueError(f"{name}: {command[0]} cannot be run ({error.strerror}): give a Python") from error
    with process:
        try:
            worker = Worker(name, process, log, {})
            yield worker._replace(about=_exchange(worker, settings))
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # of a worker that has ended by itself
                process.stdin.close()  # type: ignore[union-attr]


def ask(worker: Worker, job: str, repetitions: int = 1) -> Any:
    """A job's answer.

    Raises:
      ValueError: the worker has ended; with its last words.
    """
    return _exchange(worker, {"job": job, "repetitions": repetitions})


def _exchange(worker: Worker, line: Row) -> Any:
    to, back = worker.process.stdin, worker.process.stdout
    assert to is not None and back is not None
    try:
        print(json.dumps(line), file=to, flush=True)
    except BrokenPipeError:
        to = None  # it has ended: there is nothing to read either
    said = back.readline() if to else ""
    if not said:
        words = worker.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((word.strip() for word in reversed(words) if word.strip()), "it said nothing")
        raise ValueError(f"{worker.name} ended with code {worker.process.wait()}: {last}")
    answer = json.loads(said)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["answer"]


def alternate(jobs: Mapping[str, tuple[Worker, str]], turns: Iterable[int], repetitions: int) -> dict[str, list[Any]]:
    """The answers of all jobs, turn by turn; every second turn goes backwards, so that a drift hits all alike.

    Args:
      jobs: by label, who does what.
      turns: 0, 1, 2, ...
      repetitions: of a job in a turn.
    """
    answers: dict[str, list[Any]] = {label: [] for label in jobs}
    for turn in turns:
        for label in list(jobs)[:: -1 if turn % 2 else 1]:
            answers[label].append(ask(*jobs[label], repetitions))
    return answers


def spread(values: list[float], digits: int = 4) -> list[float]:
    """Least, median and largest, to so many digits."""
    return [float(f"{value:.{digits}g}") for value in (min(values), median(values), max(values))]


# ---------------------------------------------------------------- the side that works


def serve(prepare: Callable[[Row], tuple[Row, dict[str, Job]]]) -> None:
    """Answer, one line each, until nobody asks; what libraries print goes to stderr.

    Args:
      prepare: settings -> what the worker says of itself, and its jobs; a ValueError is a refusal.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(kind: str, said: Any) -> None:
        print(json.dumps({kind: said}), file=answers, flush=True)

    try:
        about, jobs = prepare(json.loads(sys.stdin.readline()))
    except ValueError as error:
        answer("error", str(error))
        return
    answer("answer", about)
    for line in iter(sys.stdin.readline, ""):
        wanted = json.loads(line)
        answer("answer", jobs[wanted["job"]](wanted["repetitions"]))


def timed(build: Callable[[], Callable[[], Any]], wait: Callable[[Any], Any], parts: int = 1) -> Job:
    """The job of calling again and again: seconds of a part of a call, over all calls. Built when first asked for.

    Args:
      build: () -> what is called.
      wait: for the last call's result.
      parts: of a call.
    """
    built = cache(build)

    def job(repetitions: int) -> float:
        call, result = built(), None
        started = time.perf_counter()
        for _ in range(repetitions):
            result = call()
        wait(result)
        return (time.perf_counter() - started) / (repetitions * parts)

    return job


def memory(of_device: Callable[[], int] | None) -> Job:
    """The job that tells the most bytes in use at once since it was asked last; `since_start` where none can forget.

    Args:
      of_device: () -> the device's own count; None where the process's memory is the device's.
    """

    library = ctypes.CDLL(None)

    def job(repetitions: int) -> Row:
        if of_device:
            return {"bytes": of_device(), "since_start": True}
        if not STATUS.exists() or not CLEAR.exists():
            count = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            return {"bytes": count, "since_start": True}
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)  # what a compiler left behind is not the program's
        CLEAR.write_text("5")
        return {"bytes": int(line.split()[1]) * 1024, "since_start": False}

    return job


def threads() -> int:
    """The cores that this process may use: as many threads as XLA's own pool has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
