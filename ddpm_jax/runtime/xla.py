"""Compiled programs: kept in the user's cache folder, and what the compiler says of one without running it.

`kept` stores programs where the next start of the same command finds them. `compiled` reads off memory, work and
collectives.
"""

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax

SHORTEST = 0.2  # seconds of compiling that are worth a file
LARGEST = 4 * 2**30  # bytes of all files; the least recently read are evicted first
REQUEST, HIT = "/jax/compilation_cache/compile_requests_use_cache", "/jax/compilation_cache/cache_hits"
SPENT = "/jax/core/compile/backend_compile_duration"

_seen: Counter[str] = Counter()  # of this process; JAX tells its listeners and forgets


def folder() -> Path:
    """Of the programs, if the user names no other by JAX_COMPILATION_CACHE_DIR."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddpm_jax" / "xla"


@contextmanager
def kept() -> Iterator[None]:
    """Cache compiled programs on disk within this context; stderr counts them if they took a second or more.

    A folder that the user has set for JAX, or a cache that is switched off, stays as it is.
    """
    if _where() is None:
        jax.config.update("jax_compilation_cache_dir", str(folder()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
        jax.config.update("jax_compilation_cache_max_size", LARGEST)
    _listen()
    before = Counter(_seen)
    yield
    requests, hits = (_seen[name] - before[name] for name in (REQUEST, HIT))
    seconds = (_seen[SPENT] - before[SPENT]) / 1000
    if seconds >= 1 and jax.process_index() == 0:
        print(
            f"{requests - hits} programs compiled and {hits} read from {_where()} in {seconds:.0f} s", file=sys.stderr
        )


def _where() -> str | None:
    return jax.config.values["jax_compilation_cache_dir"]


@cache
def _listen() -> None:
    jax.monitoring.register_event_listener(_count)
    jax.monitoring.register_event_duration_secs_listener(_add)


def _count(event: str, **about: str | int) -> None:
    _seen[event] += 1


def _add(event: str, duration_secs: float, **about: str | int) -> None:
    _seen[event] += round(1000 * duration_secs)


# XLA's names. An asynchronous pair is counted where it starts.
COLLECTIVES = (
    "all-reduce all-gather reduce-scatter all-to-all ragged-all-to-all collective-permute collective-broadcast".split()
)
OPERATION = re.compile(rf" = (?P<shape>.*?) (?P<kind>{'|'.join(COLLECTIVES)})(?P<start>-start)?\(")
ARRAY = re.compile(r"\b(?P<kind>pred|bf16|[sufc]\d+|f8\w*)\[(?P<shape>[\d,]*)\]")
BITS = re.compile(r"\d+")
# libtpu's two ways to say it: of all that is needed, and of temporaries that alone are too many.
OUT_OF_MEMORY = re.compile(
    r"[Uu]sed (?P<used>[\d.]+[KMG]?) of (?P<available>[\d.]+[KMG]?)"
    r"|required for HLO temporaries \((?P<temporaries>[\d.]+[KMG]?)\) exceeds available HBM \((?P<free>[\d.]+[KMG]?)\)"
)
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


class DoesNotFit(Exception):
    """The program needs more memory than a device has.

    Attributes:
      used: bytes that it needs, or its temporaries alone, as the compiler says it.
      available: bytes that a device has for it.
    """

    def __init__(self, used: int, available: int) -> None:
        super().__init__(f"it needs {used / 2**30:.2f} GiB and a device has {available / 2**30:.2f} GiB for it")
        self.used, self.available = used, available


class Collective(NamedTuple):
    """The collective operations of one kind.

    Attributes:
      kind: XLA's name.
      number: how many are in the program; one in a loop counts once.
      bytes: of all their results on a device.
    """

    kind: str
    number: int
    bytes: int


class Program(NamedTuple):
    """A compiled program. Work inside a loop is counted once, as the compiler does.

    Attributes:
      seconds: that compiling took.
      memory: bytes on a device, see `memory`.
      flops: floating-point operations on a device.
      bytes_accessed: of its memory.
      optimal_seconds: by the compiler's model of the device; None where it has none, or not of every operation.
      collectives: by kind.
    """

    seconds: float
    memory: int
    flops: float
    bytes_accessed: float
    optimal_seconds: float | None
    collectives: tuple[Collective, ...]


def compiled(lowered: jax.stages.Lowered, options: dict[str, Any] | None = None) -> Program:
    """Compile, and read the compiler's analyses.

    Args:
      lowered: the program.
      options: the compiler's.

    Raises:
      DoesNotFit: it needs more memory than a device has.
    """
    started = time.perf_counter()
    program = executable(lowered, options)
    seconds = time.perf_counter() - started
    cost = program.cost_analysis() or {}
    return Program(
        seconds=seconds,
        memory=memory(program),
        flops=cost.get("flops", 0.0),
        bytes_accessed=cost.get("bytes accessed", 0.0),
        optimal_seconds=modelled(cost),
        collectives=collectives(program.as_text() or ""),
    )


def executable(lowered: jax.stages.Lowered, options: dict[str, Any] | None = None) -> jax.stages.Compiled:
    """The program, compiled.

    Raises:
      DoesNotFit: it needs more memory than a device has, says the compiler.
    """
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        match = OUT_OF_MEMORY.search(str(error))
        if match is None:
            raise
        used, available = match["used"] or match["temporaries"], match["available"] or match["free"]
        raise DoesNotFit(_bytes(used), _bytes(available)) from error


def memory(program: jax.stages.Compiled) -> int:
    """Bytes on a device: arguments, results that are not aliased to them, temporaries and the code."""
    stats = program.memory_analysis()
    assert stats is not None  # all current backends report it
    return (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes
    )


def modelled(cost: Mapping[str, float]) -> float | None:
    """The seconds of a cost analysis. libtpu counts an operation that it has no model of as -1 second."""
    seconds = cost.get("optimal_seconds", -1.0)
    return seconds if seconds > 0 else None


def collectives(hlo: str) -> tuple[Collective, ...]:
    """The collectives in the text of a compiled program."""
    numbers, sizes = Counter[str](), Counter[str]()
    for line in hlo.splitlines():
        match = OPERATION.search(line)
        if match:
            arrays = [array_bytes(array) for array in ARRAY.finditer(match["shape"])]
            # What starts a gathering or a permutation gives its operands, then its results.
            pairs = match["start"] and match["kind"] != "all-reduce"
            numbers[match["kind"]] += 1
            sizes[match["kind"]] += sum(arrays[len(arrays) // 2 :] if pairs else arrays)
    return tuple(Collective(kind, numbers[kind], sizes[kind]) for kind in sorted(numbers))


def array_bytes(array: re.Match[str]) -> int:
    """The bytes of an array that ARRAY has found."""
    bits = BITS.search(array["kind"])
    item = max(1, int(bits[0]) // 8) if bits else 1
    return item * prod(int(n) for n in array["shape"].split(",") if n)


def _bytes(size: str) -> int:
    number = size.rstrip("KMG")
    return int(float(number) * UNITS[size[len(number) :]])
