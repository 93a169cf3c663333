"""What keeps a run from harm: one trainer a workdir, no step after a number that is not finite, traces where asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from filelock import FileLock, Timeout

from ddpm_jax import processes
from ddpm_jax.recipes import TENTHS, Metrics, TrainState

LOCK = ".lock"


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Within, no other run trains in workdir. The system lets go of it when the process ends, however it ends.

    Raises:
      ValueError: another one does.
    """
    if not processes.first():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workdir / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another process trains in {workdir}: wait for it, stop it, or choose another --workdir"
        ) from error
    try:
        yield
    finally:
        lock.release()


def check_finite(metrics: Metrics | None, end: int, state: TrainState, workdir: Path) -> None:
    """Stop at a loss or gradient that is not finite.

    Args:
      metrics: of the steps of one call, the last of which made the state of step `end`; None for no call yet.
      end: see metrics.
      state: whose losses by noise level are told.
      workdir: where the last good checkpoint lies.

    Raises:
      FloatingPointError: names the step, a time, and the losses by noise level.
    """
    if metrics is None:
        return
    numbers = np.stack([np.asarray(metrics.loss), np.asarray(metrics.gradient_norm)])
    bad = ~np.isfinite(numbers).all(axis=0)
    if not bad.any():
        return
    i = int(bad.argmax())
    step, t = end - len(bad) + i + 1, int(metrics.bad_t[i])
    what = f"loss {numbers[0, i]:g} at step {step}" + (f", t = {t}" if t else f", gradient norm {numbers[1, i]:g}")
    means = (f"{(i + 1) / TENTHS:.1f}: {mean:.3g}" for i, mean in enumerate(np.asarray(state.recent.means)))
    raise FloatingPointError(
        f"{what}; loss by t/T up to {', '.join(means)}. Lower the learning rate; the last checkpoint in {workdir} is "
        "as it was"
    )


@contextmanager
def tracing(workdir: Path, window: tuple[int, int] | None) -> Iterator[Callable[[int], None]]:
    """Yields what is told the next step before every call, and writes a trace of the window's to workdir/profile."""
    running: list[bool] = []

    def at(step: int) -> None:
        wanted = window is not None and processes.first() and window[0] <= step <= window[1]
        if wanted and not running:
            jax.profiler.start_trace(str(workdir / "profile"))
            running.append(True)
        elif running and not wanted:
            jax.profiler.stop_trace()
            running.clear()

    try:
        yield at
    finally:
        if running:
            jax.profiler.stop_trace()
