"""Compiled programs stay in the user's cache folder, where the next start of the same command finds them."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import jax

SHORTEST = 0.2  # seconds of compiling that are worth a file
LARGEST = 4 * 2**30  # bytes of all files; what was not read for longest goes first
REQUEST, HIT = "/jax/compilation_cache/compile_requests_use_cache", "/jax/compilation_cache/cache_hits"
SPENT = "/jax/core/compile/backend_compile_duration"

_seen: Counter[str] = Counter()  # of this process; JAX tells its listeners and forgets


def folder() -> Path:
    """Of the programs, if the user names no other by JAX_COMPILATION_CACHE_DIR."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddpm_jax" / "xla"


@contextmanager
def kept() -> Iterator[None]:
    """Within, compiled programs are kept and found again; a line on stderr tells how many, if it took a second or more.

    A folder that the user has set for JAX, or a cache that is switched off, stays as it is.
    """
    if _where() is None:
        jax.config.update("jax_compilation_cache_dir", str(folder()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
        jax.config.update("jax_compilation_cache_max_size", LARGEST)
    _listen()
    before = Counter(_seen)
    yield
    requests, found = (_seen[name] - before[name] for name in (REQUEST, HIT))
    spent = (_seen[SPENT] - before[SPENT]) / 1000
    if spent >= 1 and jax.process_index() == 0:
        print(
            f"{requests - found} programs compiled and {found} read from {_where()} in {spent:.0f} s", file=sys.stderr
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
